from __future__ import annotations

import pytest
from tests.lab import __main__ as command
from tests.lab import backend, system
from tests.lab.config import LabError


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--hosts", "Node1"],
        ["up", "--name", "../x"],
        ["up", "--platforms", "{"],
        ["up", "--memory", "much"],
        ["swap", "--name", "no-such-lab", "node1", "rtx3060"],
        ["molecule", "no-such-scenario"],
    ],
)
def test_bad_input_is_one_error_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_down_without_a_lab_is_no_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["down", "--name", "no-such-lab"]) == 0
    assert "nothing to remove" in capsys.readouterr().err


def test_the_variable_chooses_the_back_end(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "podman")
    assert backend.choose() == "podman"
    monkeypatch.setenv(backend.VARIABLE, "lxd")
    with pytest.raises(LabError, match="lxd"):
        backend.choose()


@pytest.mark.parametrize(
    ("script", "runs"),
    [("exit 0", True), ("exit 1", False), ("echo Cannot connect to the daemon; exit 0", False)],
)
def test_an_engine_counts_only_when_its_daemon_answers(script, runs, tmp_path, monkeypatch):
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    assert backend.choose() == ("docker" if runs else "nspawn")


def test_a_failed_command_shows_its_last_lines():
    with pytest.raises(LabError, match="failed with 3:\nno luck"):
        system.run(["sh", "-c", "echo no luck >&2; exit 3"])


def test_a_lock_that_is_held_gives_up_after_its_time(tmp_path):
    with (
        system.locked(tmp_path / "lock"),
        pytest.raises(LabError, match="another run"),
        system.locked(tmp_path / "lock", timeout=0.2),
    ):
        pass


def test_a_record_is_replaced_at_once_and_a_cut_one_is_read_as_none(tmp_path):
    path = tmp_path / "deep" / "hosts.json"
    system.write_json(path, {"hosts": []})
    assert system.read_json(path, None) == {"hosts": []}
    assert [entry.name for entry in path.parent.iterdir()] == ["hosts.json"]
    path.write_text('{"hosts": [')
    assert system.read_json(path, "default") == "default"
