"""Nothing of ours is left, and everything of others is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

LIST_HOST = (Path(__file__).parents[2] / "llm_remove/list_host.sh").read_text()
DAEMON_JSON = '{"log-opts":{"max-size":"10m"},\n "debug" : false}'


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def difference(host):
    host.check_output("sh -c %s list_host.sh /root/after", LIST_HOST)

    def of(kind):
        before, after = (
            set(host.file(f"/root/{when}/{kind}").content_string.splitlines())
            for when in ("before", "after")
        )
        return after - before, before - after

    return of


@pytest.mark.parametrize("kind", ["packages", "users", "units", "files"])
def test_the_host_is_as_it_was(difference, name, kind):
    if name != "bookworm":
        return
    come, gone = difference(kind)
    # The receipts' folder belongs to all roles; infra-llm remove takes it with the last. The log is
    # dpkg's own.
    come -= {"/var/lib/infra-llm", "/var/lib/infra-llm/receipts", "/var/log/alternatives.log"}
    assert (come, gone) == (set(), set())


def test_the_administrators_daemon_json_is_what_it_was(host, name):
    file = host.file("/etc/docker/daemon.json")
    if name == "bookworm":
        assert file.content_string == DAEMON_JSON
        assert file.mode == 0o600
    else:
        assert not file.exists


def test_a_docker_with_a_container_stays_and_works(host, name):
    if name != "trixie":
        return
    assert host.check_output("docker ps --all --format '{{.Names}}'") == "work"
    assert host.package("docker.io").is_installed


def test_the_toolkit_is_gone_everywhere(host):
    assert not host.package("nvidia-container-toolkit-base").is_installed
    assert not host.file("/var/run/cdi/nvidia.yaml").exists
    assert "infra-llm" not in host.check_output("find /etc/apt")
    assert host.run("docker info --format '{{.Runtimes}}'").stdout.count("nvidia") == 0
