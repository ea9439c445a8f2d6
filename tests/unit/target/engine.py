"""A stand-in for llama-server's HTTP side: health, models, streamed chat completions."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Engine:
    def __init__(self) -> None:
        self.health = [200]
        """Answers to come; the last one stays."""
        self.answer = ["1 + 1", " = 2"]
        self.delta = "content"
        self.final: dict[str, Any] = {
            "usage": {"prompt_tokens": 300, "completion_tokens": 64},
            "timings": {"prompt_n": 300, "prompt_ms": 1500.0,
                        "predicted_n": 64, "predicted_ms": 630.0},
        }  # fmt: skip
        self.refuse: dict[str, Any] | None = None
        self.unknown_fields_refused = False
        self.break_off = False
        self.unstreamed: dict[str, Any] | None = None
        """What a request that is not streamed is answered with."""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                outer.headers.append(dict(self.headers.items()))
                if self.path == "/health":
                    status = outer.health.pop(0) if len(outer.health) > 1 else outer.health[0]
                    self.send(status, b"{}")
                else:
                    self.send(200, json.dumps({"data": [{"id": "tiny"}]}).encode())

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked)
                if outer.refuse or (outer.unknown_fields_refused and "ignore_eos" in asked):
                    error = outer.refuse or {"message": "unknown field"}
                    return self.send(400, json.dumps({"error": error}).encode())
                if outer.unstreamed is not None and not asked.get("stream"):
                    return self.send(200, json.dumps(outer.unstreamed).encode())
                self.send_response(200)
                self.end_headers()
                for text in outer.answer:
                    self.event({"choices": [{"delta": {outer.delta: text}}]})
                if not outer.break_off:
                    self.event({"choices": [], **outer.final})
                    self.wfile.write(b"data: [DONE]\n\n")
                return None

            def event(self, data: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
