"""What an endpoint does besides one answer: several requests at once, its metrics, an embedding.

Standard library, Python 3.8. None of it is needed to serve: what can't be had is None and a note.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Any, Dict, List, Optional

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

    started = time.monotonic()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
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
    body = {"input": "1+1=", **({"model": model} if model else {})}
    try:
        answer = client.post("/v1/embeddings", body)
        return len(answer["data"][0]["embedding"]) or None
    except (NoAnswer, KeyError, IndexError, TypeError):
        return None
