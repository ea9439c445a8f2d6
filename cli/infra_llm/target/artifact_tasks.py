"""What the module fetch_artifact does: a file or an unpacked folder, one of several artifacts.

Standard library, Python 3.8.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

from ..core.errors import BadInputError
from .archives import MARKER, read_marker, unpack
from .artifacts import (
    MIB,
    FetchResult,
    Settings,
    check_artifact,
    fetch,
    fetch_first,
    file_sha256,
    is_present,
)
from .sealed import damage, read_listing


def run_fetch(params: Dict[str, Any], check_mode: bool = False) -> Dict[str, Any]:
    """Fetch, and unpack when wished.

    `params`: artifact or alternatives, dest, settings, extract, strip_components. An artifact with
    `files` is a folder of that many verified files.
    Returns changed, path, paths (what the owner applies to), mode_paths (what the mode applies to),
    artifact, sha256, place, bytes_downloaded, resumed, seconds, msg and diff.
    Raises BadInputError or HostFailedError.
    """
    if (params.get("artifact") or {}).get("files"):
        return _fetch_files(params, check_mode)
    wanted: List[Dict[str, Any]] = params.get("alternatives") or [params["artifact"]]
    for artifact in wanted:
        check_artifact(artifact)
    destination = os.path.abspath(params["dest"])
    settings = Settings.from_dict(params.get("settings") or {})
    extract = bool(params.get("extract"))
    for artifact in wanted:
        place = _destination(destination, artifact)
        if _state(place, extract, wanted) == artifact["sha256"]:
            nothing = FetchResult(place, False, "", 0, False, 0.0)
            return _report(artifact, nothing, artifact["sha256"], extract)
    first = _destination(destination, wanted[0])
    before = _state(first, extract, wanted)
    if check_mode:
        planned = FetchResult(first, True, "", 0, False, 0.0)
        report = _report(wanted[0], planned, before, extract)
        report["msg"] = "would download {:.1f} MiB".format(wanted[0]["size"] / MIB)
        return report
    if extract:
        chosen, result = _fetch_and_unpack(
            wanted, destination, settings, int(params.get("strip_components") or 0)
        )
    else:
        chosen, result = fetch_first(wanted, lambda a: _destination(destination, a), settings)
    return _report(chosen, result, before, extract)


def _fetch_files(params: Dict[str, Any], check_mode: bool) -> Dict[str, Any]:
    """Each file on its own, so that a second try brings only what is missing."""
    artifact = params["artifact"]
    folder = os.path.abspath(params["dest"])
    settings = Settings.from_dict(params.get("settings") or {})
    for file in artifact["files"]:
        check_artifact(file)
    names = {str(file["filename"]) for file in artifact["files"]}
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    strange = sorted(name for name in there - names if not name.endswith(".part"))
    if strange:
        # An engine loads whatever weights lie in the folder.
        raise BadInputError(
            "the folder holds something that is not of this model: {}".format(", ".join(strange)),
            where=folder,
            hint="move it away",
        )
    result = FetchResult(folder, False, "", 0, False, 0.0)
    missing = 0
    for file in artifact["files"]:
        path = os.path.join(folder, file["filename"])
        if check_mode:
            missing += 0 if is_present(file, path) else int(file["size"])
            continue
        one = fetch(file, path, settings)
        result.changed = result.changed or one.changed
        result.place = result.place or one.place
        result.bytes_downloaded += one.bytes_downloaded
        result.resumed = result.resumed or one.resumed
        result.seconds += one.seconds
    if not check_mode and not there:
        # The engine runs as another user, whatever our umask is.
        os.chmod(folder, 0o755)  # noqa: S103
    result.changed = result.changed or missing > 0
    report = _report(artifact, result, "" if result.changed else str(artifact["sha256"]), False)
    files = [os.path.join(folder, name) for name in sorted(names)]
    report.update({"paths": [folder, *files], "mode_paths": files})
    if missing:
        report["msg"] = "would download {:.1f} MiB".format(missing / MIB)
    return report


def _destination(base: str, artifact: Dict[str, Any]) -> str:
    """Alternatives may name a `folder` each, so that one never overwrites the other."""
    return os.path.join(base, artifact["folder"]) if artifact.get("folder") else base


def _fetch_and_unpack(
    wanted: List[Dict[str, Any]], destination: str, settings: Settings, strip: int
) -> Any:
    for artifact in wanted:
        place = _destination(destination, artifact)
        ours = read_marker(place) or read_listing(place)
        if os.path.isdir(place) and os.listdir(place) and not ours:
            raise BadInputError(
                "the folder holds something that infra-llm did not unpack",
                where=place,
                hint="choose another folder, or empty this one",
            )

    def archive_of(artifact: Dict[str, Any]) -> str:
        return "{}.{}".format(_destination(destination, artifact), artifact["filename"])

    chosen, result = fetch_first(wanted, archive_of, settings)
    place = _destination(destination, chosen)
    try:
        unpack(result.path, place, chosen, int(chosen.get("strip_components", strip)))
    finally:
        os.unlink(result.path)
    result.path = place
    result.changed = True
    return chosen, result


def _state(destination: str, extract: bool, wanted: List[Dict[str, Any]]) -> str:
    """The sha256 of what is there now, "" for nothing; of a folder that is damaged in words how."""
    if extract:
        sha256 = str(read_marker(destination).get("sha256") or "")
        wished = sha256 in [artifact["sha256"] for artifact in wanted]
        wrong = damage(destination) if wished else ""
        return "{}, but {}".format(sha256, wrong) if wrong else sha256
    if not os.path.isfile(destination):
        return ""
    # A large file of the wrong size is not hashed just to be shown.
    if os.path.getsize(destination) not in [artifact["size"] for artifact in wanted]:
        return "unknown, {} bytes".format(os.path.getsize(destination))
    return file_sha256(destination)


def _report(
    artifact: Dict[str, Any], result: FetchResult, before: str, extract: bool
) -> Dict[str, Any]:
    after = str(artifact["sha256"])
    shown = os.path.join(result.path, MARKER) if extract else result.path
    return {
        "changed": result.changed,
        "path": result.path,
        "paths": _all_below(result.path) if extract else [result.path],
        "mode_paths": [result.path],
        "artifact": "{} {}".format(artifact["name"], artifact.get("version", "")).strip(),
        "sha256": after,
        "place": result.place,
        "bytes_downloaded": result.bytes_downloaded,
        "resumed": result.resumed,
        "seconds": round(result.seconds, 3),
        "diff": {
            "before_header": shown,
            "after_header": shown,
            "before": "sha256 {}\n".format(before) if before else "",
            "after": "sha256 {}\n".format(after if result.changed else before),
        },
    }


def _all_below(folder: str) -> List[str]:
    found = [folder]
    for path, folders, files in os.walk(folder):
        found += [os.path.join(path, name) for name in sorted(folders) + sorted(files)]
    return found
