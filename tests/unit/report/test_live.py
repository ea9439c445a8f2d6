"""Progress: plain lines in a pipe, a table on a terminal, always on stderr."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from infra_llm.report import live
from infra_llm.runner.progress import HostProgress, RunProgress


def state() -> RunProgress:
    return RunProgress(
        {
            "one": HostProgress(stage="verifying", task="Ask [/] it"),
            "two": HostProgress(stage="failed", task="Build"),
        }
    )


def test_plain_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with live.progress_listener() as listener:
        listener(state(), "one")
        listener(state(), "two")
    caught = capsys.readouterr()
    assert caught.out == ""
    lines = caught.err.splitlines()
    assert [line.split(" s  ")[1] for line in lines] == ["one: verifying", "two: failed"]
    assert all(float(line.split(" s  ")[0]) >= 0 for line in lines)


def test_no_lines_of_ours_between_those_of_ansible(capsys: pytest.CaptureFixture[str]) -> None:
    with live.progress_listener(2) as listener:
        listener(state(), "one")
    assert capsys.readouterr() == ("", "")


def test_a_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(
        live, "Console", lambda **_: Console(file=stream, force_terminal=True, width=80)
    )
    with live.progress_listener() as listener:
        listener(state(), "one")
    text = stream.getvalue()
    for words in ("one", "verifying", "Ask [/] it", "two", "failed", "Build"):
        assert words in text
