"""Nothing of ours is left: the host is compared with lists made before anything was installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

LIST_HOST = (Path(__file__).parents[1] / "list_host.sh").read_text()
KEPT = {
    "bookworm": set(),
    "trixie": {
        "/var/lib/infra-llm",
        "/var/lib/infra-llm/models",
        "/var/lib/infra-llm/models/SmolLM2-135M-Instruct.Q4_1.gguf",
    },
}


@pytest.fixture
def difference(host):
    """What is there now and was not before, and the other way round."""
    host.check_output("sh -c %s list_host.sh /root/after", LIST_HOST)

    def of(kind):
        before, after = (
            set(host.file(f"/root/{when}/{kind}").content_string.splitlines())
            for when in ("before", "after")
        )
        return after - before, before - after

    return of


def test_the_lists_from_before_are_of_a_clean_host(host):
    assert "infra-llm" not in host.file("/root/before/files").content_string
    assert "libgomp1 installed" not in host.file("/root/before/packages").content_string


def test_the_packages_are_those_from_before(difference):
    assert difference("packages") == (set(), set())


def test_users_and_groups_are_those_from_before(difference):
    assert difference("users") == (set(), set())


def test_the_units_are_those_from_before(difference):
    assert difference("units") == (set(), set())


def test_the_files_are_those_from_before(host, difference):
    come, gone = difference("files")
    assert come == KEPT[host.backend.get_hostname()]
    assert gone == set()


def test_nobody_serves_any_more(host):
    assert host.run("pgrep --full launch.py -u infra-llm").rc != 0
    assert host.run("pgrep --full '[s]upervisord'").rc != 0
    assert host.check_output("systemctl is-system-running") == "running"
