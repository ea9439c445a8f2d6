"""Inventories are checked before any host is contacted; ansible-inventory reads them for real."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import BadInputError
from infra_llm.core.variables import BY_NAME, wishes
from infra_llm.runner import inventory
from infra_llm.runner.inventory import Inventory, load_inventory

Write = Callable[..., Path]

FLEET = """\
[gpu]
one ansible_host=192.0.2.1
two ansible_host=192.0.2.2
[cpu]
three ansible_host=192.0.2.3
[nodes:children]
gpu
cpu
"""
LISTING: dict[str, Any] = {}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "lab.ini") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path: Path, limit: str | None = None) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        load_inventory(path, limit)
    assert caught.value.where == str(path)
    assert "Traceback" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["local.ini", "lab.ini"])
def test_the_inventories_that_come_along_can_be_read(name: str) -> None:
    found = load_inventory(Path(__file__).parents[3] / "inventories" / name)
    assert found.hosts
    for values in found.variables.values():
        assert wishes({k: v for k, v in values.items() if k in BY_NAME}, name)


def test_a_missing_inventory(tmp_path: Path) -> None:
    error = refused(tmp_path / "no.ini")
    assert error.what == "no such inventory"
    assert error.hint


def test_an_empty_inventory(write: Write) -> None:
    assert refused(write("")).what == "the inventory is empty"


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("# nothing\n[nodes]\n", "lab.ini", "no hosts"),
        ("[nodes\none\n", "lab.ini", "unpack"),  # Ansible's own words
        ("[nodes:chilren]\ngpu\n", "lab.ini", "unknown type: chilren"),
        ("[nodes]\none two three\n", "lab.ini", "Expected key=value host variable assignment"),
        ("all:\n  hosts:\n   one: {\n", "lab.yml", "line 4"),
        ("- one\n- two\n", "lab.yml", "should be a dictionary"),
        ("all: [one]\n", "lab.yml", "no hosts"),
        (b"\x7fELF\x00\x01\x02\xff\xfe", "lab.ini", "no text file"),
    ],
)
def test_malformed_inventories(text: str | bytes, name: str, words: str, write: Write) -> None:
    error = refused(write(text, name))
    assert words in error.what
    assert "WARNING" not in error.what
    assert "caused by" not in error.what
    assert error.hint


def test_hosts_and_variables_of_groups(write: Write) -> None:
    text = FLEET + "[gpu:vars]\ninfra_llm_port=9000\n[all:vars]\ninfra_llm_context=4096\n"
    found = load_inventory(write(text))
    assert sorted(found.hosts) == ["one", "three", "two"]
    assert len(found.hosts) == 3, "a host in several groups is one host"
    assert found.variables["one"]["infra_llm_port"] == 9000
    assert found.variables["three"]["infra_llm_context"] == 4096
    assert "infra_llm_port" not in found.variables["three"]


def test_a_folder_with_host_variables(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text("one\ntwo\n")
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "two.yml").write_text("infra_llm_port: 9100\n")
    found = load_inventory(tmp_path)
    assert found.variables["two"]["infra_llm_port"] == 9100


@pytest.fixture
def fleet(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fleet, its whole listing read from Ansible only once for all tests of limits."""
    path, read = write(FLEET), inventory._ansible_inventory

    def listing(path: Path, limit: str | None = None) -> dict[str, Any]:
        if limit:
            return read(path, limit)
        if not LISTING:
            LISTING.update(read(path))
        return LISTING

    monkeypatch.setattr(inventory, "_ansible_inventory", listing)
    return path


@pytest.mark.parametrize(
    ("limit", "hosts"),
    [
        ("gpu", ["one", "two"]),
        ("one,three", ["one", "three"]),
        ("nodes:!gpu", ["three"]),
        ("t*", ["three", "two"]),
        ("gpu[0]", ["one"]),
    ],
)
def test_limits(limit: str, hosts: list[str], fleet: Path) -> None:
    found = load_inventory(fleet, limit)
    assert sorted(found.hosts) == hosts
    assert sorted(found.variables) == hosts


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("four", "names 'four', which is neither a host nor a group"),
        ("nodes:!four", "names 'four'"),
        ("x*", "--limit x* leaves no host"),
    ],
)
def test_a_limit_that_names_nothing(limit: str, words: str, fleet: Path) -> None:
    assert words in refused(fleet, limit).what


