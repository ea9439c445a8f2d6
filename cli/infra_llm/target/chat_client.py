"""A small client of the OpenAI-style HTTP interface of llama-server, vLLM and others.

Standard library, Python 3.8. It never goes through a proxy: the endpoint is on this host.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ..core.errors import BadInputError, HostFailedError


class NoAnswer(Exception):  # noqa: N818 - a state that is waited out, not always an error
    """Nothing answers there, or not yet."""


@dataclass
class Completion:
    text: str = ""
    reasoning: str = ""
    """What a reasoning model thought aloud (reasoning_content)."""
    usage: Dict[str, Any] = field(default_factory=dict)
    timings: Dict[str, Any] = field(default_factory=dict)
    """llama-server's own: prompt_n, prompt_ms, predicted_n, predicted_ms ..."""
    first_token_seconds: Optional[float] = None
    seconds: float = 0.0
    pieces: int = 0
    """Parts in which the text came: tokens, for a server that counts none itself."""


@dataclass(frozen=True)
class Trust:
    """Whose certificate an https endpoint must show."""

    ca_file: str = ""
    """"" for the host's own trust."""
    server_name: str = ""
    """The name that the certificate must be for; "" for the address's own."""


class _NamedConnection(http.client.HTTPSConnection):
    """Connects to an address, and asks for the certificate of a name."""

    server_name = ""

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(plain, server_hostname=self.server_name or self.host)


class ChatClient:
    """Talks to `base_url` (http://127.0.0.1:8080); time-outs in seconds."""

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        timeout: float = 300.0,
        health: str = "/health",
        tls: Optional[Trust] = None,
    ) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInputError("not an http address: {!r}".format(base_url), where="endpoint")
        self.base_url = base_url.rstrip("/")
        self._parts = parts
        self._path = parts.path.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = "Bearer " + api_key
        self._timeout = timeout
        self._health = health
        self._tls = tls or Trust()

    def health(self, timeout: float = 5.0) -> int:
        """The status of the health path: 200 ready, 503 loading. Raises NoAnswer."""
        connection, response = self._send("GET", self._health, None, timeout)
        connection.close()
        return response.status

    def model(self) -> str:
        """The name of the first model of GET /v1/models, "" when there is none."""
        try:
            return str(self.document("/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            return ""

    def document(self, path: str) -> Any:
        """The JSON document that GET answers, None for anything else. Raises NoAnswer."""
        connection, response = self._send("GET", path, None, self._timeout)
        try:
            return json.loads(response.read().decode("utf-8"))
        except (ValueError, OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def get(self, path: str) -> Tuple[int, str]:
        """Status and text that GET answers. Raises NoAnswer."""
        connection, response = self._send("GET", path, None, self._timeout)
        try:
            return response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer("GET {}: {}".format(path, error)) from error
        finally:
            connection.close()

    def post(self, path: str, body: Dict[str, Any]) -> Any:
        """The JSON document that POST answers, None for anything else. Raises NoAnswer."""
        connection, response = self._send("POST", path, body, self._timeout)
        try:
            said = response.read().decode("utf-8")
            return json.loads(said) if response.status == 200 else None
        except (ValueError, OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def chat(self, messages: List[Dict[str, str]], **options: Any) -> Completion:
        """One streamed chat completion. Raises HostFailedError with the server's words."""
        body = {
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **options,
        }
        started = time.monotonic()
        try:
            connection, response = self._send("POST", "/v1/chat/completions", body, self._timeout)
        except NoAnswer as error:
            raise HostFailedError(str(error), where=self.base_url) from error
        try:
            if response.status != 200:
                raise HostFailedError(_refusal(response), where=self.base_url)
            return self._read_stream(response, started)
        except (OSError, http.client.HTTPException) as error:
            text = "the answer broke off: {}".format(error or type(error).__name__)
            raise HostFailedError(text, where=self.base_url) from error
        finally:
            connection.close()

    def prompt_tokens(self, messages: List[Dict[str, str]], **options: Any) -> int:
        """How many tokens the server makes of a prompt; 0 where it does not tell."""
        body = {**options, "messages": messages, "max_tokens": 1}
        try:
            connection, response = self._send("POST", "/v1/chat/completions", body, self._timeout)
        except NoAnswer:
            return 0
        try:
            return int(json.loads(response.read().decode("utf-8"))["usage"]["prompt_tokens"])
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _read_stream(self, response: http.client.HTTPResponse, started: float) -> Completion:
        found = Completion()
        for event in _events(response):
            if event.get("error"):
                raise HostFailedError(str(event["error"]), where=self.base_url)
            found.usage = event.get("usage") or found.usage
            found.timings = event.get("timings") or found.timings
            for choice in event.get("choices") or []:
                delta = choice.get("delta") or {}
                text, thought = delta.get("content") or "", delta.get("reasoning_content") or ""
                found.pieces += bool(text or thought)
                if (text or thought) and found.first_token_seconds is None:
                    found.first_token_seconds = time.monotonic() - started
                found.text += text
                found.reasoning += thought
        found.seconds = time.monotonic() - started
        return found

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._parts.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            context = ssl.create_default_context(cafile=self._tls.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise NoAnswer("{}: {}".format(self._tls.ca_file, error)) from error
        connection = _NamedConnection(host, port, timeout=timeout, context=context)
        connection.server_name = self._tls.server_name
        return connection

    def _send(
        self, method: str, path: str, body: Optional[Dict[str, Any]], timeout: float
    ) -> Tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection(timeout)
        data = None if body is None else json.dumps(body).encode("utf-8")
        try:
            connection.request(method, self._path + path, data, self._headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NoAnswer("{} {}: {}".format(method, path, error or "no answer")) from error


def _refusal(response: http.client.HTTPResponse) -> str:
    text = response.read(4096).decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        pass
    return "HTTP {}: {}".format(response.status, text.strip() or response.reason)


def _events(response: http.client.HTTPResponse) -> Iterator[Dict[str, Any]]:
    """The JSON objects of a server-sent event stream, until [DONE] or its end."""
    for raw in response:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event
