"""How one file, link, folder, package, user or service is now, as plain data.

Standard library, Python 3.8. Everything returns None for what is not there.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .artifacts import file_sha256
from .service import Run, ServiceState, manager_of, run_command, service_states

HASHED_ALWAYS = 1024 * 1024
"""Files up to this many bytes are hashed on every look; larger ones when size or time changed."""


def inspect_file(path: str, known: Optional[Dict[str, Any]] = None) -> Optional[Dict[str, Any]]:
    """{"path", "sha256", "owner", "group", "mode" ("0644"), "size", "mtime_ns"} of a file.

    `known` is an earlier answer: a large file whose size and time are still those keeps its
    sha256 unread. None when it is missing or no regular file.
    """
    status = _lstat(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    found = {
        "path": path,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        **_rights(status),
    }
    unchanged = known is not None and all(
        known.get(key) == found[key] for key in ("size", "mtime_ns")
    )
    if known is not None and unchanged and status.st_size > HASHED_ALWAYS:
        found["sha256"] = known["sha256"]
    else:
        found["sha256"] = file_sha256(path)
    return found


def inspect_link(path: str) -> Optional[Dict[str, Any]]:
    """{"path", "target"} of a symbolic link."""
    try:
        return {"path": path, "target": os.readlink(path)}
    except OSError:
        return None


def inspect_directory(path: str) -> Optional[Dict[str, Any]]:
    """{"path", "owner", "group", "mode"} of a folder."""
    status = _lstat(path)
    if status is None or not stat.S_ISDIR(status.st_mode):
        return None
    return {"path": path, **_rights(status)}


def inspect_user(name: str) -> Optional[Dict[str, Any]]:
    """{"name", "uid", "shell", "home", "groups" (sorted, the primary one among them)}."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = {_group(user.pw_gid)}
    groups.update(group.gr_name for group in grp.getgrall() if name in group.gr_mem)
    return {"name": name, "uid": user.pw_uid, "shell": user.pw_shell, "home": user.pw_dir,
            "groups": sorted(groups)}  # fmt: skip


def inspect_units(
    units: Sequence[Dict[str, Any]], run: Run = run_command
) -> Dict[Tuple[str, str], Dict[str, Any]]:
    """(manager, name) -> {"name", "manager", "enabled", "active", "socket"} of those there are."""
    states = service_states(units, run)
    found = {}
    for unit in units:
        key = (manager_of(unit), str(unit["name"]))
        if states[key].exists:
            found[key] = _unit(unit, states[key])
    return found


def _unit(unit: Dict[str, Any], state: ServiceState) -> Dict[str, Any]:
    found = {"name": unit["name"], "manager": state.manager, "enabled": state.enabled,
             "active": state.active}  # fmt: skip
    if unit.get("socket"):
        found["socket"] = unit["socket"]
    return found


def below(folder: str) -> List[str]:
    """The folder and all in it, sorted; what Python compiles for itself is left out."""
    found = [folder]
    for path, folders, files in os.walk(folder) if not os.path.islink(folder) else ():
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.join(path, name) for name in folders + files]
    return sorted(found)


def _lstat(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _rights(status: os.stat_result) -> Dict[str, str]:
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    mode = "{:04o}".format(stat.S_IMODE(status.st_mode))
    return {"owner": owner, "group": _group(status.st_gid), "mode": mode}


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
