"""A CUDA toolkit in a folder, out of the wheels of one release; whole or not at all.

Standard library, Python 3.8. The wheels of CUDA 13 share one tree, nvidia/cu13, whose nvcc finds
its parts beside itself; what they lack of an installed toolkit are the names that linkers look
for (libcudart.so) and lib64.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from typing import Any, Dict, List, Sequence

from ..core.errors import HostFailedError
from .archives import MARKER
from .artifact_tasks import run_fetch

_TREES = "nvidia/cu[0-9]*"


def install(
    wheels: Sequence[Dict[str, Any]],
    folder: str,
    settings: Dict[str, Any],
    check_mode: bool = False,
) -> Dict[str, Any]:
    """Make `folder` the toolkit; {"changed", "path", "bytes_downloaded", "msg", "diff"}.

    Raises HostFailedError when a wheel can't be had; the folder is as it was then.
    """
    wanted = [str(wheel["sha256"]) for wheel in wheels]
    before = _marker(folder).get("wheels", [])
    megabytes = sum(int(wheel["size"]) for wheel in wheels) / 1024 / 1024
    result = {
        "changed": before != wanted,
        "path": folder,
        "bytes_downloaded": 0,
        "msg": "",
        "diff": {
            "before_header": folder,
            "after_header": folder,
            "before": "".join("sha256 {}\n".format(sha) for sha in before),
            "after": "".join("sha256 {}\n".format(sha) for sha in wanted),
        },
    }
    if before == wanted:
        return result
    if os.path.isdir(folder) and not before:
        raise HostFailedError(
            "the folder holds something that infra-llm did not put there",
            where=folder,
            hint="move it away, or choose another infra_llm_cuda_version",
        )
    if check_mode:
        result["msg"] = "would download {:.0f} MiB".format(megabytes)
        return result
    result["bytes_downloaded"] = _make(wheels, wanted, folder, settings)
    return result


def _make(
    wheels: Sequence[Dict[str, Any]], wanted: List[str], folder: str, settings: Dict[str, Any]
) -> int:
    parts, new = folder + ".parts", folder + ".new"
    loaded = 0
    for wheel in wheels:
        given = {"artifact": wheel, "dest": os.path.join(parts, wheel["name"]), "extract": True}
        loaded += int(run_fetch({**given, "settings": settings})["bytes_downloaded"])
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new, mode=0o755)
    for wheel in wheels:
        trees = glob.glob(os.path.join(parts, wheel["name"], _TREES))
        if not trees:
            raise HostFailedError(
                "{} {} holds no tree of CUDA".format(wheel["name"], wheel.get("version", "")),
                where=folder,
            )
        for tree in trees:
            _move(tree, new)
    _complete(new)
    with open(os.path.join(new, MARKER), "w", encoding="utf-8") as stream:
        json.dump({"wheels": wanted, "names": [wheel["name"] for wheel in wheels]}, stream)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(new, folder)
    shutil.rmtree(parts)
    return loaded


def _move(tree: str, target: str) -> None:
    """All below `tree` to `target`; a file that two wheels bring is taken from the later one."""
    for path, _folders, files in os.walk(tree):
        place = os.path.join(target, os.path.relpath(path, tree))
        os.makedirs(place, mode=0o755, exist_ok=True)
        for name in files:
            source = os.path.join(path, name)
            os.replace(source, os.path.join(place, name))


def _complete(folder: str) -> None:
    """The names that linkers look for, lib64, and programs that everybody may run."""
    os.symlink("lib", os.path.join(folder, "lib64"))
    for path in glob.glob(os.path.join(folder, "lib", "lib*.so.*")):
        name = os.path.basename(path)
        link = os.path.join(folder, "lib", re.sub(r"\.so\..*$", ".so", name))
        if not os.path.lexists(link):
            os.symlink(name, link)
    for pattern in ("bin/*", "nvvm/bin/*"):
        for path in glob.glob(os.path.join(folder, pattern)):
            if os.path.isfile(path) and os.stat(path).st_mode & 0o100:
                os.chmod(path, 0o755)  # noqa: S103 - engines are built by other users, too


def _marker(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
