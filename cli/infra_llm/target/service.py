"""Ask the host's service manager: systemd where it is pid 1, else supervisor.

Standard library, Python 3.8. supervisor is asked through the XML-RPC of its unix socket
(supervisor's documentation, "XML-RPC API Documentation"), so its package need not be importable.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import xmlrpc.client
from dataclasses import asdict, dataclass
from typing import IO, Any, Callable, Dict, List, Optional, Pattern, Sequence, Tuple

SUPERVISOR_SOCKET = "/run/infra-llm/supervisor.sock"
_TIMEOUT = 20.0
_KILLED = -9
_LARGEST_OUTPUT = 4 * 1024 * 1024

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


_TRACEBACK = "Traceback (most recent call last)"
_FRAME = re.compile(
    r"(?:\(\w[^)]* pid=\d+\) )?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]+\])?"
    r"(?:\s{2,}|\s*Traceback \(most recent call last\)|\s*$|nanobind: | - (?:leaked|\.\.\.) |"
    r"See https://nanobind|\S*resource_tracker\.py:\d+: UserWarning)"
)
"""With or without vLLM's prefix "(Worker pid=7) ERROR 11-22 14:12:03 [core.py:1512]"."""


def run_command(command: Sequence[str]) -> Tuple[int, str, str]:
    """Run with a time-out and the C locale; (127, "", reason) when it can't be run,
    (-9, "", reason) when it does not end.

    Output is cut at 4 MiB: a journal may be larger than the memory, and its start is what counts.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=dict(os.environ, LC_ALL="C.UTF-8"),
            )
        except OSError as error:
            return 127, "", str(error)
        status, out = _read_output(process)
        errors.seek(0)
        said = errors.read(65536).decode("utf-8", "replace")
    if status == _KILLED:
        said = "{} did not end within {:g} s".format(command[0], _TIMEOUT)
    return status, out.decode("utf-8", "replace"), said


def _read_output(process: "subprocess.Popen[bytes]") -> Tuple[int, bytes]:
    watch = threading.Timer(_TIMEOUT, process.kill)
    watch.start()
    try:
        with process:
            out = process.stdout.read(_LARGEST_OUTPUT) if process.stdout else b""
            if len(out) == _LARGEST_OUTPUT:
                process.kill()
                return 0, out
            return process.wait(), out
    finally:
        watch.cancel()


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
    pairs = zip(names, blocks)
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
    file_state, sub = block.get("UnitFileState", ""), block.get("SubState", "")
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
        state=active if sub in ("", active) else "{} ({})".format(active, sub),
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


def start_log(
    state: ServiceState, mark: Pattern[bytes], run: Run = run_command, limit: int = 1024 * 1024
) -> str:
    """What the service wrote when it was last started, at most `limit` bytes.

    systemd tells starts apart. In a log file of supervisor (and those it rotated away, .1, .2 ...)
    the last line that matches `mark` begins a start. "" when that is not to be found.
    """
    if state.manager != "supervisor":
        if not state.invocation:
            return ""
        command = ["journalctl", "--no-pager", "--quiet", "--output=cat"]
        return run([*command, "_SYSTEMD_INVOCATION_ID=" + state.invocation])[1][:limit]
    for path in [state.log_file] + ["{}.{}".format(state.log_file, n) for n in range(1, 11)]:
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            start = _last_match(stream, mark)
            if start is not None:
                stream.seek(start)
                return stream.read(limit).decode("utf-8", "replace")
    return ""


def _last_match(stream: IO[bytes], mark: Pattern[bytes]) -> Optional[int]:
    found, offset = None, 0
    for line in stream:
        if mark.search(line):
            found = offset
        offset += len(line)
    return found


def last_log_lines(state: ServiceState, count: int = 20, run: Run = run_command) -> List[str]:
    """The last lines that the service wrote, also before it was last restarted.

    Of a Python program that died the frames of its tracebacks are left out: those of several
    processes are longer than `count`, and what went wrong stands between them.
    """
    if state.manager == "supervisor":
        return telling_lines(_file_end(state.log_file, 256 * 1024).splitlines())[-count:]
    # What it said itself; what systemd says of it only where it could not even start.
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines"]
    own = run([*command, str(count * 30), "_SYSTEMD_UNIT=" + _unit_name(state.name)])[1]
    own = own or run([*command, str(count), "--unit", state.name])[1]
    return telling_lines(own.splitlines())[-count:]


def telling_lines(lines: List[str]) -> List[str]:
    """`lines` without the frames of Python's tracebacks and what libraries say as they end."""
    if not any(_TRACEBACK in line for line in lines):
        return lines
    return [line for line in lines if not _FRAME.match(line)]


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
