"""What waits for the first answer, against a stand-in of an engine's HTTP side."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra_llm.content import content_root

SCRIPT = content_root() / "roles" / "llm_service" / "files" / "ready.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("ready", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Engine:
    """Answers each path with the statuses given, the last one for ever."""

    def __init__(self, **statuses: list[int]) -> None:
        self.statuses = {"/" + path.replace("_", "/"): codes for path, codes in statuses.items()}
        self.asked: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                outer.asked.append((self.path, self.headers.get("Authorization", "")))
                codes = outer.statuses.get(self.path, [404])
                status = codes.pop(0) if len(codes) > 1 else codes[0]
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def do_POST(self) -> None:
                self.do_GET()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def launch(self, **more: Any) -> dict[str, Any]:
        ready = {"health": "/health", "answer": True, "seconds": 5, **more.pop("ready", {})}
        port = self.server.server_address[1]
        return {"host": "127.0.0.1", "port": port, "alias": "m", "ready": ready, **more}


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.server.shutdown()


def make(engines: list[Engine], **statuses: list[int]) -> Engine:
    engines.append(Engine(**statuses))
    return engines[-1]


def test_it_waits_for_health_and_then_for_a_completion(engines: list[Engine]) -> None:
    engine = make(engines, health=[503, 503, 200], v1_completions=[503, 200])
    script().wait(engine.launch(), 0)
    assert [path for path, _ in engine.asked] == [
        "/health", "/health", "/health", "/v1/completions", "/health", "/v1/completions",
    ]  # fmt: skip


def test_a_model_that_only_embeds_is_asked_for_nothing_else(engines: list[Engine]) -> None:
    """llama-server answers a completion with 500 then, which is an error of any other model."""
    engine = make(engines, health=[200], v1_completions=[500], v1_embeddings=[503, 200])
    script().wait(engine.launch(ready={"embeds": True}), 0)
    assert [path for path, _ in engine.asked if path != "/health"] == ["/v1/embeddings"] * 2


def test_an_engine_that_is_told_later_need_not_answer_yet(engines: list[Engine]) -> None:
    engine = make(engines, health=[200])
    script().wait(engine.launch(ready={"answer": False}), 0)
    assert [path for path, _ in engine.asked] == ["/health"]


def test_the_key_comes_from_its_file(engines: list[Engine], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    engine = make(engines, health=[200], v1_completions=[200])
    script().wait(engine.launch(api_key_file=str(key)), 0)
    assert engine.asked[-1] == ("/v1/completions", "Bearer secret")


def test_silence_ends_with_the_last_word(engines: list[Engine]) -> None:
    engine = make(engines, health=[200], v1_completions=[500])
    with pytest.raises(SystemExit, match=r"did not answer within 1 s \(HTTP 500"):
        script().wait(engine.launch(ready={"seconds": 1}), 0)


def test_an_engine_that_died_is_not_waited_for(engines: list[Engine]) -> None:
    engine = make(engines, health=[503])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    started = time.monotonic()
    with pytest.raises(SystemExit, match="ended before it answered"):
        script().wait(engine.launch(ready={"seconds": 60}), dead.pid)
    assert time.monotonic() - started < 10


def test_it_runs_as_a_program(engines: list[Engine], tmp_path: Path) -> None:
    engine = make(engines, health=[200], v1_completions=[200])
    launch = engine.launch()
    del launch["ready"]  # a launch file of an earlier version
    path = tmp_path / "launch.json"
    path.write_text(json.dumps(launch))
    subprocess.run([sys.executable, "-I", str(SCRIPT), str(path)], check=True, timeout=30)
