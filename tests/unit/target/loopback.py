"""A loopback HTTP server that serves files and misbehaves on demand (a stand-in)."""

from __future__ import annotations

import hashlib
import io
import re
import ssl
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TLS = Path(__file__).parent / "tls"
"""A certificate of these tests' own for 127.0.0.1."""


@dataclass
class Served:
    content: bytes
    etag: str = ""
    ranges: bool = True
    content_type: str = "application/octet-stream"
    statuses: list[int] = field(default_factory=list)
    """Answers given first, one a request, before the content is served."""
    drop_after: list[int] = field(default_factory=list)
    """Bytes after which the connection breaks, one a request."""
    content_length: int | None = None
    stall_after: int | None = None
    stall_seconds: float = 3.0
    redirect: str = ""
    on_drop: object = None


class Loopback:
    """Serves `files`; `requests` are (path, headers) as they came."""

    def __init__(self, tls: bool = False) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.bytes_sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers.items())))
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ranges_asked(self, path: str) -> list[str | None]:
        return [headers.get("Range") for asked, headers in self.requests if asked == path]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        served = self.files.get(handler.path)
        if served is None:
            return self._plain(handler, 404)
        if served.statuses:
            return self._plain(handler, served.statuses.pop(0))
        if served.redirect:
            handler.send_response(302)
            handler.send_header("Location", served.redirect)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None
        return self._content(handler, served)

    def _plain(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _content(self, handler: BaseHTTPRequestHandler, served: Served) -> None:
        body, total = served.content, len(served.content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
        condition = handler.headers.get("If-Range")
        if asked and served.ranges and (condition is None or condition == served.etag):
            start = int(asked.group(1))
            end = min(int(asked.group(2)) if asked.group(2) else total - 1, total - 1)
            if start >= total:
                return self._plain(handler, 416)
            body = body[start : end + 1]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Type", served.content_type)
        if served.etag:
            handler.send_header("ETag", served.etag)
        length = len(body) if served.content_length is None else served.content_length
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        return self._send(handler, served, body)

    def _send(self, handler: BaseHTTPRequestHandler, served: Served, body: bytes) -> None:
        drop = served.drop_after.pop(0) if served.drop_after else None
        try:
            if drop is not None:
                handler.wfile.write(body[:drop])
                handler.close_connection = True
                if callable(served.on_drop):
                    served.on_drop()
                return
            if served.stall_after is not None:
                handler.wfile.write(body[: served.stall_after])
                handler.wfile.flush()
                time.sleep(served.stall_seconds)
                handler.close_connection = True
                return
            for start in range(0, len(body), 65536):
                # Counted first: the client may be done before the next line runs.
                self.bytes_sent += len(body[start : start + 65536])
                handler.wfile.write(body[start : start + 65536])
            if served.content_length is not None:
                handler.close_connection = True
        except OSError:
            handler.close_connection = True


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artifact(content: bytes, *places: dict[str, object], **other: object) -> dict[str, object]:
    return {
        "name": "tiny",
        "version": "1",
        "filename": "tiny.gguf",
        "sha256": sha256(content),
        "size": len(content),
        "licence": "MIT",
        "places": list(places),
        **other,
    }


def wheel(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


class _Unseekable(io.RawIOBase):
    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(data)  # type: ignore[arg-type]


def streamed_wheel(members: dict[str, bytes]) -> bytes:
    """A zip written without seeking: sizes stand in data descriptors after each member."""
    out = _Unseekable()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            archive.writestr(name, content)
    return bytes(out.data)
