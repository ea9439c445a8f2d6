"""supervisor's program is brought back from whatever state it is in.

The stand-in refuses what supervisor 4.3's rpcinterface.py refuses; the scenario llm_service does
the same to a real supervisord.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra_llm.content import content_root
from infra_llm.core.errors import HostFailedError
from infra_llm.target import supervised
from infra_llm.target.supervised import Supervised, restart, start

from .supervisord import Supervisord

CONFIG = content_root() / "roles" / "llm_service" / "templates" / "supervisord.conf.j2"


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[Supervisord]:
    server = Supervisord(str(tmp_path / "s.sock"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def program(supervisord: Supervisord, tmp_path: Path) -> Supervised:
    return Supervised("llama", str(tmp_path / "s.conf"), str(tmp_path / "s.sock"))


@pytest.mark.parametrize(
    "states",
    [
        ["RUNNING"],
        ["RUNNING", "STOPPING", "STOPPING", "STOPPED"],
        ["STARTING", "STOPPED"],
        ["BACKOFF", "STOPPED"],
        ["EXITED", "STARTING", "STOPPED"],
        ["STOPPING", "STOPPED"],
        ["STOPPED"],
        ["EXITED"],
        ["FATAL"],
        [],
    ],
    ids=" ".join,
)
def test_a_restart_takes_it_from_every_state(
    states: list[str], supervisord: Supervisord, program: Supervised
) -> None:
    """`states` are those that it goes through, one further at each call; [] has no group."""
    supervisord.goes_through("llama", states)
    assert restart(program) is True
    assert program.state().state == "RUNNING"
    assert supervisord.calls[0] == "reloadConfig"
    assert supervisord.calls[-1] == "addProcessGroup"


@pytest.mark.parametrize("states", [["BACKOFF", "STOPPED"], ["STOPPING", "STOPPED"], ["FATAL"], []])
def test_a_start_takes_it_from_every_state(
    states: list[str], supervisord: Supervisord, program: Supervised
) -> None:
    supervisord.goes_through("llama", states)
    assert start(program) is True
    assert program.state().active


def test_one_that_runs_is_not_started(supervisord: Supervisord, program: Supervised) -> None:
    supervisord.program("llama")
    assert start(program) is False
    assert supervisord.calls == []


def test_one_that_does_not_end_is_said(
    supervisord: Supervisord, program: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "_STOP_SECONDS", 0.3)
    supervisord.goes_through("llama", ["RUNNING", *["STOPPING"] * 1000])
    with pytest.raises(HostFailedError, match="llama did not end"):
        restart(program)
    assert "addProcessGroup" not in supervisord.calls


def test_it_is_waited_for_longer_than_supervisor_waits_before_it_kills() -> None:
    found = re.search(r"^stopwaitsecs=(\d+)$", CONFIG.read_text(), re.MULTILINE)
    assert found
    waits = int(found.group(1))
    assert waits + 15 <= supervised._STOP_SECONDS


def test_other_refusals_are_told(supervisord: Supervisord, program: Supervised) -> None:
    supervisord.program("llama", "FATAL")
    supervisord.broken = "CANT_REREAD: no section"
    with pytest.raises(HostFailedError, match="refused reloadConfig: CANT_REREAD: no section"):
        restart(program)


def test_an_answer_that_is_none_is_an_error_in_words(
    supervisord: Supervisord, program: Supervised
) -> None:
    supervisord.program("llama", "FATAL")
    supervisord.http_status = 500
    with pytest.raises(HostFailedError, match=r"does not answer: .*500 Internal"):
        supervised._call(program, "reloadConfig")
