"""The only program of a node that listens on the network: TLS, API key, allowed networks.

    CREDENTIALS_DIRECTORY=... python3 front.py /etc/infra-llm/front.json

It asks each connection's first request for the key and hands it on to the engine on loopback; the
engine is told to close the connection after its answer, so that one look at a connection is
enough. Credentials, all optional: tls.crt and tls.key, api-key. Standard library, Python 3.8.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import os
import socket
import ssl
import sys

HEAD_LIMIT = 64 * 1024
HEAD_SECONDS = 15.0
CONNECTIONS = 1024
HOP_BY_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"authorization", b"x-api-key")
"""Headers that end here: the engine never sees the key."""
REASONS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 408: "Request Timeout",
           431: "Request Header Fields Too Large", 503: "Service Unavailable"}  # fmt: skip


class RefusedError(Exception):
    def __init__(self, status, words):
        super().__init__(words)
        self.status, self.words = status, words


class Front:
    def __init__(self, settings, key):
        self.engine = settings["engine_port"]
        self.open_paths = {path.encode("ascii") for path in settings["open_paths"]}
        self.public_paths = [path.encode("ascii") for path in settings.get("public_paths", [])]
        self.networks = [ipaddress.ip_network(text) for text in settings["networks"]]
        self.key = key.encode("utf-8")
        self.connections = 0

    async def serve(self, reader, writer):
        """One connection, start to end."""
        self.connections += 1
        try:
            await self.answer(reader, writer)
        except RefusedError as refused:
            with contextlib.suppress(OSError):
                writer.write(refusal(refused.status, refused.words))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away
        finally:
            self.connections -= 1
            with contextlib.suppress(Exception):
                writer.close()

    async def answer(self, reader, writer):
        if not self.allows(writer.get_extra_info("peername")[0]):
            raise RefusedError(403, "this network is not allowed")
        if self.connections > CONNECTIONS:
            raise RefusedError(503, "too many connections")
        line, headers = parse(await read_head(reader))
        self.check_path(line)
        self.check_key(line, headers)
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.engine)
        except OSError:
            raise RefusedError(503, "the engine does not answer yet") from None
        kept = [pair for pair in headers if pair[0].strip().lower() not in HOP_BY_HOP]
        lines = [line, *(b":".join(pair) for pair in kept), b"Connection: close", b"", b""]
        upstream[1].write(b"\r\n".join(lines))
        await join(reader, writer, *upstream)

    def allows(self, peer):
        address = ipaddress.ip_address(peer.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or not self.networks:
            return True
        return any(address in network for network in self.networks)

    def check_path(self, line):
        """Only what the engine has for users; an odd spelling of a path is none of these."""
        path = line.split(b" ")[1].partition(b"?")[0]
        if not self.public_paths or path in self.open_paths:
            return
        odd = b"%" in path or b".." in path or b"//" in path
        for known in self.public_paths:
            below = len(known) > 1 and known.endswith(b"/") and path.startswith(known)
            if path == known or (below and not odd):
                return
        raise RefusedError(403, "this path is not for the network")

    def check_key(self, line, headers):
        path = line.split(b" ")[1].partition(b"?")[0]
        if not self.key or path in self.open_paths:
            return
        given = {name.lower(): value.strip() for name, value in headers}
        bearer = given.get(b"authorization", b"")
        offered = bearer[7:].strip() if bearer[:7].lower() == b"bearer " else b""
        if hmac.compare_digest(offered or given.get(b"x-api-key", b""), self.key):
            return
        raise RefusedError(401, "Invalid API key")


async def read_head(reader):
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
    except asyncio.TimeoutError:
        raise RefusedError(408, "no request came") from None
    except asyncio.LimitOverrunError:
        raise RefusedError(431, "the request's head is too large") from None


def parse(head):
    """(request line, [(name, value)]). Refuses what is no plain HTTP/1 request."""
    line, *rest = head[:-4].split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):
        raise RefusedError(400, "not an HTTP/1 request")
    headers = []
    for text in rest:
        name, colon, value = text.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in text or b"\r" in text:
            raise RefusedError(400, "a header that can't be read")
        headers.append((name, value))
    return line, headers


async def join(reader, writer, engine_reader, engine_writer):
    """Both ways until one side ends; a client that goes away ends the engine's work, too."""
    ways = [
        asyncio.ensure_future(pump(reader, engine_writer)),
        asyncio.ensure_future(pump(engine_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        engine_writer.close()


async def pump(source, sink):
    while True:
        data = await source.read(65536)
        if not data:
            return
        sink.write(data)
        await sink.drain()


def refusal(status, words):
    kind = "authentication_error" if status == 401 else "infra_llm_front"
    error = {"error": {"message": words, "type": kind, "code": status}}
    body = json.dumps(error).encode("utf-8")
    head = (
        "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        "Connection: close\r\n\r\n" % (status, REASONS[status], len(body))
    )
    return head.encode("ascii") + body


def credential(name):
    """The path of a credential that systemd hands over, "" where there is none."""
    path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", ""), name)
    return path if os.path.exists(path) else ""


def tls_context(settings):
    if not settings["tls"]:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(credential("tls.crt"), credential("tls.key"))
    return context


def read_key(settings):
    if not settings["key"]:
        return ""
    with open(credential("api-key"), encoding="utf-8") as file:
        key = file.readline().strip()
    if not key:
        sys.exit("infra-llm: the API key is empty")
    return key


def say_ready():
    """Type=notify of systemd: the port is open."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(b"READY=1")


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        settings = json.load(file)
    front = Front(settings, read_key(settings))
    server = await asyncio.start_server(
        front.serve, settings["bind"], settings["port"], ssl=tls_context(settings), limit=HEAD_LIMIT
    )
    say_ready()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
