"""Run a program under supervisor where there is no systemd.

supervisord comes as a wheel unpacked into a folder: no pip on the host. Runs on the target:
standard library, Python 3.8.
"""

from __future__ import annotations

import http.client
import os
import signal
import time
import xmlrpc.client
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from ..core.errors import HostFailedError
from .orphans import VARIABLE
from .service import (
    ServiceState,
    last_log_lines,
    run_command,
    service_state,
    supervisor_proxy,
    wait_until_active,
)

_START_SECONDS = 20.0
_STOP_SECONDS = 60.0
"""supervisord kills after stopwaitsecs (20 s, the role's supervisord.conf.j2); the rest is for a
kernel that has a model's memory to take back."""

_BAD_NAME, _NOT_RUNNING, _STILL_RUNNING = 10, 70, 91
"""Faults of supervisor 4.3 (supervisor/xmlrpc.py)."""


@dataclass(frozen=True)
class Supervised:
    """One program under one supervisord."""

    name: str
    config: str
    socket: str
    library: str = ""
    """The folder that holds the package supervisor."""
    python: str = "python3"

    def state(self) -> ServiceState:
        return service_state({"name": self.name, "manager": "supervisor", "socket": self.socket})


def start(program: Supervised) -> bool:
    """Make it run; True when it did not. Raises HostFailedError with the log's last lines."""
    return not program.state().active and restart(program)


def restart(program: Supervised) -> bool:
    """Read the configuration again and start the program anew. Raises HostFailedError."""
    if not _answers(program):
        _start_daemon(program)
    else:
        # A changed [program] section takes effect when its group is removed and added again.
        _call(program, "reloadConfig")
        _remove(program)
        _call(program, "addProcessGroup", program.name)
    _must_run(program)
    return True


def shutdown(program: Supervised) -> bool:
    """Stop supervisord and what runs under it; True when it ran."""
    pid = _daemon_pid(program)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while os.path.exists("/proc/{}".format(pid)):
        if time.monotonic() > deadline:
            raise HostFailedError(
                "supervisord (pid {}) did not end in {:.0f} s".format(pid, _STOP_SECONDS),
                hint="end it by hand, then run again",
            )
        time.sleep(0.1)
    return True


def running(program: Supervised) -> bool:
    """Whether supervisord itself answers."""
    return _answers(program)


def _answers(program: Supervised) -> bool:
    return _daemon_pid(program) is not None


def _daemon_pid(program: Supervised) -> Optional[int]:
    try:
        proxy: Any = supervisor_proxy(program.socket)
        return int(proxy.supervisor.getPID())
    except (OSError, xmlrpc.client.Error, http.client.HTTPException):
        return None


def _start_daemon(program: Supervised) -> None:
    os.makedirs(os.path.dirname(program.socket), mode=0o755, exist_ok=True)
    status, out, error = run_command(
        [
            "env",
            # The daemon outlives the run that started it.
            "--unset=" + VARIABLE,
            "PYTHONPATH=" + program.library,
            "PYTHONDONTWRITEBYTECODE=1",
            program.python,
            "-m",
            "supervisor.supervisord",
            "--configuration",
            program.config,
        ]
    )
    if status != 0:
        raise HostFailedError(
            "supervisord did not start: {}".format((error or out).strip() or status),
            where=program.config,
            hint="its log is beside the service's",
        )


def _remove(program: Supervised) -> None:
    """Stop the program whatever it is doing, and take its group away where there is one.

    One that crashes comes and goes between two calls, so both are repeated until the removal is
    taken. No call waits for the end of the program: that may take longer than an answer may.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    stopped, gone = (_NOT_RUNNING, _BAD_NAME), (_STILL_RUNNING, _BAD_NAME)
    while True:
        _call(program, "stopProcess", program.name, False, accepted=stopped)
        if _call(program, "removeProcessGroup", program.name, accepted=gone) != _STILL_RUNNING:
            return
        if time.monotonic() > deadline:
            raise HostFailedError(
                "{} did not end in {:.0f} s".format(program.name, _STOP_SECONDS),
                hint="look for a process in state D (ps), end it, then run again",
            )
        time.sleep(0.2)


def _call(program: Supervised, method: str, *arguments: Any, accepted: Sequence[int] = ()) -> int:
    """0, or the fault with which supervisor refused, where that is accepted."""
    proxy: Any = supervisor_proxy(program.socket)
    try:
        getattr(proxy.supervisor, method)(*arguments)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode in accepted:
            return fault.faultCode
        raise HostFailedError(
            "supervisor refused {}: {}".format(method, fault.faultString),
            hint="\n".join(last_log_lines(program.state())),
        ) from fault
    except (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException) as error:
        raise HostFailedError(
            "supervisord does not answer: {}".format(error),
            where=program.socket,
            hint="see its log beside the service's; end it by hand (its pid is in its pidfile), "
            "then run again",
        ) from error
    return 0


def _must_run(program: Supervised) -> None:
    unit = {"name": program.name, "manager": "supervisor", "socket": program.socket}
    state = wait_until_active(unit, _START_SECONDS)
    if not state.active:
        lines = "\n".join(last_log_lines(state))
        raise HostFailedError(
            "{} is {} {}".format(program.name, state.state, state.detail).strip(),
            hint="its last lines:\n{}".format(lines) if lines else "",
        )