def test_an_unknown_limit_is_answered_with_the_known_names(fleet: Path) -> None:
    hint = refused(fleet, "fuor").hint
    assert all(name in hint for name in ("one", "two", "three", "gpu", "cpu", "nodes"))


def test_a_host_by_its_ipv6_address(write: Write) -> None:
    assert load_inventory(write("[nodes]\nfd00::1\nfd00::2\n"), "fd00::1").hosts == ["fd00::1"]


def test_mistakes_are_listed_once_with_all_their_hosts(write: Write) -> None:
    text = FLEET + "[all:vars]\ninfra_llm_contxt=4096\n[gpu:vars]\ninfra_llm_port=80\n"
    error = refused(write(text))
    assert error.what.count("infra_llm_contxt") == 1
    assert "did you mean infra_llm_context?" in error.what
    line = next(line for line in error.what.splitlines() if "infra_llm_port" in line)
    assert line.endswith("(one, two)")
    assert "80" in line
    assert "docs/variables.md" in error.hint


def test_hosts_outside_the_limit_may_be_wrong(write: Write) -> None:
    path = write("one infra_llm_port=9000\ntwo infra_llm_port=1\n")
    assert load_inventory(path, "one").hosts == ["one"]
    refused(path)


def test_wrong_values_in_an_ini(write: Write) -> None:
    wrong = {
        "a": "infra_llm_context=0",
        "b": "infra_llm_context=many",
        "c": "infra_llm_parallel=1.5",
        "d": "infra_llm_parallel=True",
        "e": "infra_llm_port=99999",
        "f": "infra_llm_models=mine",
        "g": "infra_llm_artifact_folders=/srv/bundle",
        "h": "llama_cpp_install_method=pip",
    }
    lines = refused(write("".join(f"{h} {line}\n" for h, line in wrong.items()))).what.splitlines()
    assert len(lines) == len(wrong)
    for line, (host, given) in zip(lines, wrong.items(), strict=True):
        name, _, value = given.partition("=")
        assert line.strip().startswith(f"{name} is ")
        assert value in line
        assert line.endswith(f"({host})")


def test_values_that_an_ini_may_write(write: Write) -> None:
    text = """one infra_llm_port="9000" infra_llm_context='4096' infra_llm_verify_expect=2
    """
    folders = "[all:vars]\ninfra_llm_artifact_folders=['/srv/bundle']\ninfra_llm_parallel='2'\n"
    found = load_inventory(write(text + "\n" + folders))
    assert found.variables["one"]["infra_llm_artifact_folders"] == ["/srv/bundle"]


def test_templates_and_vault_are_left_for_later(write: Write) -> None:
    text = """\
all:
  vars: {base: 9000}
  hosts:
    one:
      infra_llm_port: "{{ base + 1 }}"
      infra_llm_context: !vault |
        $ANSIBLE_VAULT;1.1;AES256
        6162
"""
    assert load_inventory(write(text, "lab.yml")).hosts == ["one"]


def test_an_executable_inventory(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sh"
    path.write_text('#!/bin/sh\necho \'{"nodes": {"hosts": ["one"]}}\'\n')
    path.chmod(0o755)
    assert load_inventory(path).hosts == ["one"]


def test_an_executable_inventory_that_fails_says_its_words(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sh"
    path.write_text("#!/bin/sh\necho the cloud is down >&2; exit 3\n")
    path.chmod(0o755)
    assert "the cloud is down" in refused(path).what


def test_the_shipped_inventory_is_this_machine() -> None:
    path = Path(__file__).parents[3] / "inventories" / "local.ini"
    found: Inventory = load_inventory(path)
    assert found.hosts == ["localhost"]
    assert found.variables["localhost"]["ansible_connection"] == "local"


def test_a_standard_input_that_does_not_block_is_not_handed_to_ansible(write: Write) -> None:
    """ssh leaves one behind, and Ansible refuses to start with it."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    kept = os.dup(0)
    try:
        os.dup2(reader, 0)
        assert sorted(load_inventory(write(FLEET)).hosts) == ["one", "three", "two"]
    finally:
        os.dup2(kept, 0)
        for handle in (reader, writer, kept):
            os.close(handle)
