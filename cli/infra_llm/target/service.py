"""Ask the host's service manager: systemd where it is pid 1, else supervisor.

Standard library, Python 3.8. supervisor is asked through the XML-RPC of its unix socket
(supervisor's documentation, "XML-RPC API Documentation"), so its package need not be importable.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
import xmlrpc.client
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

SUPERVISOR_SOCKET = "/run/infra-llm/supervisor.sock"
_TIMEOUT = 20.0

Run = Callable[[Sequence[str]], Tuple[int, str, str]]
"""Runs a command: (exit status, stdout, stderr)."""


@dataclass
class ServiceState:
    name: str
    manager: str
    """systemd or supervisor."""
    exists: bool = False
    active: bool = False
    state: str = "unknown"
    """The manager's own word: active, failed, RUNNING, FATAL ..."""
    enabled: Optional[bool] = None
    """Starts with the machine (systemd) or with supervisord; None if it could not be read."""
    main_pid: Optional[int] = None
    restarts: Optional[int] = None
    """By the manager since it was last started by hand; supervisor does not count them."""
    invocation: str = ""
    """systemd's id of the current start."""
    log_file: str = ""
    """Where the manager writes the service's output; "" for the journal."""
    detail: str = ""
    """Why it is not active, where the manager says so."""

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)


def run_command(command: Sequence[str]) -> Tuple[int, str, str]:
    """Run with a time-out and the C locale; (127, "", reason) when it can't be run."""
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return (
        done.returncode,
        done.stdout.decode("utf-8", "replace"),
        done.stderr.decode("utf-8", "replace"),
    )


def service_states(
    units: Sequence[Dict[str, Any]], run: Run = run_command
) -> Dict[Tuple[str, str], ServiceState]:
    """The state of each unit `{"name", "manager", "socket"}`, by (manager, name).

    One call a manager, whatever the number of units. `manager` is systemd when left out,
    `socket` is supervisor's.
    """
    states: Dict[Tuple[str, str], ServiceState] = {}
    systemd = [unit["name"] for unit in units if manager_of(unit) == "systemd"]
    if systemd:
        states.update({("systemd", s.name): s for s in systemd_states(systemd, run)})
    sockets: Dict[str, List[str]] = {}
    for unit in units:
        if manager_of(unit) == "supervisor":
            path = unit.get("socket") or SUPERVISOR_SOCKET
            sockets.setdefault(path, []).append(unit["name"])
    for path, names in sockets.items():
        states.update({("supervisor", s.name): s for s in supervisor_states(names, path)})
    return states


def service_state(unit: Dict[str, Any], run: Run = run_command) -> ServiceState:
    """The state of one unit, see `service_states`."""
    return service_states([unit], run)[(manager_of(unit), unit["name"])]


def manager_of(unit: Dict[str, Any]) -> str:
    """systemd unless the unit says supervisor."""
    return str(unit.get("manager") or "systemd")


_PROPERTIES = (
    "Id,Names,LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,InvocationID,"
    "Result,ExecMainStatus"
)


def systemd_states(names: Sequence[str], run: Run = run_command) -> List[ServiceState]:
    """Ask systemd for several units in one call."""
    full = [_unit_name(name) for name in names]
    status, out, error = run(["systemctl", "show", "--property=" + _PROPERTIES, "--", *full])
    blocks = parse_systemctl_show(out)
    if status != 0 or len(blocks) != len(full):
        reason = (error.strip() or "systemctl ended with {}".format(status)).splitlines()[0]
        return [ServiceState(name, "systemd", detail=reason) for name in names]
    pairs = zip(names, blocks)  # noqa: B905 - Python 3.8 has no strict=
    return [_from_systemd(name, block) for name, block in pairs]


def _unit_name(name: str) -> str:
    return name if "." in name else name + ".service"


def parse_systemctl_show(text: str) -> List[Dict[str, str]]:
    """The blocks of `systemctl show`, one a unit in the order asked for."""
    blocks: List[Dict[str, str]] = []
    for block in text.strip().split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines() if "=" in line)
        found = {key: value for key, _, value in pairs}
        if found:
            blocks.append(found)
    return blocks


