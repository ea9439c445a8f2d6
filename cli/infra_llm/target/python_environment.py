"""A Python environment of exactly the packages of a lock file, every one checked by its sha256.

Standard library, Python 3.8. pip comes as a wheel of the catalogue and is not left in the
environment, so that the host needs neither pip nor python3-venv.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import urllib.parse
from typing import Any, Dict, Iterator, List, Tuple

from ..core.errors import BadInputError, HostFailedError
from .archives import MARKER, read_marker
from .artifacts import fetch, file_sha256
from .transport import Settings

_LAST_LINES = 12
_WORK = ".work"
"""Folder beside the environment for wheels and temporary files while it is made."""
_ASIDE = ".aside"
"""Name of the environment that is being replaced: it is in use, and back when that fails."""


def run_environment(params: Dict[str, Any], check_mode: bool = False) -> Dict[str, Any]:
    """Make the environment `dest` unless it is there and whole.

    `params`: dest, python (interpreter), lock (path on the host), lock_sha256, artifact (name,
    version, filename, sha256: what the marker says), pip (artifact), wheels (artifacts that no
    index has), settings.
    Returns changed, whole (it was there), path, sha256, repaired (the damaged file that it was made
    anew for). What was there before is put back when the new one can't be made.
    Raises BadInputError (lock file, interpreter, a folder that is not ours) or HostFailedError
    with pip's last lines.
    """
    destination = os.path.abspath(params["dest"])
    artifact = params["artifact"]
    if not check_mode:
        _settle(destination)
    before = read_marker(destination)
    wrong = damage(destination) if before.get("sha256") == artifact["sha256"] else ""
    whole = before.get("sha256") == artifact["sha256"] and not wrong
    report = {"changed": not whole, "whole": whole, "path": destination,
              "sha256": artifact["sha256"], "repaired": wrong}  # fmt: skip
    if whole or check_mode:
        return report
    if os.path.lexists(destination) and not _is_ours(destination):
        raise BadInputError(
            "the folder holds something that infra-llm did not make",
            where=destination,
            hint="choose another folder, or empty this one",
        )
    if file_sha256(params["lock"]) != params["lock_sha256"]:
        raise BadInputError(
            "the lock file is not the one of the catalogue",
            where=params["lock"],
            hint="the files of this installation of infra-llm do not belong together: reinstall it",
        )
    work = destination + _WORK
    _remove(work)
    try:
        os.makedirs(os.path.join(work, "tmp"))
        _gather(params, work)
        _replace(params, destination, work)
    finally:
        _remove(work)
    return report


def _settle(destination: str) -> None:
    """Put back, or remove, what a run that was killed had put aside."""
    aside = destination + _ASIDE
    if not os.path.lexists(aside):
        return
    # The marker is written last.
    if read_marker(destination):
        _remove(aside)
        return
    _remove(destination)
    os.rename(aside, destination)


def _replace(params: Dict[str, Any], destination: str, work: str) -> None:
    """Make the environment at its final path: one can't be moved once it is made."""
    if os.path.lexists(destination):
        os.rename(destination, destination + _ASIDE)
    try:
        _make(params, destination, work)
    except BaseException:
        _remove(destination)
        if os.path.lexists(destination + _ASIDE):
            os.rename(destination + _ASIDE, destination)
        raise
    _remove(destination + _ASIDE)


def damage(folder: str) -> str:
    """The first file of an installed package that is missing or of another size, "" for none.

    Contents are not read: 3 GB would be. Every wheel's RECORD lists its files (PEP 376); these
    lists themselves are compared with what the marker says of them.
    """
    if not os.path.exists(os.path.join(folder, "bin", "python")):
        return "bin/python"
    for name, sha256 in sorted((read_marker(folder).get("kept") or {}).items()):
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or file_sha256(path) != sha256:
            return str(name)
    packages = _site_packages(folder)
    for record in _records(packages):
        with open(record, encoding="utf-8", newline="") as stream:
            for row in csv.reader(stream):
                if len(row) == 3 and row[2].isdigit() and not _has_size(packages, row):
                    return row[0]
    return ""


def _has_size(packages: str, row: List[str]) -> bool:
    try:
        return os.path.getsize(os.path.join(packages, row[0])) == int(row[2])
    except OSError:
        return False


def _records(packages: str) -> Iterator[str]:
    for entry in sorted(os.listdir(packages)):
        record = os.path.join(packages, entry, "RECORD")
        if entry.endswith(".dist-info") and os.path.isfile(record):
            yield record


