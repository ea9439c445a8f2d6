"""Several requests at once, metrics and embeddings, against a stand-in of an engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.chat_client import ChatClient
from infra_llm.target.endpoint_load import (
    compare_meanings,
    embed,
    embed_parallel,
    measure_parallel,
    measure_reading,
    scrape,
)

METRICS = """# HELP llamacpp:tokens_predicted_total Number of generation tokens processed.
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 64
llamacpp:requests_processing{slot="0"} 1.5e+00
vllm:histogram_bucket{le="+Inf"} 3
"""


class Engine:
    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.tokens: int | None = 32
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                status, text = outer.answers.get(self.path, (404, "{}"))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.path in outer.answers:
                    return self.do_GET()
                with outer.lock:
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                time.sleep(0.3)
                with outer.lock:
                    outer.at_once -= 1
                self.send_response(200)
                self.end_headers()
                usage = {"completion_tokens": outer.tokens} if outer.tokens else None
                for event in (
                    {"choices": [{"delta": {"content": "x"}}]},
                    {"choices": [], "usage": usage},
                ):
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.client = ChatClient(f"http://127.0.0.1:{self.server.server_address[1]}")


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.server.shutdown()


def test_requests_are_really_at_once(engine: Engine) -> None:
    notes: list[str] = []
    found = measure_parallel(engine.client, "m", 4, notes)
    assert found is not None
    assert engine.most_at_once == 4
    assert (found["requests"], found["tokens"]) == (4, 128)
    assert found["tokens_per_second"] == pytest.approx(128 / found["seconds"], rel=0.01)
    assert notes == []


def test_one_slot_is_not_measured_twice(engine: Engine) -> None:
    assert measure_parallel(engine.client, "m", 1, []) is None


def test_a_server_that_refuses_or_tells_nothing_is_a_note(engine: Engine) -> None:
    notes: list[str] = []
    engine.tokens = None
    assert measure_parallel(engine.client, "m", 2, notes) is None
    engine.answers["/v1/chat/completions"] = (500, "{}")
    assert measure_parallel(engine.client, "m", 2, notes) is None
    assert "no usage" in notes[0]
    assert "HTTP 500" in notes[1]


def test_metrics_are_counted(engine: Engine) -> None:
    engine.answers["/metrics"] = (200, METRICS)
    found = scrape(engine.client, "/metrics", [])
    assert found is not None
    assert found["samples"] == 3
    assert "llamacpp:tokens_predicted_total" in found["names"]


@pytest.mark.parametrize("answer", [(404, "{}"), (200, "<html>"), (501, METRICS), (200, "a b c")])
def test_what_is_no_metrics_is_a_note(engine: Engine, answer: tuple[int, str]) -> None:
    engine.answers["/metrics"] = answer
    notes: list[str] = []
    assert scrape(engine.client, "/metrics", notes) is None
    assert "GET /metrics answered HTTP" in notes[0]


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        ((200, json.dumps({"data": [{"embedding": [0.1] * 576}]})), 576),
        ((501, "{}"), None),
        ((200, "nonsense"), None),
        ((200, json.dumps({"data": []})), None),
    ],
)
def test_an_embedding_is_its_length(engine: Engine, answer: tuple[int, str], length: Any) -> None:
    engine.answers["/v1/embeddings"] = answer
    assert embed(engine.client, "m") == length


def vectors(rows: list[list[float]], tokens: int = 12) -> tuple[int, str]:
    data = [{"index": n, "embedding": row} for n, row in enumerate(rows)]
    return 200, json.dumps({"data": data[::-1], "usage": {"prompt_tokens": tokens}})


def test_meanings_are_compared_in_the_order_that_was_asked(engine: Engine) -> None:
    alike = [[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1], [0.1, 0, 1]]
    engine.answers["/v1/embeddings"] = vectors(alike)
    found = compare_meanings(engine.client, "m")
    assert found["length"] == 3
    assert found["near"] == pytest.approx(1 / 1.01**0.5, abs=1e-4)
    assert found["far"] == pytest.approx(0.1 / 1.01**0.5, abs=1e-3)


def test_a_model_that_knows_no_meanings_is_seen(engine: Engine) -> None:
    engine.answers["/v1/embeddings"] = vectors([[1, 0], [0, 1]] * 3)
    found = compare_meanings(engine.client, "m")
    assert found["near"] < found["far"]


@pytest.mark.parametrize("answer", [(500, "{}"), vectors([[0.1]]), vectors([[]] * 6)])
def test_no_vectors_is_an_error_with_a_hint(engine: Engine, answer: tuple[int, str]) -> None:
    engine.answers["/v1/embeddings"] = answer
    with pytest.raises(HostFailedError, match="gave no vectors") as caught:
        compare_meanings(engine.client, "m")
    assert caught.value.hint


def test_reading_is_measured_alone_and_at_once(engine: Engine) -> None:
    engine.answers["/v1/embeddings"] = vectors([[0.5, 0.5]], tokens=200)
    speed = measure_reading(engine.client, "m", "a text")
    assert speed is not None
    assert speed["prefill_tokens"] == 200
    assert speed["decode_tokens_per_second"] is None
    notes: list[str] = []
    found = embed_parallel(engine.client, "m", 3, notes)
    assert found is not None
    assert (found["requests"], found["tokens"], notes) == (3, 600, [])
    assert embed_parallel(engine.client, "m", 1, notes) is None
    engine.answers["/v1/embeddings"] = (500, "{}")
    assert embed_parallel(engine.client, "m", 2, notes) is None
    assert "not all were embedded" in notes[0]
