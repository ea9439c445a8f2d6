"""Make a GGUF file on this host a model of the Ollama that runs here, with parameters, and load it.

Standard library, Python 3.8. Sources: ollama's docs/api.md, server/create.go, server/routes.go.
Ollama keeps the weights of a GGUF file in a file of its own (create.go has llama-quantize write
them anew), so their digest is not that of the file. What a model was made from is therefore
written into its licence text, which `ollama show --license` prints.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional

from ..core.errors import BadInputError, HostFailedError
from .chat_client import ChatClient
from .endpoint import health_timeout, wait_for_health, with_log
from .service import Run, run_command

HEALTH = "/api/version"
_SLOWEST_COPY_MIB_S = 10.0
_LEAST_SECONDS = 120.0
_MIB = 1 << 20
_MARK = "GGUF sha256:"


class OllamaRefusedError(HostFailedError):
    """Ollama's own words; `status` is HTTP's."""

    def __init__(self, what: str, status: int, where: str) -> None:
        super().__init__(what, where=where)
        self.status = status


class OllamaClient:
    """The part of Ollama's API that is needed here; `timeout` in seconds between two bytes."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BadInputError("not an http address: {!r}".format(url), where="url")
        self._host, self._port = str(parts.hostname), parts.port
        self._timeout = timeout
        self._where = url

    def show(self, name: str) -> Optional[Dict[str, Any]]:
        """What Ollama knows of a model (license, parameters, modelfile ...), None without it."""
        try:
            return self._post("/api/show", {"model": name})[-1]
        except OllamaRefusedError as error:
            if error.status == 404:
                return None
            raise

    def has_blob(self, sha256: str) -> bool:
        """Whether the file was sent already."""
        with self._exchange("HEAD", "/api/blobs/sha256:" + sha256, None, {}) as response:
            return bool(response.status == 200)

    def send_blob(self, path: str, sha256: str) -> None:
        """Send a file; Ollama compares the digest. Raises HostFailedError."""
        headers = {"Content-Length": str(os.path.getsize(path))}
        with open(path, "rb") as stream, self._exchange(
            "POST", "/api/blobs/sha256:" + sha256, stream, headers
        ) as response:
            self._expect_success(response, response.read(65536))

    def create(self, request: Dict[str, Any]) -> None:
        """Make a model; returns when it is written. Raises HostFailedError."""
        said = self._post("/api/create", request)
        if not said or said[-1].get("status") != "success":
            last = said[-1] if said else "nothing"
            raise HostFailedError("create ended with {}".format(last), where=self._where)

    def load(self, name: str) -> None:
        """Have a model loaded: a request without a prompt. Raises HostFailedError."""
        self._post("/api/generate", {"model": name, "stream": False})

    def running(self) -> List[Dict[str, Any]]:
        """The loaded models as GET /api/ps tells them."""
        with self._exchange("GET", "/api/ps", None, {}) as response:
            raw = response.read()
            self._expect_success(response, raw)
        models = json.loads(raw.decode("utf-8")).get("models")
        return list(models or [])

    def _post(self, path: str, document: Dict[str, Any]) -> List[Dict[str, Any]]:
        """The JSON objects of the answer, one a line. Raises OllamaRefusedError."""
        body = json.dumps(document).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        found: List[Dict[str, Any]] = []
        with self._exchange("POST", path, body, headers) as response:
            if response.status != 200:
                self._expect_success(response, response.read(65536))
            for raw in response:
                line = json.loads(raw.decode("utf-8")) if raw.strip() else None
                if isinstance(line, dict):
                    if line.get("error"):
                        words = "{}: {}".format(path, line["error"])
                        raise OllamaRefusedError(words, int(line.get("status") or 500), self._where)
                    found.append(line)
        return found

    def _expect_success(self, response: http.client.HTTPResponse, raw: bytes) -> None:
        if response.status in (200, 201):
            return
        text = raw.decode("utf-8", "replace").strip()
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["error"])
        words = "HTTP {}: {}".format(response.status, text or response.reason)
        raise OllamaRefusedError(words, response.status, self._where)

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: Any, headers: Dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request(method, path, body, headers)
            yield connection.getresponse()
        except (OSError, ValueError, http.client.HTTPException) as error:
            text = "{} {}: {}".format(method, path, error or type(error).__name__)
            raise HostFailedError(text, where=self._where) from error
        finally:
            connection.close()