def _site_packages(folder: str) -> str:
    lib = os.path.join(folder, "lib")
    for name in sorted(os.listdir(lib)) if os.path.isdir(lib) else []:
        packages = os.path.join(lib, name, "site-packages")
        if os.path.isdir(packages):
            return packages
    raise HostFailedError("the environment has no site-packages", where=folder)


def _is_ours(folder: str) -> bool:
    return os.path.isdir(folder) and (
        os.path.exists(os.path.join(folder, "pyvenv.cfg")) or not os.listdir(folder)
    )


def _remove(folder: str) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder)


def _gather(params: Dict[str, Any], work: str) -> None:
    settings = Settings.from_dict(params.get("settings") or {})
    for one in [params["pip"], *params.get("wheels", [])]:
        fetch(one, os.path.join(work, "wheels", one["filename"]), settings)


def _make(params: Dict[str, Any], destination: str, work: str) -> None:
    settings = Settings.from_dict(params.get("settings") or {})
    wheels = os.path.join(work, "wheels")
    environment = pip_environment(settings, wheels, os.path.join(work, "tmp"))
    _run([params["python"], "-I", "-m", "venv", "--without-pip", destination], environment)
    python = os.path.join(destination, "bin", "python")
    pip = os.path.join(wheels, params["pip"]["filename"], "pip")
    _run(
        [python, "-I", pip, "install", "--quiet", "--no-input", "--no-cache-dir", "--no-compile",
         "--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement",
         params["lock"]],
        environment,
    )  # fmt: skip
    keys = ("name", "version", "filename", "sha256")
    marker = {key: params["artifact"].get(key) for key in keys}
    lists = [os.path.join(destination, "pyvenv.cfg"), *_records(_site_packages(destination))]
    marker["kept"] = {os.path.relpath(path, destination): file_sha256(path) for path in lists}
    with open(os.path.join(destination, MARKER), "w", encoding="utf-8") as stream:
        json.dump(marker, stream, sort_keys=True)


def pip_environment(settings: Settings, wheels: str, temporary: str) -> Dict[str, str]:
    """pip's settings as variables: an address may hold a password, which argv would show.

    Whatever the host has of its own pip settings is left out. The umask is the caller's.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    indexes = [url for url in settings.index_urls if _is_there(url)]
    folders = [wheels, *(folder for folder in settings.folders if os.path.isdir(folder))]
    environment.update(
        LC_ALL="C.UTF-8",
        TMPDIR=temporary,
        PIP_CONFIG_FILE=os.devnull,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_FIND_LINKS=" ".join(urllib.parse.quote(folder) for folder in folders),
    )
    if indexes:
        environment["PIP_INDEX_URL"] = indexes[0]
        environment["PIP_EXTRA_INDEX_URL"] = " ".join(indexes[1:])
    else:
        environment["PIP_NO_INDEX"] = "1"
    return environment


def _is_there(index: str) -> bool:
    """A folder of the controller, which its pip is set to, is none of the host's."""
    parts = urllib.parse.urlsplit(index)
    return parts.scheme in ("http", "https") or os.path.isdir(urllib.parse.unquote(parts.path))


def _run(command: List[str], environment: Dict[str, str]) -> None:
    """Raises HostFailedError with the last lines that the command wrote."""
    old = os.umask(0o022)
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise BadInputError("can't run {}: {}".format(command[0], error.strerror)) from error
    finally:
        os.umask(old)
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()
        what, hint = explain(said)
        lines = "\n    ".join(said.splitlines()[-_LAST_LINES:])
        raise HostFailedError("{}:\n    {}".format(what, lines), hint=hint)


def explain(said: str) -> Tuple[str, str]:
    """What went wrong and what to do, by the words of pip and venv."""
    if "No module named venv" in said or "ensurepip" in said:
        return ("this Python can't make environments",
                "install the distribution's python3-venv, then run again")  # fmt: skip
    if "DO NOT MATCH THE HASHES" in said:
        return ("a package has another sha256 than the lock file",
                "the index serves other files than those that were locked; use one that does "
                "not repack them")  # fmt: skip
    if "No space left on device" in said:
        return "the disk is full", "free some space there, then run again"
    if "No matching distribution" in said or "Could not find a version" in said:
        return ("a package of the lock file can't be had",
                "set infra_llm_package_index to an index that has it, or put its wheel into one "
                "of infra_llm_artifact_folders")  # fmt: skip
    return "the packages can't be installed", "pip's own words above say why"
