"""What an endpoint does besides one answer: several requests at once, its metrics, an embedding.

Standard library, Python 3.8. None of it is needed to serve: what can't be had is None and a note.
"""

from __future__ import annotations

import math
import re
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..core.errors import HostFailedError
from .chat_client import ChatClient, NoAnswer

_OUTPUT_TOKENS = 32
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


def measure_parallel(
    client: ChatClient, model: str, requests: int, notes: List[str]
) -> Optional[Dict[str, Any]]:
    """Decode speed of `requests` answers at the same time, all together.

    {"requests", "tokens", "seconds", "tokens_per_second", "slowest_first_token_seconds"}; the
    clock starts before the first request, so that prefill is in it. None for a single request.
    """
    if requests < 2:
        return None
    done: List[Any] = []
    failed: List[str] = []

    def ask(number: int) -> None:
        question = "Count on from {} in words.".format(number)
        options: Dict[str, Any] = {"temperature": 0, "max_tokens": _OUTPUT_TOKENS}
        if model:
            options["model"] = model
        try:
            done.append(client.chat([{"role": "user", "content": question}], **options))
        except HostFailedError as error:
            failed.append(error.what)

    seconds = _at_once(ask, requests)
    if failed:
        notes.append("{} requests at once: {}".format(requests, failed[0]))
        return None
    tokens = sum(int(one.usage.get("completion_tokens") or 0) for one in done)
    firsts = [one.first_token_seconds for one in done if one.first_token_seconds is not None]
    if not tokens:
        notes.append("{} requests at once: the server tells no usage".format(requests))
        return None
    return {
        "requests": requests,
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 2),
        "slowest_first_token_seconds": round(max(firsts), 4) if firsts else None,
    }


def scrape(client: ChatClient, path: str, notes: List[str]) -> Optional[Dict[str, Any]]:
    """The engine's own counters: {"path", "samples", "names" (sorted)} in Prometheus' text format.

    None with a note where the path answers something else.
    """
    try:
        status, text = client.get(path)
    except NoAnswer as error:
        notes.append("metrics: {}".format(error))
        return None
    names = [name for name, value in _SAMPLE.findall(text) if _is_number(value)]
    if status != 200 or not names:
        notes.append("metrics: GET {} answered HTTP {} and no samples".format(path, status))
        return None
    return {"path": path, "samples": len(names), "names": sorted(set(names))}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def embed(client: ChatClient, model: str) -> Optional[int]:
    """Length of an embedding, None for a model or engine that makes none."""
    found = _vectors(client, model, ["1+1="])
    return len(found[0][0]) if found else None


ALIKE = (
    ("The cat is sleeping on the sofa.", "A kitten naps on the couch."),
    ("How do I reset my password?", "I forgot my login and need a new one."),
    ("Heavy rain is expected in the north tomorrow.", "The forecast says it will pour up there."),
)
"""Pairs that say nearly the same; two sentences of different pairs have nothing in common."""


def compare_meanings(client: ChatClient, model: str) -> Dict[str, Any]:
    """Whether the vectors of an embedding model know which sentences mean the same.

    {"length", "near": the smallest cosine within a pair, "far": the largest across pairs}. All
    sentences go in one request. Raises HostFailedError where no embedding comes.
    """
    sentences = [sentence for pair in ALIKE for sentence in pair]
    found = _vectors(client, model, sentences)
    if found is None or len(found[0]) == 0:
        raise HostFailedError(
            "POST /v1/embeddings gave no vectors",
            where=client.base_url,
            hint="the engine's log says why: infra-llm status, journalctl -u infra-llm",
        )
    vectors = found[0]
    near: List[float] = []
    far: List[float] = []
    for i, one in enumerate(vectors):
        for j in range(i):
            (near if i // 2 == j // 2 else far).append(cosine(one, vectors[j]))
    return {"length": len(vectors[0]), "near": round(min(near), 4), "far": round(max(far), 4)}


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine of the angle between two vectors; 0 where one of them is 0."""
    product = sum(a * b for a, b in zip(one, other))
    lengths = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return product / lengths if lengths else 0.0


def measure_reading(client: ChatClient, model: str, text: str) -> Optional[Dict[str, Any]]:
    """Tokens a second that an embedding model reads of a text, as `measure_speed` tells speeds."""
    started = time.monotonic()
    found = _vectors(client, model, [text])
    seconds = time.monotonic() - started
    if not found or not found[1]:
        return None
    return {
        "prefill_tokens": found[1],
        "prefill_tokens_per_second": round(found[1] / seconds, 2),
        "decode_tokens": 0,
        "decode_tokens_per_second": None,
        "first_token_seconds": None,
        "source": "clock",
    }


def embed_parallel(
    client: ChatClient, model: str, requests: int, notes: List[str]
) -> Optional[Dict[str, Any]]:
    """Tokens read of `requests` texts at the same time, as `measure_parallel` tells answers."""
    if requests < 2:
        return None
    tokens: List[int] = []

    def ask(number: int) -> None:
        text = " ".join("{} and {}".format(number, more) for more in range(30))
        found = _vectors(client, model, [text])
        tokens.append(found[1] if found else 0)

    seconds = _at_once(ask, requests)
    if len(tokens) < requests or not all(tokens):
        notes.append("{} texts at once: not all were embedded".format(requests))
        return None
    return {
        "requests": requests,
        "tokens": sum(tokens),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(sum(tokens) / seconds, 2),
        "slowest_first_token_seconds": None,
    }


def _vectors(
    client: ChatClient, model: str, texts: List[str]
) -> Optional[Tuple[List[List[float]], int]]:
    """(a vector for each text, tokens read), None for a model or engine that makes none."""
    body = {"input": texts, **({"model": model} if model else {})}
    try:
        answer = client.post("/v1/embeddings", body)
        rows = sorted(answer["data"], key=lambda row: int(row.get("index") or 0))
        vectors = [[float(number) for number in row["embedding"]] for row in rows]
        tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
    except (NoAnswer, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    return (vectors, tokens) if len(vectors) == len(texts) and all(vectors) else None


def _at_once(ask: Callable[[int], None], requests: int) -> float:
    """Seconds until all of them are answered."""
    started = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started
