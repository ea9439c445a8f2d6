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

from infra_llm.core.catalogue import Artifact
from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf_prefix
from infra_llm.target.artifacts import read_prefix
from infra_llm.target.transport import Settings


def cache_folder() -> Path:
    """Where infra-llm keeps what it can read again at the price of a download."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "infra-llm"


def read_header(artifact: Artifact, site: Mapping[str, Any]) -> ModelProfile:
    """The profile of a model of the catalogue or the inventory.

    `site` holds the host's artifact folders and index, as downloads take them.
    Raises BadInputError when no place has it, or when what is there is no model we can read.
    """
    kept = cache_folder() / "models" / f"{artifact['sha256']}.json"
    if kept.exists():
        try:
            return from_dict(ModelProfile, json.loads(kept.read_text()), str(kept))
        except (BadInputError, ValueError):
            kept.unlink()
    profile = read_gguf_prefix(
        lambda length: read_prefix(artifact, Settings.from_dict(dict(site)), length),
        artifact["size"],
    )
    _keep(kept, profile)
    return profile


def _keep(path: Path, profile: ModelProfile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        json.dump(profile.to_dict(), file)
    Path(temporary).replace(path)
