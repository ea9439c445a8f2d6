"""The catalogue of downloads as data: which artifact for which host. Pure; reading is readers'."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from infra_llm.core.errors import BadInputError

Artifact = dict[str, Any]
SCHEMA = "infra-llm/catalogue/1"
_PLACE_NEEDS = {
    "url": ("url",),
    "path": ("path",),
    "index": ("distribution", "version", "filename"),
}


def check_artifact(artifact: Any, where: str) -> Artifact:
    """The artifact itself when it is complete.

    Raises BadInputError that names the missing or malformed field: a download that could not
    be verified is never tried.
    """
    if not isinstance(artifact, dict):
        raise BadInputError("must be a mapping with filename, sha256, size and places", where=where)
    wrong = [key for key in ("filename", "sha256", "size", "places") if key not in artifact]
    if wrong:
        raise BadInputError(f"{', '.join(wrong)} missing", where=where)
    if not re.fullmatch(r"[0-9a-f]{64}", str(artifact["sha256"])):
        raise BadInputError("sha256 must be 64 hexadecimal digits in lower case", where=where)
    if isinstance(artifact["size"], bool) or not isinstance(artifact["size"], int):
        raise BadInputError("size must be a whole number of bytes", where=where)
    if artifact["size"] <= 0:
        raise BadInputError("size must be more than 0 bytes", where=where)
    filename = artifact["filename"]
    if not isinstance(filename, str) or filename in ("", ".", "..") or "/" in filename:
        raise BadInputError(f"filename {filename!r} must be a plain file name", where=where)
    _check_places(artifact["places"], where)
    return {"name": filename, "version": "", "licence": "unknown", **artifact}


def _check_places(places: Any, where: str) -> None:
    if not isinstance(places, list) or not places:
        raise BadInputError("places must be a list of at least one place", where=where)
    for number, place in enumerate(places, 1):
        kind = place.get("kind") if isinstance(place, dict) else None
        if not isinstance(kind, str) or kind not in _PLACE_NEEDS:
            raise BadInputError(
                f"place {number} has kind {kind!r}; it must be one of {', '.join(_PLACE_NEEDS)}",
                where=where,
            )
        missing = [key for key in _PLACE_NEEDS[kind] if not place.get(key)]
        if missing:
            raise BadInputError(f"place {number} lacks {', '.join(missing)}", where=where)


def model_artifact(catalogue: Mapping[str, Any], own: Mapping[str, Any], name: str) -> Artifact:
    """The artifact of the model that a host wishes; the site's own models come first."""
    if name in own:
        try:
            return check_artifact(own[name], f"infra_llm_models.{name}")
        except BadInputError as error:
            hint = "a model of your own needs filename, sha256, size in bytes, and places"
            raise BadInputError(error.what, where=error.where, hint=hint) from error
    models = catalogue["models"]
    if name not in models:
        known = sorted({str(known) for known in [*models, *own]})
        close = difflib.get_close_matches(name, known, n=1)
        raise BadInputError(
            f"no model named {name!r}{f'; did you mean {close[0]!r}?' if close else ''}",
            where="infra_llm_model",
            hint=f"known: {', '.join(known)}; add your own under infra_llm_models",
        )
    return check_artifact(models[name], f"catalogue models.{name}")


def engine_artifact(
    catalogue: Mapping[str, Any], engine: str, method: str, architecture: str
) -> Artifact | None:
    """The engine's artifact for a CPU architecture (uname -m), or None where there is none."""
    found = catalogue["engines"][engine].get(method, {})
    artifact = found.get(architecture) or found.get("any")
    return check_artifact(artifact, f"catalogue {engine}.{method}") if artifact else None


def cuda_wheels(catalogue: Mapping[str, Any], release: str, architecture: str) -> list[Artifact]:
    """The wheels that make a CUDA toolkit of a release ("13.0") for a CPU (uname -m).

    Raises BadInputError for a release that package indexes do not have.
    """
    toolkits = catalogue["toolkits"]
    found = toolkits["wheels"].get(release, {}).get(architecture)
    if not found:
        known = ", ".join(r for r, of in toolkits["wheels"].items() if architecture in of)
        raise BadInputError(
            f"no package index has a CUDA {release} compiler for {architecture}",
            where="infra_llm_cuda_version",
            hint=f"there are {known or 'none'}; a repository may have it (infra_llm_cuda_source)",
        )
    return [_wheel(entry, toolkits["licence"]) for entry in found]


def _wheel(entry: Mapping[str, Any], licence: str) -> Artifact:
    place = {
        "kind": "index",
        "distribution": entry["name"],
        "version": entry["version"],
        "filename": entry["filename"],
    }
    return check_artifact(
        {**entry, "licence": licence, "places": [place]}, f"catalogue toolkits.{entry['name']}"
    )
