"""One look at a host: what it is, what it remembers, what differs from that.

Runs on the target: standard library, Python 3.8. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from typing import Any, Dict, List, Optional

from . import lock, receipts
from .access import access_differences
from .archives import MARKER
from .container_image import container_pid
from .inspect_host import inspect_user
from .probe import ProbeOptions, probe
from .service import service_states
from .sockets import is_descendant, listener

_TRACES = ("state", "launch_file", "unit", "supervisor_config")
"""What a host has that was provisioned before; a host without any of these is a new one."""


def audit(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """Everything the controller needs to decide what this host lacks, in one answer.

    `arguments` holds the layout (core/layout.py) and `thorough` (hash every file, however big).
    Returns hardware, state (None on a new host), differences by role, the service, the lock, the
    installed engine, disk space in MiB, the Pythons that a service may use, and the control group.
    """
    layout = arguments["layout"]
    state, broken = _read_state(layout["state"])
    differences = receipts.audit_receipts(
        layout["receipts"], thorough=bool(arguments.get("thorough"))
    )
    if broken:
        differences.setdefault("llm_verify", []).append(broken)
    door = access_differences(layout)
    if door:
        differences.setdefault("llm_access", []).extend(door)
    hardware = probe(options=_probe_options(arguments))
    return {
        "hardware": hardware.to_dict(),
        "own_gpu_pids": _own(
            [process.pid for gpu in hardware.gpus for process in gpu.processes], layout
        ),
        "state": state,
        "readable": _readable(layout),
        "stack": _read_stack(layout.get("stack_state", "")),
        "stack_differences": _stack_differences(arguments),
        "differences": differences,
        "lock": _lock(layout["lock"]),
        "engine": _installed_engine(layout["engine"]),
        "free_mib": {key: _free_mib(layout[key]) for key in ("opt", "var", "etc")},
        "models_mib": _sizes_mib(layout["models"]),
        "engine_data_mib": _tree_mib(layout["engine_data"]),
        "pythons": _pythons(),
        "missing_libraries": _missing_libraries(arguments.get("libraries") or []),
        "effective_uid": os.geteuid(),
        "port": _port(int(arguments["port"]), layout),
        "engine_port": _port(int(arguments["engine_port"]), layout)
        if arguments.get("engine_port")
        else None,
        "user": inspect_user(layout["user"]),
        "fresh": not any(os.path.lexists(layout[name]) for name in _TRACES),
    }


def _probe_options(arguments: Dict[str, Any]) -> ProbeOptions:
    measure = arguments.get("measure") or []
    return ProbeOptions(
        pynvml_source=arguments.get("pynvml") or "",
        measure_memory="memory" in measure,
        measure_disks="disks" in measure,
        measure_gpus="gpus" in measure,
        measured=arguments.get("measured") or {},
    )


def _own(pids: List[int], layout: Dict[str, str]) -> List[int]:
    """Those of the processes that belong to this service."""
    if not pids:
        return []
    service = _service_pids(layout)
    return [pid for pid in pids if any(is_descendant(pid, one) for one in service)]


def _lock(path: str) -> Optional[Dict[str, Any]]:
    found = lock.read(path)
    return asdict(found) if found else None


def _read_state(path: str) -> "tuple[Optional[Dict[str, Any]], str]":
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError) as error:
        return None, "state file {} can't be read: {}".format(path, error)
    desired = state.get("desired") if isinstance(state, dict) else None
    if not isinstance(desired, dict) or "manager" not in (desired.get("service") or {}):
        return None, "state file {} is not ours".format(path)
    return state, ""


def _readable(layout: Dict[str, str]) -> List[str]:
    """What earlier versions let everybody read: addresses in it may hold passwords."""
    paths = (layout["state"], layout.get("stack_state", ""))
    return [path for path in paths if os.path.isfile(path) and os.stat(path).st_mode & 0o077]


def _stack_differences(arguments: Dict[str, Any]) -> Dict[str, List[str]]:
    """Against the receipts of the stack's roles; a host without them costs nothing."""
    folder = arguments["layout"].get("stack_receipts", "")
    if not os.path.isdir(folder):
        return {}
    return receipts.audit_receipts(folder, thorough=bool(arguments.get("thorough")))


