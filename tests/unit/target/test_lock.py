from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra_llm.core.errors import BadInputError, ExitCode, RefusedError
from infra_llm.target import lock
from infra_llm.target.lock import acquire, process_space, read, release, renew


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "infra-llm.lock")


def age(path: str, seconds: float) -> None:
    data = json.loads(Path(path).read_text())
    data["taken_at"] -= seconds
    data["renewed_at"] -= seconds
    Path(path).write_text(json.dumps(data))


def test_taken_and_given_back(path: str) -> None:
    assert acquire(path, "ann@desk", "run1", pid=7).changed
    held = read(path)
    assert held is not None
    assert (held.owner, held.pid, held.run_id) == ("ann@desk", 7, "run1")
    assert release(path, "run1").changed
    assert read(path) is None
    assert not Path(path).exists()
    assert not release(path, "run1").changed


def test_another_run_is_refused_with_owner_and_age(path: str) -> None:
    acquire(path, "ann@desk", "run1", pid=7)
    age(path, 600)
    with pytest.raises(RefusedError) as caught:
        acquire(path, "bob@lab", "run2")
    assert "ann@desk (process 7, run run1), started 10 min ago" in str(caught.value)
    assert "taken over in 4" in caught.value.hint  # 3600 - 600 s: 49 or 50 min
    assert caught.value.code == ExitCode.REFUSED
    with pytest.raises(RefusedError):
        release(path, "run2")
    with pytest.raises(RefusedError):
        renew(path, "run2")
    assert read(path).run_id == "run1"  # type: ignore[union-attr]


def test_the_same_run_may_ask_again_and_renews(path: str) -> None:
    acquire(path, "ann@desk", "run1")
    age(path, 3000)
    assert not acquire(path, "ann@desk", "run1").changed
    age(path, 3000)
    renew(path, "run1")
    held = read(path)
    assert held is not None
    assert held.renewed_at - held.taken_at > 5000
    with pytest.raises(RefusedError):
        acquire(path, "bob@lab", "run2")


def test_a_stale_lock_is_taken_over_and_said(path: str) -> None:
    acquire(path, "ann@desk", "run1")
    age(path, 3 * 3600)
    outcome = acquire(path, "bob@lab", "run2")
    assert outcome.took_over == "took over the lock of ann@desk (run run1), not renewed for 3 h"
    with pytest.raises(RefusedError, match="bob@lab"):
        renew(path, "run1")


@pytest.mark.parametrize("run_id", ["run-of-this-test", "run-of-this-test host1"])
def test_a_lock_whose_run_still_works_on_the_host_is_not_stale(path: str, run_id: str) -> None:
    """A compilation or a large model takes longer than any patience between two renewals."""
    environment = {**os.environ, "INFRA_LLM_RUN": "run-of-this-test"}
    with subprocess.Popen(["sleep", "60"], env=environment) as working:
        acquire(path, "ann@desk", run_id)
        age(path, 3 * 3600)
        with pytest.raises(RefusedError, match="ann@desk"):
            acquire(path, "bob@lab", "run2")
        working.kill()
    assert acquire(path, "bob@lab", "run2").took_over


def test_a_lock_whose_process_died_here_is_taken_over(path: str) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    acquire(path, "ann@desk", "run1", pid=done.pid, controller_space=process_space())
    assert "is gone" in acquire(path, "bob@desk", "run2").took_over


@pytest.mark.parametrize(
    ("pid", "space"),
    [(os.getpid(), process_space()), (2**22 + 1, "another machine"), (1, "")],
    ids=["this process", "another machine", "unknown"],
)
def test_a_process_that_lives_or_cannot_be_seen_keeps_it(pid: int, space: str, path: str) -> None:
    acquire(path, "ann@desk", "run1", pid=pid, controller_space=space)
    with pytest.raises(RefusedError):
        acquire(path, "bob@desk", "run2")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": "x"}'])
def test_a_damaged_lock_holds_nobody(text: str, path: str) -> None:
    Path(path).write_text(text)
    assert read(path) is None
    assert acquire(path, "ann@desk", "run1").changed
    assert read(path).run_id == "run1"  # type: ignore[union-attr]


def test_check_mode_touches_nothing_and_still_refuses(path: str) -> None:
    assert acquire(path, "ann@desk", "run1", check_mode=True).changed
    assert not Path(path).exists()
    acquire(path, "ann@desk", "run1")
    before = Path(path).read_text()
    with pytest.raises(RefusedError):
        acquire(path, "bob@lab", "run2", check_mode=True)
    assert release(path, "run1", check_mode=True).changed
    assert Path(path).read_text() == before


def test_renewing_a_lock_that_is_gone_is_refused(path: str) -> None:
    with pytest.raises(RefusedError, match="is gone"):
        renew(path, "run1")
    assert not Path(path).exists()


def test_it_needs_a_name(path: str) -> None:
    with pytest.raises(BadInputError):
        acquire(path, "", "run1")


def test_of_many_at_once_one_gets_it(path: str) -> None:
    for _ in range(20):
        winners: list[str] = []
        barrier = threading.Barrier(8)

        def enter(run: str, barrier: threading.Barrier, winners: list[str]) -> None:
            barrier.wait()
            try:
                acquire(path, "x@y", run)
                winners.append(run)
            except RefusedError:
                pass

        threads = [
            threading.Thread(target=enter, args=(f"run{n}", barrier, winners)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        release(path, winners[0])


def test_the_default_does_not_survive_a_reboot() -> None:
    assert lock.LOCK_PATH.startswith("/run/")
