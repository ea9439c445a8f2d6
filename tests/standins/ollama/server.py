"""Stand-in for `ollama serve`: the part of its API that infra-llm and its tests use.

Like the real one it keeps blobs and manifests below OLLAMA_MODELS, writes the weights of a GGUF
file anew, makes a key below HOME, and starts lib/ollama/llama-server for a model when it is asked,
whose log it passes on. Standard library, Python 3.11. Behaviour after ollama's server/routes.go,
server/create.go and llm/llama_server.go. build.py packs it as bin/ollama with lib/ollama/stand_in/.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runner import LIBRARY, RUNNER, say
from store import STORE, RefusedError

ABOUT: dict[str, Any] = json.loads((LIBRARY / "stand-in.json").read_text())
"""{"version", "answer": what it answers to everything, "" to ask the model}."""


def create(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    layers: dict[str, str] = {}
    params: dict[str, Any] = {}
    if request.get("from"):
        base = STORE.read(request["from"])
        layers, params = dict(base["layers"]), base["params"]
    elif request.get("files"):
        for digest in request["files"].values():
            path = STORE.blob(digest)
            yield {"status": "parsing GGUF"}
            try:
                with path.open("rb") as stream:
                    if stream.read(4) != b"GGUF":
                        raise RefusedError(400, "only GGUF is supported")
                    stream.seek(0)
                    # llama-quantize's copy is another file with the same weights.
                    layers["model"] = STORE.put(stream, path.stat().st_size, b"\0" * 32)
            except FileNotFoundError as error:
                raise RefusedError(400, f"no such blob {digest}") from error
    else:
        raise RefusedError(400, "neither 'from' or 'files' was specified")
    params.update(request.get("parameters") or {})
    layers["params"] = STORE.put_text(json.dumps(params, sort_keys=True))
    if request.get("license"):
        layers["license"] = STORE.put_text(str(request["license"]))
    yield {"status": "writing manifest"}
    STORE.write(request["model"], layers)
    yield {"status": "success"}


def show(name: str) -> dict[str, Any]:
    model = STORE.read(name)
    lines = [f"{key:<30} {value}" for key, value in model["params"].items()]
    return {
        "license": model["license"],
        "parameters": "\n".join(lines),
        "modelfile": "# Modelfile\nFROM {}\n".format(model["model"]),
        "details": {"format": "gguf"},
        "model_info": {},
    }


def tags() -> list[dict[str, Any]]:
    return [{"name": n, "model": n, "digest": STORE.read(n)["digest"]} for n in STORE.names()]


def completion(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Chunks of a chat completion as llama-server streams them, usage in the last."""
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    name = str(body.get("model") or "")
    port = RUNNER.use(name)
    if ABOUT["answer"]:
        yield {"choices": [{"index": 0, "delta": {"content": ABOUT["answer"]}}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
               "usage": {"prompt_tokens": 1, "completion_tokens": 1}}  # fmt: skip
        return
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/v1/chat/completions", json.dumps(body).encode("utf-8"))
    response = connection.getresponse()
    if response.status != 200:
        raise RefusedError(response.status, response.read().decode("utf-8", "replace"))
    for raw in response:
        line = raw.decode("utf-8").strip()
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            chunk = json.loads(line[5:])
            # Only llama-server has these.
            chunk.pop("timings", None)
            yield {**chunk, "model": name}


def joined(chunks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    text, last = "", {}  # type: str, dict[str, Any]
    for chunk in chunks:
        last = {**last, **{k: v for k, v in chunk.items() if k != "choices" and v is not None}}
        for choice in chunk.get("choices") or []:
            text += choice.get("delta", {}).get("content") or ""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "created": 0, **last, "object": "chat.completion",
            "choices": [choice]}  # fmt: skip


def native(request: dict[str, Any], messages: list[dict[str, str]], kind: str) -> Iterator[Any]:
    """The NDJSON of /api/chat and /api/generate."""
    options = request.get("options") or {}
    body: dict[str, Any] = {"model": request["model"], "messages": messages}
    for name, other in (("num_predict", "max_tokens"), ("temperature",) * 2, ("seed",) * 2):
        if name in options:
            body[other] = options[name]
    started, usage = time.monotonic(), {}  # type: float, dict[str, Any]
    about = {"model": request["model"], "created_at": "2026-01-01T00:00:00Z"}

    def piece(text: str) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}}
        return {**about, **(said if kind == "chat" else {"response": text}), "done": False}

    for chunk in completion(body):
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or []:
            text = choice.get("delta", {}).get("content")
            if text:
                yield piece(text)
    yield {
        **piece(""),
        "done": True,
        "done_reason": "stop",
        "total_duration": int((time.monotonic() - started) * 1e9),
        "prompt_eval_count": usage.get("prompt_tokens"),
        "eval_count": usage.get("completion_tokens"),
    }


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._guard(self._get)

    def do_HEAD(self) -> None:
        self._guard(self._head)

    def do_POST(self) -> None:
        self._guard(self._post)

    def do_DELETE(self) -> None:
        self._guard(lambda: (STORE.manifest(self._json()["model"]).unlink(), self._answer({})))

    def _guard(self, act: Any) -> None:
        self._begun = False
        try:
            act()
        except RefusedError as error:
            if self._begun:
                self._line({"error": error.text, "status": error.status})
            else:
                self._answer({"error": error.text}, error.status)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _get(self) -> None:
        answers = {
            "/": lambda: "Ollama is running",
            "/api/version": lambda: {"version": ABOUT["version"]},
            "/api/tags": lambda: {"models": tags()},
            "/api/ps": lambda: {"models": RUNNER.loaded()},
            "/v1/models": lambda: {
                "object": "list",
                "data": [{"id": tag["name"], "object": "model"} for tag in tags()],
            },
        }
        if self.path not in answers:
            raise RefusedError(404, "404 page not found")
        self._answer(answers[self.path]())

    def _head(self) -> None:
        there = True
        if self.path.startswith("/api/blobs/"):
            there = STORE.blob(self.path.rpartition("/")[2]).exists()
        self.send_response(200 if there else 404)
        self.end_headers()

    def _post(self) -> None:
        if self.path.startswith("/api/blobs/"):
            self._take_blob(self.path.rpartition("/")[2])
            return
        request = self._json()
        chunks: Iterator[Any]
        if self.path == "/api/show":
            self._answer(show(request["model"]))
        elif self.path == "/api/create":
            self._lines(create(request), request)
        elif self.path == "/api/generate" and not request.get("prompt"):
            RUNNER.use(request["model"])
            self._answer({"model": request["model"], "response": "", "done": True,
                          "done_reason": "load"})  # fmt: skip
        elif self.path == "/api/generate":
            messages = [{"role": "user", "content": request["prompt"]}]
            self._lines(native(request, messages, "generate"), request)
        elif self.path == "/api/chat":
            self._lines(native(request, request["messages"], "chat"), request)
        elif self.path == "/v1/chat/completions":
            chunks = completion(request)
            if request.get("stream"):
                self._events(chunks, request)
            else:
                self._answer(joined(chunks))
        else:
            raise RefusedError(404, "404 page not found")

    def _take_blob(self, wanted: str) -> None:
        path = STORE.blob(wanted)
        if not path.exists():
            digest = STORE.put(self.rfile, int(self.headers["Content-Length"]))
            if digest != wanted:
                STORE.blob(digest).unlink()
                raise RefusedError(400, "digest mismatch, got " + digest)
        self.send_response(201)
        self.end_headers()

    def _json(self) -> dict[str, Any]:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return dict(json.loads(raw))
        except (ValueError, TypeError) as error:
            raise RefusedError(400, "invalid request") from error

    def _answer(self, document: Any, status: int = 200) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        self.send_response(status)
        kind = "text/plain" if isinstance(document, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode("utf-8"))

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self._begun = True

    def _lines(self, documents: Iterator[Any], request: dict[str, Any]) -> None:
        """A line each, or with "stream": false only the whole."""
        if request.get("stream", True):
            for document in documents:
                if not self._begun:
                    self._begin("application/x-ndjson")
                self._line(document)
            return
        text, last = "", {}  # type: str, dict[str, Any]
        for last in documents:
            text += (last.get("message") or {}).get("content", "") + last.get("response", "")
        if "message" in last:
            last["message"]["content"] = text
        elif "response" in last:
            last["response"] = text
        self._answer(last)

    def _line(self, document: Any) -> None:
        self.wfile.write(json.dumps(document).encode("utf-8") + b"\n")
        self.wfile.flush()

    def _events(self, chunks: Iterator[Any], request: dict[str, Any]) -> None:
        with_usage = (request.get("stream_options") or {}).get("include_usage")
        for chunk in chunks:
            if not with_usage:
                chunk.pop("usage", None)
            if not self._begun:
                self._begin("text/event-stream")
            self.wfile.write(b"data: " + json.dumps(chunk).encode("utf-8") + b"\n\n")
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")


def serve() -> None:
    key = Path(os.environ["HOME"], ".ollama", "id_ed25519")
    key.parent.mkdir(exist_ok=True)
    key.write_text("stand-in for a key\n")
    STORE.prune()
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    told = {k: v for k, v in os.environ.items() if k.startswith(("OLLAMA_", "LLAMA_ARG_"))}
    say("server config " + json.dumps(told, sort_keys=True))
    if host.startswith("["):
        ThreadingHTTPServer.address_family = socket.AF_INET6
    server = ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    say("listening on {}:{} (version {})".format(host, port, ABOUT["version"]))

    def end(*_: Any) -> None:
        RUNNER.stop()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    server.serve_forever()


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        serve()
    elif sys.argv[1:] == ["--version"]:
        sys.stdout.write("ollama version is {}\n".format(ABOUT["version"]))
    else:
        sys.exit("this stand-in knows serve and --version")
