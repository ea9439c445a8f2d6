"""Serve a model by llama-cpp-python's OpenAI-compatible server.

    python serve.py /etc/infra-llm/llama-cpp-python.json

The file is the server's own configuration. Its libraries are those of a build of llama.cpp whose
backends are files of their own; ggml looks for them beside the program, which is Python here, so
they are loaded from where they are. /health and /metrics are added: the server has neither.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp
import uvicorn
from llama_cpp import _ggml
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ConfigFileSettings, ServerSettings
from starlette.responses import JSONResponse, PlainTextResponse


def main():
    load_backends()
    with open(sys.argv[1], encoding="utf-8") as file:
        settings = ConfigFileSettings.model_validate(json.load(file))
    server = ServerSettings.model_validate(settings, from_attributes=True)
    app = create_app(server_settings=server, model_settings=settings.models)
    counts = Counts(app)
    app.add_route("/health", lambda _request: JSONResponse({"status": "ok"}))
    app.add_route("/metrics", lambda _request: PlainTextResponse(counts.text()))
    uvicorn.run(
        counts,
        host=server.host,
        port=server.port,
        ssl_keyfile=server.ssl_keyfile,
        ssl_certfile=server.ssl_certfile,
    )


def load_backends():
    folder = os.path.realpath(os.path.join(os.path.dirname(llama_cpp.__file__), "lib"))
    load = _ggml.libggml.ggml_backend_load_all_from_path
    load.argtypes, load.restype = [ctypes.c_char_p], None
    load(folder.encode())


class Counts:
    """Counts requests and their time, in the text format of Prometheus."""

    def __init__(self, app):
        self.app = app
        self.requests = {}
        self.seconds = 0.0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()

        async def counted(message):
            if message["type"] == "http.response.start":
                key = (scope["path"], message["status"])
                # Paths of all kinds are asked for; only those that exist are kept apart.
                key = key if message["status"] != 404 else ("other", 404)
                self.requests[key] = self.requests.get(key, 0) + 1
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            self.seconds += time.monotonic() - started

    def text(self):
        lines = ["# TYPE llama_cpp_python_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(
                'llama_cpp_python_requests_total{path="%s",status="%d"} %d' % (path, status, count)
            )
        lines.append("# TYPE llama_cpp_python_request_seconds_total counter")
        lines.append("llama_cpp_python_request_seconds_total %.3f" % self.seconds)
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