def _from_systemd(name: str, block: Dict[str, str]) -> ServiceState:
    active = block.get("ActiveState", "unknown")
    file_state = block.get("UnitFileState", "")
    detail = ""
    if active == "failed" or block.get("SubState") == "auto-restart":
        detail = "{}, exit status {}".format(
            block.get("Result", "failed"), block.get("ExecMainStatus", "?")
        )
    return ServiceState(
        name=name,
        manager="systemd",
        exists=block.get("LoadState") == "loaded",
        active=active in ("active", "reloading"),
        state="{} ({})".format(active, block.get("SubState", "")),
        enabled=file_state in ("enabled", "enabled-runtime", "static", "alias"),
        main_pid=_positive(block.get("MainPID", "")),
        restarts=int(block["NRestarts"]) if block.get("NRestarts", "").isdigit() else None,
        invocation=block.get("InvocationID", ""),
        detail=detail,
    )


def _positive(text: str) -> Optional[int]:
    return int(text) if text.isdigit() and int(text) > 0 else None


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self.host)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002
        return _UnixConnection(self._path)


def supervisor_proxy(socket_path: str) -> xmlrpc.client.ServerProxy:
    """supervisord's XML-RPC at its unix socket."""
    return xmlrpc.client.ServerProxy("http://localhost", transport=_UnixTransport(socket_path))


def supervisor_states(names: Sequence[str], socket_path: str) -> List[ServiceState]:
    """Ask supervisord at its unix socket for several programs."""
    proxy = supervisor_proxy(socket_path)
    try:
        processes: Any = proxy.supervisor.getAllProcessInfo()
        configs: Any = _configs(proxy)
    except (OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
        detail = "supervisord does not answer at {}: {}".format(socket_path, error)
        return [ServiceState(name, "supervisor", state="unknown", detail=detail) for name in names]
    by_name = {str(info["name"]): info for info in processes}
    return [_from_supervisor(name, by_name.get(name), configs.get(name)) for name in names]


def _configs(proxy: xmlrpc.client.ServerProxy) -> Dict[str, Any]:
    # getAllConfigInfo came with supervisor 4.2.
    with contextlib.suppress(xmlrpc.client.Fault):
        found: Any = proxy.supervisor.getAllConfigInfo()
        return {str(info["name"]): info for info in found}
    return {}


def _from_supervisor(
    name: str, info: Optional[Dict[str, Any]], config: Optional[Dict[str, Any]]
) -> ServiceState:
    if info is None:
        return ServiceState(name, "supervisor", state="not found", detail="no such program")
    state = str(info["statename"])
    spawn_error = str(info.get("spawnerr") or "")
    return ServiceState(
        name=name,
        manager="supervisor",
        exists=True,
        active=state == "RUNNING",
        state=state,
        enabled=bool(config["autostart"]) if config else None,
        main_pid=int(info["pid"]) or None,
        log_file=str(info.get("stdout_logfile") or info.get("logfile") or ""),
        detail=spawn_error if state in ("FATAL", "BACKOFF", "EXITED") else "",
    )


def read_log(state: ServiceState, run: Run = run_command, limit: int = 4 * 1024 * 1024) -> str:
    """The service's output: of systemd since its current start, of supervisor the log's end.

    At most `limit` bytes of a log file. "" when there is none or it can't be read.
    """
    if state.manager == "supervisor":
        return _file_end(state.log_file, limit)
    what = ["--unit", state.name]
    if state.invocation:
        what = ["_SYSTEMD_INVOCATION_ID=" + state.invocation]
    return run(["journalctl", "--no-pager", "--quiet", "--output=cat", *what])[1]


def last_log_lines(state: ServiceState, count: int = 20, run: Run = run_command) -> List[str]:
    """The last lines that the service wrote, also before it was last restarted."""
    if state.manager == "supervisor":
        return _file_end(state.log_file, 256 * 1024).splitlines()[-count:]
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines", str(count)]
    # What it said itself; what systemd says of it only where it could not even start.
    own = run([*command, "_SYSTEMD_UNIT=" + _unit_name(state.name)])[1]
    return (own or run([*command, "--unit", state.name])[1]).splitlines()[-count:]


def _file_end(path: str, limit: int) -> str:
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - limit))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def wait_until_active(
    unit: Dict[str, Any], seconds: float, run: Run = run_command, poll: float = 0.2
) -> ServiceState:
    """Poll until the unit is active or `seconds` are over; the last state either way."""
    deadline = time.monotonic() + seconds
    while True:
        state = service_state(unit, run)
        if state.active or time.monotonic() >= deadline:
            return state
        time.sleep(poll)
