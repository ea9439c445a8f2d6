from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from infra_llm.target.service import (
    last_log_lines,
    parse_systemctl_show,
    run_command,
    service_state,
    service_states,
    start_log,
    systemd_states,
    telling_lines,
    wait_until_active,
)

from .supervisord import Supervisord

# `systemctl show` of systemd 252 (Debian 12) for sshd, a crashing unit and one that is not there.
SHOW = """\
Id=ssh.service
Names=ssh.service sshd.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=612
NRestarts=0
InvocationID=3f1a5b7d9c3e4f5a8b7c6d5e4f3a2b1c
Result=success
ExecMainStatus=0

Id=llama.service
Names=llama.service
LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=disabled
MainPID=0
NRestarts=4
InvocationID=
Result=exit-code
ExecMainStatus=1

Id=nope.service
Names=nope.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
MainPID=0
NRestarts=0
InvocationID=
Result=success
ExecMainStatus=0
"""


class Recorded:
    """Answers in place of commands, and keeps what was asked."""

    def __init__(self, out: str, status: int = 0, error: str = "") -> None:
        self.answer = (status, out, error)
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        self.asked.append(list(command))
        return self.answer


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[Supervisord]:
    server = Supervisord(str(tmp_path / "s.sock"))
    yield server
    server.shutdown()
    server.server_close()


def test_systemd_is_asked_once_for_all() -> None:
    run = Recorded(SHOW)
    ssh, llama, nope = systemd_states(["ssh", "llama.service", "nope"], run)
    assert len(run.asked) == 1
    assert run.asked[0][-3:] == ["ssh.service", "llama.service", "nope.service"]
    assert (ssh.exists, ssh.active, ssh.enabled, ssh.main_pid, ssh.restarts) == (
        True, True, True, 612, 0,
    )  # fmt: skip
    assert ssh.invocation == "3f1a5b7d9c3e4f5a8b7c6d5e4f3a2b1c"
    assert (llama.active, llama.enabled, llama.main_pid, llama.restarts) == (False, False, None, 4)
    assert llama.detail == "exit-code, exit status 1"
    assert (nope.exists, nope.active) == (False, False)


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_systemctl_show("A=b=c\n\nA=\n") == [{"A": "b=c"}, {"A": ""}]


def test_no_systemd_is_unknown_with_its_reason() -> None:
    run = Recorded("", 1, "System has not been booted with systemd as init system\nCan't operate.")
    state = service_state({"name": "llama"}, run)
    assert (state.exists, state.active, state.enabled) == (False, False, None)
    assert state.detail == "System has not been booted with systemd as init system"


def test_a_command_that_is_not_there() -> None:
    status, out, error = run_command(["/no/such/command"])
    assert (status, out) == (127, "")
    assert "No such file" in error


def test_endless_output_is_cut_and_a_slow_command_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, out, _ = run_command(["yes", "log line"])
    assert (status, len(out)) == (0, 4 * 1024 * 1024)
    monkeypatch.setattr("infra_llm.target.service._TIMEOUT", 0.2)
    started = time.monotonic()
    assert run_command(["sleep", "30"]) == (-9, "", "sleep did not end within 0.2 s")
    assert time.monotonic() - started < 10
    code = "import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"
    monkeypatch.setattr("infra_llm.target.service._TIMEOUT", 20)
    assert run_command([sys.executable, "-c", code]) == (3, "out\n", "err")


def test_supervisor(supervisord: Supervisord, tmp_path: Path) -> None:
    supervisord.program("llama", pid=77, log=str(tmp_path / "llama.log"))
    supervisord.program("broken", "FATAL")
    socket = str(tmp_path / "s.sock")
    units = [
        {"name": name, "manager": "supervisor", "socket": socket}
        for name in ("llama", "broken", "none")
    ]
    states = service_states(units)
    llama, broken, none = (states["supervisor", unit["name"]] for unit in units)
    assert (llama.exists, llama.active, llama.enabled, llama.main_pid) == (True, True, True, 77)
    assert (broken.active, broken.state, broken.detail) == (False, "FATAL", "Exited too quickly")
    assert (none.exists, none.state) == (False, "not found")