@dataclass
class Wanted:
    """What shall be. `unit` is {"name", "manager", "socket"} or None."""

    url: str
    name: str
    file: str
    sha256: str
    models: str
    """OLLAMA_MODELS."""
    parameters: Dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    unit: Optional[Dict[str, Any]] = None

    @property
    def size_mib(self) -> float:
        return os.path.getsize(self.file) / _MIB

    @property
    def manifest(self) -> str:
        """Where Ollama notes what the model consists of (types/model/name.go, Filepath)."""
        name, _, tag = self.name.partition(":")
        namespace, _, model = name.rpartition("/")
        parts = (namespace or "library", model, tag or "latest")
        return os.path.join(self.models, "manifests", "registry.ollama.ai", *parts)


def ensure(wanted: Wanted, check_mode: bool = False, run: Run = run_command) -> Dict[str, Any]:
    """Make the model what it shall be and have it loaded; {"changed", "did", "manifest"}.

    Waits until the service answers. In check mode a service that does not is one that does not
    run yet. Raises HostFailedError with the service's last log lines.
    """
    if check_mode:
        return _report(wanted, _missing(OllamaClient(wanted.url, 10.0), wanted, quiet=True))
    watched = ChatClient(wanted.url, health=HEALTH)
    wait_for_health(watched, health_timeout(0), wanted.unit, run)
    seconds = _LEAST_SECONDS + wanted.size_mib / _SLOWEST_COPY_MIB_S
    client = OllamaClient(wanted.url, seconds)
    try:
        did = _missing(client, wanted)
        if did:
            _make(client, wanted, did)
        client.load(wanted.name)
    except HostFailedError as error:
        raise with_log(error, wanted.unit, run) from error
    return _report(wanted, did)


def _missing(client: OllamaClient, wanted: Wanted, quiet: bool = False) -> str:
    """What has to be done in words, "" when all is as it shall be."""
    try:
        there = client.show(wanted.name)
    except HostFailedError:
        if quiet:
            return "make the model"
        raise
    if there is None or _MARK + wanted.sha256 not in str(there.get("license") or ""):
        return "make the model"
    known = parse_parameters(str(there.get("parameters") or ""))
    differing = sorted(k for k, v in wanted.parameters.items() if known.get(k) != float(v))
    return "change {}".format(", ".join(differing)) if differing else ""


def _make(client: OllamaClient, wanted: Wanted, what: str) -> None:
    request: Dict[str, Any] = {"model": wanted.name, "parameters": wanted.parameters}
    if what != "make the model":
        # From itself: the weights stay, parameters that are named replace those it has.
        client.create({**request, "from": wanted.name})
        return
    if not client.has_blob(wanted.sha256):
        client.send_blob(wanted.file, wanted.sha256)
    name, digest = os.path.basename(wanted.file), "sha256:" + wanted.sha256
    licence = "{}\n{}{}".format(wanted.licence, _MARK, wanted.sha256)
    client.create({**request, "files": {name: digest}, "license": licence})
    _drop_what_was_sent(client, wanted)


def _drop_what_was_sent(client: OllamaClient, wanted: Wanted) -> None:
    """Ollama keeps the file that was sent until it starts again, and serves from its own copy."""
    made = str((client.show(wanted.name) or {}).get("modelfile") or "")
    blob = "sha256-" + wanted.sha256
    if re.search(r"^FROM \S", made, re.MULTILINE) and blob not in made:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(wanted.models, "blobs", blob))


def parse_parameters(text: str) -> Dict[str, float]:
    """The numbers of /api/show's `parameters`: a name and a value a line, as Go prints them."""
    found: Dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            found[name] = float(value)
    return found


def _report(wanted: Wanted, did: str) -> Dict[str, Any]:
    return {"changed": bool(did), "did": did, "manifest": wanted.manifest}
