"""The header of a model, read from the first place that has it, and remembered.

A profile is kept in the user's cache by the model's sha256, so that a plan costs no network
when the model was seen before.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_llm.core.catalogue import Artifact, model_files
from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.core.quantize import quantized
from infra_llm.readers.gguf_file import merge_parts, read_gguf_prefix
from infra_llm.readers.safetensors import FIRST_BYTES, INDEX, MOST_HEADER, read_folder
from infra_llm.target.artifacts import read_prefix
from infra_llm.target.transport import Settings


def cache_folder() -> Path:
    """Where infra-llm keeps what it can read again at the price of a download."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "infra-llm"


def read_header(artifact: Artifact, site: Mapping[str, Any]) -> ModelProfile:
    """The profile of a model of the catalogue or the inventory, as the engine will load it.

    `site` holds the host's artifact folders and index, as downloads take them. An artifact that is
    to be quantized (core/quantize.py) has the profile of the result.
    Raises BadInputError when no place has it, or when what is there is no model we can read.
    """
    profile = _read(artifact, site)
    return quantized(profile, artifact["quantize"]) if artifact.get("quantize") else profile


def _read(artifact: Artifact, site: Mapping[str, Any]) -> ModelProfile:
    kept = cache_folder() / "models" / f"{artifact['sha256']}.json"
    if kept.exists():
        try:
            return from_dict(ModelProfile, json.loads(kept.read_text()), str(kept))
        except (BadInputError, ValueError):
            kept.unlink()
    settings = Settings.from_dict(dict(site))
    files = {str(file["filename"]): file for file in model_files(artifact)}
    if all(name.endswith(".gguf") for name in files) or len(files) == 1:
        parts = [_gguf(files[name], settings) for name in sorted(files)]
        profile = merge_parts(parts) if len(parts) > 1 else parts[0]
    else:
        profile = read_folder(_Folder(files, settings, artifact["name"]), artifact["name"])
    _keep(kept, profile)
    return profile


def _gguf(file: Artifact, settings: Settings) -> ModelProfile:
    return read_gguf_prefix(lambda length: read_prefix(file, settings, length), file["size"])


class _Folder:
    """A Hugging Face folder of which only headers are read, wherever its files are."""

    def __init__(self, files: Mapping[str, Artifact], settings: Settings, name: str) -> None:
        self._files, self._settings, self._name = files, settings, name

    def __call__(self, name: str) -> tuple[bytes, int] | None:
        file = self._files.get(name)
        if file is None:
            if name.endswith(".safetensors") and INDEX in self._files:
                raise BadInputError(
                    f"{INDEX} names {name}, which is not among the model's files",
                    where=self._name,
                    hint="add it to files with its sha256, size and places",
                )
            return None
        if name.endswith(".json"):
            return read_prefix(file, self._settings, file["size"]), file["size"]
        start = read_prefix(file, self._settings, min(FIRST_BYTES, file["size"]))
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= min(file["size"], MOST_HEADER):
            start = read_prefix(file, self._settings, length)
        return start, file["size"]


def _keep(path: Path, profile: ModelProfile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        json.dump(profile.to_dict(), file)
    Path(temporary).replace(path)
