"""The table side by side: every rival's own figures, and dashes for what can't be asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.accuracy import rivals, side_by_side
from tests.accuracy.logs import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_recorded_answers_are_taken_without_the_programs(folder: Path) -> None:
    logs = [case for case in cases() if case.name in {"gt001", "gt003"}]
    found = rivals.fit_params(logs, folder, None)
    assert "recorded, build 11434" in found.note
    assert max(map(abs, found.errors["model"])) < 0.001
    # 304 MiB against 1,024 of the log: over RPC no experts are staged.
    assert min(found.errors["compute"]) == pytest.approx(304 / 1024 - 1)


def test_the_rule_is_the_file_and_a_fifth(folder: Path) -> None:
    (case,) = (case for case in cases() if case.name == "gt003")
    (error,) = rivals.rule([case], folder).errors["all devices"]
    weights, cache, compute = 4437.80, 2048.0, 613.01 + 80.01
    assert error == pytest.approx(1.2 * weights / (weights + cache + compute) - 1, abs=0.002)


def test_a_rival_that_can_not_be_installed_is_dashes_and_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> Path:
        raise OSError("no index here")

    monkeypatch.setattr(rivals, "install_llmfit", refuse)
    monkeypatch.setattr(
        side_by_side, "cases", lambda: [case for case in cases() if case.name == "gt003"]
    )
    side_by_side.show({"cache a device": [0.01, 0.02, 0.03]}, folder, None)
    said = capsys.readouterr().out.splitlines()
    (row,) = (line for line in said if line.startswith("KV cache"))
    assert row.split()[-2:] == ["-", "-"]
    assert "2.00% / 3.0% (3)" in row
    assert "llmfit 1.1.17 could not be installed: no index here" in said
