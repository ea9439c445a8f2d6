#!/usr/bin/env python3
"""What the stand-in for Ollama may start where no model is needed: healthy, with a log of its own.

Packed as lib/ollama/llama-server by unit tests; LOG in the environment is what it prints.
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if os.environ.get("DIES"):
    sys.exit("error loading model")
print(os.environ.get("LOG", ""), flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
