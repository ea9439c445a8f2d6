"""Blobs and manifests of the stand-in for Ollama, as ollama lays them out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

MODELS = Path(os.environ.get("OLLAMA_MODELS") or Path("~/.ollama/models").expanduser())
BLOBS = MODELS / "blobs"
MANIFESTS = MODELS / "manifests" / "registry.ollama.ai"
_LAYER = "application/vnd.ollama.image."


class RefusedError(Exception):
    """Answered as {"error"} with a status."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(text)


class Store:
    """Blobs and manifests, as ollama lays them out."""

    def blob(self, digest: str) -> Path:
        if not re.match(r"sha256[:-][0-9a-f]{64}$", digest):
            raise RefusedError(400, "invalid digest format")
        return BLOBS / digest.replace(":", "-")

    def manifest(self, name: str) -> Path:
        name, _, tag = name.partition(":")
        namespace, _, model = name.rpartition("/")
        if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$", model):
            raise RefusedError(400, "invalid model name")
        return MANIFESTS / (namespace or "library") / model / (tag or "latest")

    def names(self) -> list[str]:
        return [f"{path.parent.name}:{path.name}" for path in sorted(MANIFESTS.glob("library/*/*"))]

    def put(self, stream: BinaryIO, size: int, extra: bytes = b"") -> str:
        """The digest of what was written."""
        BLOBS.mkdir(parents=True, exist_ok=True)
        digest, left = hashlib.sha256(), size
        with tempfile.NamedTemporaryFile(dir=BLOBS, prefix="sha256-", delete=False) as out:
            while left:
                chunk = stream.read(min(left, 1 << 20))
                if not chunk:
                    raise RefusedError(400, "unexpected EOF")
                left -= len(chunk)
                digest.update(chunk)
                out.write(chunk)
            digest.update(extra)
            out.write(extra)
        name = "sha256:" + digest.hexdigest()
        path = Path(out.name).rename(self.blob(name))
        path.chmod(0o644)
        return name

    def put_text(self, text: str) -> str:
        data = text.encode("utf-8")
        return self.put(io.BytesIO(data), len(data))

    def read(self, name: str) -> dict[str, Any]:
        """{"model": path, "params", "license", "digest"} of a model."""
        try:
            raw = self.manifest(name).read_bytes()
        except OSError as error:
            raise RefusedError(404, f"model '{name}' not found") from error
        layers = {
            layer["mediaType"][len(_LAYER) :]: layer["digest"]
            for layer in json.loads(raw)["layers"]
        }
        found: dict[str, Any] = {"digest": hashlib.sha256(raw).hexdigest(), "layers": layers}
        found["model"] = str(self.blob(layers["model"]))
        found["params"] = json.loads(self._text(layers.get("params")) or "{}")
        found["license"] = self._text(layers.get("license"))
        return found

    def _text(self, digest: str | None) -> str:
        return "" if digest is None else self.blob(digest).read_text()

    def write(self, name: str, layers: dict[str, str]) -> None:
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [{"mediaType": _LAYER + kind, "digest": d} for kind, d in sorted(layers.items())]
        path.write_text(json.dumps({"schemaVersion": 2, "layers": entries}))

    def prune(self) -> None:
        """Remove blobs that no model uses any more and that are an hour old."""
        used = {digest for name in self.names() for digest in self.read(name)["layers"].values()}
        for path in BLOBS.glob("*"):
            old = time.time() - path.stat().st_mtime > 3600
            if old and path.name.replace("-", ":") not in used:
                path.unlink()


STORE = Store()
