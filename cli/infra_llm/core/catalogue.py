"""The catalogue of downloads as data: which artifact for which host. Pure; reading is readers'."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.errors import BadInputError

Artifact = dict[str, Any]
SCHEMA = "infra-llm/catalogue/1"
_PLACE_NEEDS = {
    "url": ("url",),
    "path": ("path",),
    "index": ("distribution", "version", "filename"),
    "registry": ("image", "digest"),
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


def check_model(model: Any, name: str, where: str) -> Artifact:
    """A model of one file, or of several: `files`, each an artifact.

    A model of several files gets what one file has: `filename` (the folder that holds them, named
    by content so that two versions never mix), `sha256` (over all names and hashes) and `size`.
    A file without places of its own takes the model's: a url is the folder's address, a path the
    folder itself.

    Raises BadInputError as `check_artifact` does, and for names that occur twice.
    """
    if not isinstance(model, dict) or "files" not in model:
        return check_artifact(model, where)
    files = model["files"]
    if not isinstance(files, list) or not files:
        raise BadInputError("files must be a list of at least one file", where=where)
    checked = [
        check_artifact(_with_places(file, model.get("places")), f"{where}.files[{number}]")
        for number, file in enumerate(files)
    ]
    names = [str(file["filename"]) for file in checked]
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise BadInputError(f"files names {', '.join(twice)} twice", where=where)
    sha256 = _sha256_of(checked)
    if model.get("sha256", sha256) != sha256:
        raise BadInputError("sha256 is not that of its files", where=where)
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", str(model.get("name") or name)).strip(".-") or "model"
    folder = f"{plain}-{sha256[:8]}"
    kept = {key: value for key, value in model.items() if key != "places"}
    return {
        "name": name,
        "version": "",
        "licence": "unknown",
        **kept,
        "filename": folder,
        "sha256": sha256,
        "size": sum(file["size"] for file in checked),
        "places": [],
        "files": [{**file, "within": [plain, folder]} for file in checked],
    }


def model_files(model: Artifact) -> Sequence[Artifact]:
    """The files that a model consists of."""
    return model.get("files") or [model]


COMPANIONS = {"projector": "infra_llm_projector", "draft": "infra_llm_draft_model"}
"""What may be loaded beside a model, and the variable that names it."""


def companions(
    catalogue: Mapping[str, Any], wishes: Mapping[str, Any], models: Sequence[Artifact]
) -> dict[str, Artifact]:
    """The artifacts that are loaded beside one of the models, by the keys of COMPANIONS.

    Raises BadInputError for names that are not known, files that are no GGUF, a choice of quants,
    and two different files of one name, which would overwrite each other on the host.
    """
    found: dict[str, Artifact] = {}
    for part, variable in COMPANIONS.items():
        if not wishes[variable]:
            continue
        name = str(wishes[variable])
        artifact, *more = model_candidates(catalogue, wishes["infra_llm_models"], name, variable)
        if more:
            raise BadInputError(
                f"{name} comes in several quants", where=variable, hint="name one file for it"
            )
        if model_format(artifact) != "gguf":
            raise BadInputError(
                f"{name} is no GGUF file", where=variable, hint="llama.cpp takes nothing else"
            )
        for other in (*models, *found.values()):
            same = other["filename"] == artifact["filename"]
            if same and other["sha256"] != artifact["sha256"]:
                raise BadInputError(
                    f"{name} and {other['name']} are different files named {artifact['filename']}",
                    where=variable,
                    hint="give one of them another filename under infra_llm_models",
                )
        found[part] = artifact
    return found


def served_models(desired: Mapping[str, Any]) -> list[Artifact]:
    """The models of an endpoint, the first one first; `desired` as core/decide.py has it."""
    return [desired["model"], *(entry["model"] for entry in desired.get("more") or ())]


def served_mib(model: Artifact) -> float:
    """What the engine loads: the model, or what it is quantized to."""
    size = (model.get("quantize") or model)["size"]
    return float(size) / 2**20


def _with_places(file: Any, places: Any) -> Any:
    if not isinstance(file, dict) or file.get("places") or not isinstance(places, list):
        return file
    own = []
    for place in places:
        base = place.get("url") if isinstance(place, dict) else None
        own.append(
            {**place, "url": f"{base.rstrip('/')}/{file.get('filename')}"}
            if isinstance(base, str) and base
            else place
        )
    return {**file, "places": own}


def _sha256_of(files: Sequence[Artifact]) -> str:
    """One hash for several files, whatever their order."""
    lines = sorted(f"{file['sha256']}  {file['filename']}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_candidates(
    catalogue: Mapping[str, Any],
    own: Mapping[str, Any],
    name: str,
    variable: str = "infra_llm_model",
) -> list[Artifact]:
    """The files of the model that a host wishes, one for each quant that it is offered in.

    The site's own models come first. A model with `quants` is a list of models of one file or
    several, of which each host gets the one that suits it; what stands beside the list holds for
    all of them. `variable` is the one that names it, for the errors. Raises BadInputError.
    """
    # YAML reads a name of digits as a number.
    own = {str(key): model for key, model in own.items()}
    if name in own:
        try:
            return _candidates(own[name], name, f"infra_llm_models.{name}")
        except BadInputError as error:
            hint = (
                "a model of your own needs filename, sha256, size in bytes, and places; one of "
                "several files has them in the list files, one in several quants in the list quants"
            )
            raise BadInputError(error.what, where=error.where, hint=hint) from error
    models = catalogue["models"]
    if name not in models:
        known = sorted({*models, *own})
        close = difflib.get_close_matches(name, known, n=1)
        raise BadInputError(
            f"no model named {name!r}{f'; did you mean {close[0]!r}?' if close else ''}",
            where=variable,
            hint=f"known: {', '.join(known)}; add your own under infra_llm_models",
        )
    return _candidates(models[name], name, f"catalogue models.{name}")


def _candidates(model: Any, name: str, where: str) -> list[Artifact]:
    if not isinstance(model, dict) or "quants" not in model:
        return [check_model(model, name, where)]
    quants = model["quants"]
    if not isinstance(quants, list) or not quants:
        raise BadInputError("quants must be a list of at least one model", where=where)
    both = [key for key in ("filename", "files", "sha256", "size") if key in model]
    if both:
        raise BadInputError(f"{', '.join(both)} beside quants; it belongs into them", where=where)
    shared = {key: value for key, value in model.items() if key not in ("quants", "places")}
    checked = [
        check_model(_of_quants(quant, shared, model.get("places")), name, f"{where}.quants[{n}]")
        for n, quant in enumerate(quants)
    ]
    hashes = [quant["sha256"] for quant in checked]
    if len(set(hashes)) < len(hashes):
        raise BadInputError("two of the quants are the same file", where=where)
    if len({model_format(quant) for quant in checked}) > 1:
        raise BadInputError("quants must be all GGUF or all safetensors", where=where)
    return checked


def _of_quants(quant: Any, shared: Mapping[str, Any], places: Any) -> Any:
    if not isinstance(quant, dict):
        return quant
    if "files" in quant:
        return {**shared, **({"places": places} if places else {}), **quant}
    return {**shared, **_with_places(quant, places)}


def model_format(model: Artifact) -> str:
    """gguf or safetensors, by the names of the files."""
    names = [str(file["filename"]) for file in model_files(model)]
    return "gguf" if all(name.endswith(".gguf") for name in names) else "safetensors"


def with_own_engines(catalogue: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The catalogue with a site's engine releases in place of its own, method by method.

    `own` is {engine: {method: {CPU architecture or "any": artifact}}}. Raises BadInputError for
    anything else, and for an incomplete artifact.
    """
    engines = {name: dict(methods) for name, methods in catalogue["engines"].items()}
    for engine, methods in own.items():
        where = f"infra_llm_engine_artifacts.{engine}"
        if engine not in engines:
            raise BadInputError("no such engine", where=where, hint=f"known: {', '.join(engines)}")
        if not isinstance(methods, dict):
            raise BadInputError("must be a mapping of methods", where=where)
        for method, artifacts in methods.items():
            place = f"{where}.{method}"
            if not isinstance(artifacts, dict):
                raise BadInputError("must be a mapping of CPU architectures", where=place)
            for machine, artifact in artifacts.items():
                check_artifact(artifact, f"{place}.{machine}")
            engines[engine][method] = artifacts
    return {**catalogue, "engines": engines}


def engine_artifact(
    catalogue: Mapping[str, Any], engine: str, method: str, architecture: str
) -> Artifact | None:
    """The engine's artifact for a CPU architecture (uname -m), or None where there is none."""
    found = catalogue["engines"].get(engine, {}).get(method, {})
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
