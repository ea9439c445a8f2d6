"""Ansible's complaints about an inventory in our words; what it has printed, for real."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import BadInputError
from infra_llm.runner import inventory
from infra_llm.runner.inventory import load_inventory

BINARY = "a value is of the type Bytes (!!binary, say), which no variable is"
MERGED = """\
all:
  vars:
    base: &base {infra_llm_port: 9000, infra_llm_users: 2}
  hosts:
    one:
      <<: *base
      infra_llm_port: 9001
"""
TWO_HOSTS = "all:\n  hosts:\n    one: {}\n    two: {}\n    one: {}\n"
TWO_KEYS = "infra_llm_port: 9000\ninfra_llm_context: 512\ninfra_llm_port: 9001\n"


def refused(path: Path, limit: str | None = None) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        load_inventory(path, limit)
    error = caught.value
    assert error.hint, "what to do next"
    for noise in ("Traceback", 'File "', "probably a bug", "WARNING", "ERROR", "plugin"):
        assert noise not in str(error)
    return error


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.ini", "[a:children]\na\n", "a group is its own child: a"),
        ("a.yml", "all: {children: {b: {children: {b: }}}}\n", "a group is its own child: b"),
        (
            "a.ini",
            "[a:children]\nb\n[b:children]\na\n",
            "Adding group 'a' as child to 'b' creates a recursive dependency loop.",
        ),
        ("a.yml", "all: {hosts: {one: {infra_llm_model: !!binary aGk=}}}\n", BINARY),
        (
            "a.yml",
            "all:\n  hosts:\n   one: [\n",
            "YAML parsing failed: While parsing a flow node did not find expected node content.; "
            "line 4",
        ),
        ("a.yml", TWO_HOSTS, "one is given twice, line 5"),
        ("a.yaml", f"all: {{hosts: {{one: {{}}}}}}\n{TWO_KEYS}", "infra_llm_port is given twice"),
    ],
)
def test_what_ansible_complains_of_is_said_once_and_alone(
    name: str, text: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    error = refused(path)
    assert error.where == str(path)
    assert error.what.startswith(what)
    assert "Invalid host pattern" not in error.what


@pytest.mark.parametrize(
    ("file", "text", "what"),
    [
        ("host_vars/one.yml", TWO_KEYS, "infra_llm_port is given twice, line 3"),
        ("host_vars/one", TWO_KEYS, "infra_llm_port is given twice, line 3"),
        ("group_vars/all/ports.yaml", "a: [{b: 1, b: 2}]\n", "b is given twice, line 1"),
        ("host_vars/one.yml", "infra_llm_port: [\n", "expected the node content"),
    ],
)
@pytest.mark.parametrize("inventory_is", ["", "hosts.ini"])
def test_a_file_beside_the_inventory_is_named(
    file: str, text: str, what: str, inventory_is: str, tmp_path: Path
) -> None:
    (tmp_path / "hosts.ini").write_text("one\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert refused(tmp_path / inventory_is).what.startswith(f"{file}: {what}")


def test_the_words_of_a_program_that_failed_are_said(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sh"
    path.write_text("#!/bin/sh\necho 500 the cloud is down >&2; exit 3\n")
    path.chmod(0o755)
    with pytest.raises(BadInputError) as caught:
        load_inventory(path)
    assert caught.value.what == (
        "Inventory script returned non-zero exit code 3.; 500 the cloud is down"
    )


def test_a_key_beside_a_merge_overrides_it_and_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "merged.yml"
    path.write_text(MERGED)
    variables = load_inventory(path).variables["one"]
    assert (variables["infra_llm_port"], variables["infra_llm_users"]) == (9001, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANSIBLE_VERBOSITY", "4"),
        ("ANSIBLE_DEBUG", "1"),
        ("ANSIBLE_FORCE_COLOR", "1"),
        ("LC_ALL", "C"),
    ],
)
def test_settings_of_the_shell_do_not_spoil_what_we_read(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    path = tmp_path / "one.ini"
    path.write_text("one\n")
    assert load_inventory(path).hosts == ["one"]


def test_a_setting_of_the_shell_that_ansible_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_FORKS", "abc")
    path = tmp_path / "one.ini"
    path.write_text("one\n")
    error = refused(path)
    assert error.where == "ANSIBLE_FORKS"
    assert error.what == "Invalid value provided for 'integer': 'abc'"


def test_an_inventory_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inventory.sh"
    path.write_text("#!/bin/sh\nexec sleep 5\n")
    path.chmod(0o755)
    monkeypatch.setattr(inventory, "_SECONDS", 2)
    error = refused(path)
    assert error.what == "ansible-inventory has not read it in 2 s"
    assert error.hint == f"see what it does: ansible-inventory -i {path} --list"


def test_what_is_no_json_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "hello", "")

    monkeypatch.setattr(inventory.subprocess, "run", run)
    path = tmp_path / "one.ini"
    path.write_text("one\n")
    assert "printed no JSON but 'hello'" in refused(path).what


@pytest.mark.parametrize("limit", ["", ",", " , ", "!", ":&"])
def test_a_limit_without_a_name_is_not_every_host(limit: str, tmp_path: Path) -> None:
    path = tmp_path / "one.ini"
    path.write_text("one\n")
    assert f"--limit {limit!r} names no host" in refused(path, limit).what


@pytest.mark.parametrize("name", ["a/b", "../x", "/", "x" * 300])
def test_a_host_whose_name_can_not_be_a_files_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "lab.ini"
    path.write_text(f"one\n{name} ansible_connection=local\n")
    error = refused(path)
    assert error.where == str(path)
    assert error.what.startswith(f"a host can't be named '{name[:200]}'")


def test_a_host_whose_name_does_not_print_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lab.yml"
    path.write_text('all: {hosts: {"a\\x07b": {}}}\n')
    assert "no text file" in refused(path).what