def test_no_supervisord_says_so(tmp_path: Path) -> None:
    unit = {"name": "x", "manager": "supervisor", "socket": str(tmp_path / "none.sock")}
    state = service_state(unit)
    assert not state.active
    assert "supervisord does not answer at" in state.detail


def test_logs_of_supervisor(supervisord: Supervisord, tmp_path: Path) -> None:
    log = tmp_path / "llama.log"
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    supervisord.program("llama", log=str(log))
    state = service_state(
        {"name": "llama", "manager": "supervisor", "socket": str(tmp_path / "s.sock")}
    )
    assert last_log_lines(state, 2) == ["line 98", "line 99"]
    mark = re.compile(rb"^line [35]0")
    assert start_log(state, mark).startswith("line 50\n")
    assert start_log(state, mark).endswith("line 99\n")
    assert start_log(state, mark, limit=7) == "line 50"
    log.rename(tmp_path / "llama.log.1")
    log.write_text("many requests later\n")
    assert start_log(state, mark).startswith("line 50\n")
    (tmp_path / "llama.log.1").unlink()
    assert start_log(state, mark) == ""


def test_logs_of_systemd_are_those_of_this_start() -> None:
    run = Recorded(SHOW)
    ssh, llama, _ = systemd_states(["ssh", "llama", "nope"], run)
    start_log(ssh, re.compile(b"x"), run)
    assert "_SYSTEMD_INVOCATION_ID=3f1a5b7d9c3e4f5a8b7c6d5e4f3a2b1c" in run.asked[-1]
    asked = len(run.asked)
    assert start_log(llama, re.compile(b"x"), run) == ""
    assert len(run.asked) == asked
    last_log_lines(ssh, 5, run)
    assert run.asked[-1][-3:] == ["--lines", "150", "_SYSTEMD_UNIT=ssh.service"]


def test_a_service_that_said_nothing_is_spoken_of_by_systemd() -> None:
    ssh, _, _ = systemd_states(["ssh", "llama", "nope"], Recorded(SHOW))

    def run(command: Sequence[str]) -> tuple[int, str, str]:
        return 0, "Failed to locate executable\n" if "--unit" in command else "", ""

    assert last_log_lines(ssh, 5, run) == ["Failed to locate executable"]


def test_waiting_ends_as_soon_as_it_is_active(supervisord: Supervisord, tmp_path: Path) -> None:
    supervisord.program("llama", "STARTING")
    unit = {"name": "llama", "manager": "supervisor", "socket": str(tmp_path / "s.sock")}
    assert not wait_until_active(unit, 0.05, poll=0.01).active
    supervisord.program("llama")
    assert wait_until_active(unit, 10, poll=0.01).active


def test_of_a_dead_python_program_the_messages_are_shown_and_not_the_frames() -> None:
    """The form of vLLM 0.32.0's log when its worker can't load a library."""
    worker, core = "(VllmWorker-0 pid=557) ", "(EngineCore pid=544) "
    stamp = "ERROR 11-22 13:49:21 [multiproc_executor.py:953]"
    messages = [
        worker + "WARNING 11-22 13:49:09 [cpu.py:644] Failed to import from vllm._C",
        worker + stamp + " WorkerProc failed to start.",
        worker + stamp + " AttributeError: '_C' object has no attribute 'init'",
        "RuntimeError: Engine core initialization failed.",
        "infra-llm: the engine ended before it answered",
    ]
    said = [
        messages[0],
        messages[1],
        worker + stamp + " Traceback (most recent call last):",
        worker + stamp + '   File "multiproc_executor.py", line 920, in worker_main',
        worker + stamp + "     worker = WorkerProc(*args, **kwargs)",
        worker + stamp + "              ^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        messages[2],
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.11/contextlib.py", line 144, in __exit__',
        "    next(self.gen)",
        core + "",
        messages[3],
        "nanobind: leaked 514 functions!",
        ' - leaked function "create_lds_barrier_init"',
        messages[4],
    ]
    assert telling_lines(said) == messages


def test_lines_of_a_program_without_tracebacks_stay_as_they_are() -> None:
    said = ["llama_model_load: error loading model", "  indented", ""]
    assert telling_lines(said) == said
