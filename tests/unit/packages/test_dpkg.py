"""Locks, holds and interruptions of dpkg, with real lock files and stood-in output."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.packages import dpkg
from infra_llm.target.packages.command import Output

HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_holder_of_a_lock_is_named_and_waited_for(tmp_path: Path) -> None:
    script, lock = tmp_path / "unattended-upgrade", tmp_path / "lock"
    script.write_text(HOLD)
    words = [sys.executable, str(script), str(lock)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        assert dpkg.lock_holder(str(lock)) == holder.pid
        with pytest.raises(HostFailedError) as error:
            dpkg.wait_for_locks(0.2, [str(lock)])
        assert f"unattended-upgrade (pid {holder.pid})" in str(error.value)
        holder.terminate()
    assert dpkg.wait_for_locks(5, [str(lock)]) < 5


def test_a_lock_that_is_given_back_in_time_is_no_error(tmp_path: Path) -> None:
    script, lock = tmp_path / "apt", tmp_path / "lock"
    script.write_text(HOLD.replace("sleep(60)", "sleep(0.3)"))
    with subprocess.Popen([sys.executable, str(script), str(lock)], stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.readline()
        started = time.monotonic()
        dpkg.wait_for_locks(20, [str(lock)])
        assert time.monotonic() - started < 19


def test_files_that_do_not_exist_hold_nobody_up(tmp_path: Path) -> None:
    assert dpkg.wait_for_locks(0, [str(tmp_path / "none")]) < 1


def stood_in(text: str, status: int = 0) -> dpkg.Call:
    def run(_command: Sequence[str]) -> Output:
        return Output(status, text)

    return run


ROWS = (
    "libc6\t2.36\tinstall\tinstalled\n"
    "nvidia-smi\t580.95.05-1\thold\tinstalled\n"
    "libcuda1\t580.95.05-1\tinstall\thalf-configured\n"
    "old\t1\tdeinstall\tconfig-files\n"
    "never\t\tunknown\tnot-installed\n"
)


def test_states_are_read_as_dpkg_query_prints_them(tmp_path: Path) -> None:
    found = dpkg.installed(stood_in(ROWS))
    assert set(found) == {"libc6", "nvidia-smi", "libcuda1"}
    assert found["nvidia-smi"].held
    assert not found["libc6"].held
    assert dpkg.half_installed(found) == ["libcuda1"]
    assert not dpkg.has_journal(str(tmp_path))
    (tmp_path / "0001").touch()
    assert dpkg.has_journal(str(tmp_path))


def test_a_dpkg_that_can_not_be_repaired_says_which_package() -> None:
    with pytest.raises(HostFailedError, match="dpkg: error processing package libcuda1"):
        dpkg.repair(stood_in("dpkg: error processing package libcuda1 (--configure):\n", 1))


def test_patterns_find_names() -> None:
    names = ["nvidia-smi", "libnvidia-ml1", "libcuda1", "linux"]
    assert dpkg.matching(names, ["nvidia-*", "lib*1"]) == [
        "libcuda1",
        "libnvidia-ml1",
        "nvidia-smi",
    ]
