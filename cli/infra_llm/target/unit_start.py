"""Start the engine's unit and wait for systemd's word that it answers, or take the unit away.

Runs on the target: standard library, Python 3.8. The unit's ExecStartPost= waits for the first
completion, so `systemctl start` ends when the engine serves, or has failed.
"""

from __future__ import annotations

import glob
import os
import subprocess
from typing import Callable, List, Sequence, Tuple

from ..core.errors import HostFailedError
from .service import last_log_lines, service_state
from .start_failure import out_of_memory

_UNITS = "/etc/systemd/system"
_BOOTED = "/run/systemd/system"
"""There where systemd is pid 1 (sd_booted(3))."""

_STOP_SECONDS = 150.0
"""The unit's TimeoutStopSec (30 s) counts for each of TERM, KILL, ExecStopPost, its TERM and KILL
(systemd.service(5))."""
_SPARE_SECONDS = 15.0 + 2 * _STOP_SECONDS
"""A restart stops the old engine first, and the new one when that is silent 15 s after its time.
systemd ends all that by itself; this is for a systemd that does not."""

_LOG_LINES, _SHOWN_LINES = 200, 20
"""Looked at for the reason, and shown."""

Call = Callable[[Sequence[str], float], Tuple[int, str]]
"""Runs a command within a time: (exit status, what it said)."""


def call(command: Sequence[str], seconds: float) -> Tuple[int, str]:
    """Run it in the C locale; status -9 when it did not end in time."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, LC_ALL="C.UTF-8"),
            timeout=seconds,
            check=False,
        )
    except OSError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired:
        return -9, "{} did not end within {:.0f} s".format(" ".join(command), seconds)
    return done.returncode, done.stdout.decode("utf-8", "replace").strip()


def must_change(name: str, state: str) -> bool:
    """Whether `start_unit` would change anything."""
    found = service_state({"name": name})
    return state == "restarted" or not (found.active and found.enabled)


def start_unit(name: str, state: str, seconds: float, run: Call = call) -> bool:
    """Make the unit run, now and at boot; "restarted" starts it anew. True when that was a change.

    Counters of earlier failed starts are forgotten first. A unit that does not come to answer is
    stopped, so that it is not tried for ever. Raises StartFailedError with its last log lines.
    """
    if not must_change(name, state):
        return False
    verb = "restart" if state == "restarted" else "start"
    for words in (["daemon-reload"], ["enable", name]):
        status, said = run(["systemctl", *words], 60.0)
        if status != 0:
            raise HostFailedError("systemctl {}: {}".format(" ".join(words), said), where=name)
    run(["systemctl", "reset-failed", name], 60.0)
    status, said = run(["systemctl", verb, name], seconds + _SPARE_SECONDS)
    if status == 0:
        return True
    ended = service_state({"name": name})
    lines = last_log_lines(ended, _LOG_LINES)
    status, still = run(["systemctl", "stop", name], _STOP_SECONDS)
    run(["systemctl", "reset-failed", name], 60.0)
    raise _failure(name, lines, said, ended.detail, still if status != 0 else "")


def has_unit(name: str, folder: str = _UNITS) -> bool:
    """Whether `remove_unit` would change anything."""
    return bool(_files_of(name, folder))


def remove_unit(name: str, folder: str = _UNITS, booted: str = _BOOTED, run: Call = call) -> bool:
    """Stop the unit, now and at boot, and remove its file; True when there was something of it.

    Drop-ins are the administrator's and stay. Raises HostFailedError when it does not stop; then
    nothing was removed.
    """
    files = _files_of(name, folder)
    if not files:
        return False
    # Where systemd is not pid 1 (any more) nothing of it runs.
    runs = os.path.isdir(booted)
    if runs and os.path.exists(files[0]):
        status, said = run(["systemctl", "stop", name], _STOP_SECONDS)
        if status != 0:
            raise HostFailedError(
                "systemctl stop {}: {}".format(name, said),
                hint="stop it by hand, then run again",
            )
    for path in files:
        os.unlink(path)
    if runs:
        run(["systemctl", "daemon-reload"], 60.0)
        run(["systemctl", "reset-failed", name], 60.0)
    return True


def _files_of(name: str, folder: str) -> List[str]:
    """The unit's file, and the links by which it starts at boot."""
    unit = name + ".service"
    found = [os.path.join(folder, unit)]
    found += sorted(glob.glob(os.path.join(glob.escape(folder), "*.wants", glob.escape(unit))))
    return [path for path in found if os.path.lexists(path)]


class StartFailedError(HostFailedError):
    """The unit did not come to answer; `out_of_memory` is the line that says why, or empty."""

    def __init__(self, what: str, hint: str, out_of_memory: str) -> None:
        super().__init__(what, hint=hint)
        self.out_of_memory = out_of_memory


def _failure(name: str, lines: List[str], said: str, result: str, still: str) -> StartFailedError:
    ours = [line for line in lines if line.startswith("infra-llm: ")]
    why = ours[-1][len("infra-llm: ") :] if ours else said.split("\n", maxsplit=1)[0]
    text = "the service {} did not start: {}".format(name, why)
    if still:
        text += "\n  nor does it stop: {}".format(still)
    if not lines:
        hint = "journalctl -u {} on the host has the rest".format(name)
        return StartFailedError(text, hint, "")
    shown = "\n    ".join(lines[-_SHOWN_LINES:])
    return StartFailedError(
        "{}\n  its last lines:\n    {}".format(text, shown),
        "the engine's own words above say why",
        out_of_memory([result, *lines]),
    )
