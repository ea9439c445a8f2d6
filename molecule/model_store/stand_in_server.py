"""A stand-in for a file server: serves a folder with ranges, and breaks off once in every file.

python3 stand_in_server.py FOLDER PORT
"""

import http.server
import sys
from pathlib import Path

BROKEN = set()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET, whole or from `Range: bytes=N-`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """The first answer for a path ends in the middle."""
        file = Path(sys.argv[1], Path(self.path).name)
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content)
        if self.path not in BROKEN:
            BROKEN.add(self.path)
            end, self.close_connection = len(content) // 2, True
        self.wfile.write(content[start:end])


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
