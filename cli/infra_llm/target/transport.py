"""Opening http(s) addresses and local files for the download code.

Standard library, Python 3.8. Proxies come from the environment (http_proxy, https_proxy,
no_proxy), extra certificate authorities from SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE or
CURL_CA_BUNDLE. Two kinds of failure are kept apart: a place that says no (next place at once)
and a transfer that broke (worth another try).
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Dict, List, Optional, Tuple, TypeVar

from ..core.errors import BadInputError

T = TypeVar("T")

USER_AGENT = "infra-llm"
LOGIN_CODES = (401, 403)
_RETRY_CODES = (408, 425, 429, 500, 502, 503, 504)


class PlaceRefusedError(Exception):
    """This place does not have it, or can't be reached: ask the next one."""


class TransferBrokenError(Exception):
    """The transfer broke off; trying again may help."""


@dataclass
class Settings:
    """What a site decides about downloads. Times in seconds."""

    index_urls: List[str] = field(default_factory=list)
    folders: List[str] = field(default_factory=list)
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    attempts: int = 4
    """Tries without progress before a place is given up."""
    backoff_seconds: float = 1.0

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> Settings:
        """Read `{"index_url": str or list, "index_urls": [...], "folders": [...], ...}`.

        Raises BadInputError for a time or a count that is no number.
        """
        urls: List[str] = []
        for key in ("index_url", "index_urls"):
            value = data.get(key) or []
            urls += [value] if isinstance(value, str) else [str(item) for item in value]
        settings = cls(index_urls=urls, folders=[str(item) for item in data.get("folders") or []])
        for name in ("connect_seconds", "read_seconds", "backoff_seconds", "attempts"):
            value = data.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
                raise BadInputError("{} is {!r}, not a number".format(name, value), where="site")
            setattr(settings, name, max(1, int(value)) if name == "attempts" else float(value))
        return settings


@dataclass
class Response:
    stream: IO[bytes]
    status: int
    headers: Dict[str, str]
    """Names in lower case."""
    url: str
    """After redirects."""

    def read_some(self, size: int) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" at the end."""
        try:
            return self.stream.read1(size)  # type: ignore[attr-defined,no-any-return]
        except (OSError, http.client.HTTPException) as error:
            raise TransferBrokenError(_reason(error)) from error

    def total_size(self) -> Optional[int]:
        """Size of the whole content where the server tells it."""
        if self.status == 206:
            content_range = self.content_range()
            return content_range[1] if content_range else None
        length = self.headers.get("content-length", "")
        return int(length) if length.isdigit() else None

    def content_range(self) -> Optional[Tuple[int, Optional[int]]]:
        """(first byte, total size) of a partial answer (RFC 9110, 14.4)."""
        found = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", self.headers.get("content-range", ""))
        if not found:
            return None
        return int(found.group(1)), None if found.group(2) == "*" else int(found.group(2))

    def close(self) -> None:
        self.stream.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def with_retries(call: Callable[[], T], settings: Settings) -> T:
    """Call until it does not raise TransferBrokenError, at most `settings.attempts` times."""
    for attempt in range(settings.attempts - 1):
        try:
            return call()
        except TransferBrokenError:
            time.sleep(settings.backoff_seconds * 2**attempt)
    return call()


def local_path(url: str) -> Optional[str]:
    """The path of a `file://` address or of a plain absolute path, else None."""
    if url.startswith("file://"):
        return urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    return url if url.startswith("/") else None


def without_secrets(url: str) -> str:
    """The address as it may be printed: without user, password and query."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def open_url(url: str, settings: Settings, headers: Optional[Dict[str, str]] = None) -> Response:
    """Open an http(s) or file address.

    Raises PlaceRefusedError (404, no such name, refused, no such file, bad certificate) or
    TransferBrokenError (5xx, reset, time-out while reading).
    """
    path = local_path(url)
    if path is not None:
        try:
            return Response(open(path, "rb"), 200, {"content-length": _size(path)}, url)
        except OSError as error:
            raise PlaceRefusedError("{}: {}".format(path, error.strerror)) from error
    if not url.startswith(("http://", "https://")):
        raise PlaceRefusedError(
            "not an http, https or file address: {}".format(without_secrets(url))
        )
    try:
        request = _request(url, headers or {})
        answer = _opener(settings).open(request, timeout=settings.connect_seconds)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _translated(error, settings) from error
    found = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer, answer.status, found, answer.url)


def _size(path: str) -> str:
    return str(os.stat(path).st_size)


def _request(url: str, headers: Dict[str, str]) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    bare = urllib.parse.urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked by the caller
        urllib.parse.quote(bare, safe="%/:=&?~#+!$,;'@()*[]"),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
    )
    if credentials:
        token = base64.b64encode(urllib.parse.unquote(credentials).encode()).decode()
        # Unredirected: a login must not follow a redirect to another host.
        request.add_unredirected_header("Authorization", "Basic " + token)
    return request


def _opener(settings: Settings) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(name, "")
        if os.path.isfile(bundle):
            context.load_verify_locations(cafile=bundle)
    return urllib.request.build_opener(_HttpHandler(settings), _HttpsHandler(settings, context))


class _HttpConnection(http.client.HTTPConnection):
    """Connects within one time-out, reads within another."""

    read_seconds = 60.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.read_seconds)


class _HttpsConnection(http.client.HTTPSConnection):
    read_seconds = 60.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.read_seconds)


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(*args: Any, **options: Any) -> _HttpConnection:
            made = _HttpConnection(*args, **options)
            made.read_seconds = self._settings.read_seconds
            return made

        return self.do_open(connection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, settings: Settings, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._settings = settings
        self._ssl = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(*args: Any, **options: Any) -> _HttpsConnection:
            made = _HttpsConnection(*args, **options)
            made.read_seconds = self._settings.read_seconds
            return made

        return self.do_open(connection, req, context=self._ssl)


def _translated(error: Exception, settings: Settings) -> Exception:
    """The failure of opening an address as PlaceRefusedError or TransferBrokenError."""
    if isinstance(error, urllib.error.HTTPError):
        text = "HTTP {} {}".format(error.code, error.reason)
        error.close()
        if error.code in LOGIN_CODES:
            text += ": it asks for a login"
        return TransferBrokenError(text) if error.code in _RETRY_CODES else PlaceRefusedError(text)
    if not isinstance(error, urllib.error.URLError):
        # Raised while waiting for the answer: the connection stood, so it may stand again.
        return PlaceRefusedError(str(error)) if isinstance(error, ValueError) else _broken(error)
    reason = error.reason
    if isinstance(reason, socket.timeout):
        return PlaceRefusedError("no connection within {:g} s".format(settings.connect_seconds))
    if isinstance(reason, socket.gaierror):
        return PlaceRefusedError("the host name does not resolve")
    if isinstance(reason, ssl.SSLCertVerificationError):
        text = "the certificate is not trusted ({}); set SSL_CERT_FILE to the site's CA bundle"
        return PlaceRefusedError(text.format(reason.verify_message))
    if isinstance(reason, (ConnectionResetError, BrokenPipeError)):
        return _broken(reason)
    return PlaceRefusedError(_reason(reason if isinstance(reason, Exception) else error))


def _broken(error: Exception) -> TransferBrokenError:
    return TransferBrokenError(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, socket.timeout):
        return "no data within the read time-out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__
