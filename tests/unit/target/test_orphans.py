"""What an interrupted run left working is found by the run's id and ended, nothing else."""

from __future__ import annotations

import os
import subprocess
import time

from infra_llm.target.orphans import VARIABLE, end_processes, processes_of


def sleeper(run_id: str, *, stubborn: bool = False) -> subprocess.Popen[bytes]:
    script = "trap '' TERM; " if stubborn else ""
    return subprocess.Popen(
        ["sh", "-c", f"{script}sleep 60 & wait; wait"],
        env={**os.environ, VARIABLE: run_id},
        start_new_session=True,
    )


def wait_for(run_id: str, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(processes_of(run_id)) < count and time.monotonic() < deadline:
        time.sleep(0.02)


def test_only_the_processes_of_that_run_are_ended() -> None:
    mine, other = sleeper("run-a"), sleeper("run-b")
    try:
        wait_for("run-a", 2)
        assert mine.pid in processes_of("run-a")
        assert end_processes("run-a") == 2
        assert mine.wait(timeout=5) != 0
        assert processes_of("run-a") == []
        assert other.poll() is None
    finally:
        assert end_processes("run-b") == 2
        other.wait(timeout=5)


def test_one_that_ignores_the_request_is_killed() -> None:
    stubborn = sleeper("run-c", stubborn=True)
    wait_for("run-c", 2)
    end_processes("run-c", grace_seconds=0.5)
    assert stubborn.wait(timeout=5) == -9


def test_a_run_that_left_nothing() -> None:
    assert end_processes("no-such-run") == 0