def _read_stack(path: str) -> Optional[Dict[str, Any]]:
    """The NVIDIA stack that was applied to this host; None where none was, or it can't be read."""
    try:
        with open(path, encoding="utf-8") as file:
            stack = json.load(file)
    except (OSError, ValueError):
        return None
    return stack if isinstance(stack, dict) and isinstance(stack.get("roles"), dict) else None


def _installed_engine(engine: str) -> Dict[str, Any]:
    """Which release `current` points at and the artifact it came from."""
    current = os.path.join(engine, "current")
    try:
        release = os.path.basename(os.readlink(current))
    except OSError:
        return {}
    try:
        with open(os.path.join(current, MARKER), encoding="utf-8") as file:
            marker = json.load(file)
    except (OSError, ValueError):
        return {"release": release}
    return {"release": release, "sha256": marker.get("sha256")}


def _free_mib(path: str) -> int:
    """Free space for root's files on the file system that would hold `path`."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free // 2**20


def _sizes_mib(folder: str) -> Dict[str, float]:
    """Sizes of the files in a folder and in those right below it: "name", "folder/name"."""
    found = {}
    for path, folders, files in os.walk(folder):
        if path != folder:
            folders.clear()
        for name in files:
            whole = os.path.join(path, name)
            if not os.path.islink(whole):
                found[os.path.relpath(whole, folder)] = os.path.getsize(whole) / 2**20
    return found


def _tree_mib(folder: str) -> float:
    found = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(path, name)).st_size
    return found / 2**20


def _missing_libraries(names: List[str]) -> List[str]:
    """Those that the dynamic loader does not find."""
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def _pythons() -> List[Dict[str, str]]:
    """Interpreters of the system (never a user's own), the newest first."""
    found = {}
    for folder in ("/usr/bin", "/usr/local/bin"):
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if re.match(r"python3(\.\d+)?$", name):
                path = os.path.realpath(os.path.join(folder, name))
                found[path] = _python_version(path)
    usable = [{"path": path, "version": version} for path, version in found.items() if version]
    return sorted(usable, key=lambda p: [int(n) for n in p["version"].split(".")], reverse=True)


def _python_version(path: str) -> str:
    match = re.search(r"python(3\.\d+)$", path)
    if match:
        return match.group(1)
    if os.path.realpath(sys.executable) == path:
        return "{}.{}".format(*sys.version_info[:2])
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [path, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""


def _port(port: int, layout: Dict[str, str]) -> Dict[str, Any]:
    """Whether the wished port is free, ours, or somebody else's."""
    holder = listener(port)
    if holder is None:
        return {"number": port, "taken_by": "", "ours": False}
    if holder.pid and any(is_descendant(holder.pid, pid) for pid in _service_pids(layout)):
        return {"number": port, "taken_by": "", "ours": True}
    taken_by = "{} (pid {})".format(holder.name, holder.pid) if holder.pid else holder.name
    return {"number": port, "taken_by": taken_by, "ours": False}


def _service_pids(layout: Dict[str, str]) -> List[int]:
    """Main process of our service under either manager; the state file may be damaged."""
    units = [
        {"name": layout["service"], "manager": manager, "socket": layout["supervisor_socket"]}
        for manager, file in (("systemd", "unit"), ("supervisor", "supervisor_config"))
        if os.path.exists(layout[file])
    ]
    front = "/etc/systemd/system/{}.service".format(layout["front"])
    if os.path.exists(front):
        units.append({"name": layout["front"], "manager": "systemd", "socket": ""})
    pids = [state.main_pid for state in service_states(units).values() if state.main_pid]
    inside = _container_pid(layout)
    return [*pids, inside] if inside else pids


def _container_pid(layout: Dict[str, str]) -> Optional[int]:
    """The first process of a service that runs in a container: no child of its unit's client."""
    try:
        with open(layout["launch_file"], encoding="utf-8") as file:
            box = json.load(file).get("container") or {}
    except (OSError, ValueError, AttributeError):
        return None
    return container_pid(box["engine"], box["name"]) if box.get("engine") else None
