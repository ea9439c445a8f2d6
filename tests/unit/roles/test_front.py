"""The front as a process of its own: real TLS, a real key, before a stand-in of an engine."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra_llm.content import content_root
from infra_llm.core.access import Certificate
from infra_llm.readers.site_ca import site_certificate

SCRIPT = content_root() / "roles" / "llm_access" / "files" / "front.py"
KEY = "the-key-of-this-test-0001"


class Engine:
    """Keeps what it was asked, and streams an answer in pieces."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.broken_off = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.asked.append({"path": self.path, "headers": headers, "body": body})
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for _ in range(200 if self.path == "/endless" else 3):
                        self.wfile.write(b"6\r\npiece \r\n")
                        self.wfile.flush()
                        time.sleep(0.02)
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    outer.broken_off.set()

            def do_POST(self) -> None:
                self.do_GET()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Front:
    def __init__(self, folder: Path, engine_port: int, certificate: Certificate, **changes: Any):
        self.port = free_port()
        credentials = folder / f"credentials{self.port}"
        credentials.mkdir()
        (credentials / "api-key").write_text(KEY + "\n")
        (credentials / "tls.crt").write_bytes(Path(certificate.certificate).read_bytes())
        (credentials / "tls.key").write_bytes(Path(certificate.key).read_bytes())
        settings = {
            "bind": "127.0.0.1", "port": self.port, "engine_port": engine_port, "networks": [],
            "open_paths": ["/health"], "key": True, "tls": {"kind": "site"}, **changes,
        }  # fmt: skip
        path = folder / f"front{self.port}.json"
        path.write_text(json.dumps(settings))
        self.context = ssl.create_default_context(cafile=certificate.ca)
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), str(path)],
            env={**os.environ, "CREDENTIALS_DIRECTORY": str(credentials)},
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.context)

    def ask(self, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        connection = self.connect()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST" if body else "GET", path, body, named)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.server.shutdown()


@pytest.fixture
def front(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Front]]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    certificate = site_certificate("node1", ["node1", "127.0.0.1"])
    made: list[Front] = []

    def make(**changes: Any) -> Front:
        made.append(Front(tmp_path, changes.pop("at", engine.port), certificate, **changes))
        return made[-1]

    yield make
    for one in made:
        one.process.terminate()
        one.process.wait(20)


def test_the_right_key_reaches_the_engine_which_never_sees_it(
    front: Callable[..., Front], engine: Engine
) -> None:
    door = front()
    assert door.ask("/v1/x", "a body", Authorization=f"Bearer {KEY}") == (200, "piece " * 3)
    assert door.ask("/v1/x", x_api_key=KEY)[0] == 200
    asked = engine.asked[0]
    assert (asked["path"], asked["body"]) == ("/v1/x", "a body")
    assert KEY not in json.dumps(engine.asked)
    assert asked["headers"]["connection"] == "close"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {KEY}"},
        {"x_api_key": ""},
        {"x_api_key": KEY[:-1]},
    ],
)
def test_without_the_key_there_is_nothing(
    front: Callable[..., Front], engine: Engine, headers: dict[str, str]
) -> None:
    status, text = front().ask("/v1/models", **headers)
    assert status == 401
    assert json.loads(text)["error"]["type"] == "authentication_error"
    assert engine.asked == []


def test_health_needs_no_key_and_no_other_path_passes_for_it(
    front: Callable[..., Front], engine: Engine
) -> None:
    door = front()
    assert door.ask("/health")[0] == 200
    assert door.ask("/health?deep=1")[0] == 200
    assert [door.ask(path)[0] for path in ("/health/../slots", "//health", "/healthz")] == [401] * 3


def test_a_second_request_on_a_connection_is_not_let_in_unseen(
    front: Callable[..., Front], engine: Engine
) -> None:
    """The engine is told to close: what is piped behind an open path never gets an answer."""
    with _closing(front()) as channel:
        channel.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /slots HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        said = b""
        while piece := channel.recv(65536):
            said += piece
    assert said.count(b"HTTP/1.1 200") == 1
    assert [asked["path"] for asked in engine.asked] == ["/health"]


def _closing(door: Front) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", door.port), 20)
    return door.context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad : space\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\nAuthorization: Bearer y\r\n\r\n",
        b"CONNECT host:1 HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        b"\x00\xff\r\n\r\n",
    ],
)
def test_garbage_is_refused_and_the_front_lives(
    front: Callable[..., Front], engine: Engine, head: bytes
) -> None:
    door = front()
    with _closing(door) as channel:
        channel.sendall(head)
        assert channel.recv(65536).split(b" ")[1] in (b"400", b"431")
    assert door.ask("/health")[0] == 200
    assert len(engine.asked) == 1


def test_a_client_without_tls_gets_nothing(front: Callable[..., Front], engine: Engine) -> None:
    door = front()
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("GET", "/health")
        connection.getresponse()
    assert engine.asked == []


def test_old_protocols_are_refused(front: Callable[..., Front]) -> None:
    door = front()
    door.context.maximum_version = ssl.TLSVersion.TLSv1_1
    door.context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.raises((ssl.SSLError, OSError)):
        door.ask("/health")


def test_an_engine_that_is_not_there_is_said(front: Callable[..., Front]) -> None:
    status, text = front(at=free_port()).ask("/v1/models", x_api_key=KEY)
    assert status == 503
    assert "does not answer yet" in text


def test_a_client_that_goes_away_ends_the_engines_work(
    front: Callable[..., Front], engine: Engine
) -> None:
    channel = _closing(front())
    channel.sendall(f"GET /endless HTTP/1.1\r\nX-Api-Key: {KEY}\r\n\r\n".encode())
    assert b"200" in channel.recv(100)
    channel.close()
    assert engine.broken_off.wait(10)


def test_many_at_once(front: Callable[..., Front], engine: Engine) -> None:
    door = front()
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(door.ask("/v1/x", x_api_key=KEY)[0]))
        for _ in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [200] * 24


def load() -> Any:
    spec = importlib.util.spec_from_file_location("front", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("fd00::7", True),
        ("fd01::7", False),
        ("fe80::1%eth0", False),
        ("127.0.0.1", True),
        ("::1", True),
    ],
)
def test_only_the_named_networks_come_in(peer: str, allowed: bool) -> None:
    settings = {"engine_port": 1, "open_paths": [], "networks": ["10.0.0.0/8", "fd00::/64"]}
    assert load().Front(settings, KEY).allows(peer) is allowed


def test_a_slow_head_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load()
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.05)

    async def slow() -> None:
        await module.read_head(asyncio.StreamReader())

    with pytest.raises(module.RefusedError, match="no request came"):
        asyncio.run(slow())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/api/chat", 200),
        ("/api/chat?x=1", 200),
        ("/v1/models", 200),
        ("/health", 200),
        ("/api/delete", 403),
        ("/api/chat/", 403),
        ("/API/chat", 403),
        ("/v1/../api/delete", 403),
        ("/v1/%2e%2e/api/delete", 403),
        ("/v1//api", 403),
        ("/v1", 403),
        ("/v2/", 403),
    ],
)
def test_what_manages_the_engine_is_not_for_the_network(
    front: Callable[..., Front], path: str, status: int
) -> None:
    made = front(public_paths=["/", "/api/chat", "/v1/"])
    found, text = made.ask(path, Authorization=f"Bearer {KEY}")
    assert found == status, text
