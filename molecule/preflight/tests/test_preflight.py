"""The role looks and refuses; it never changes a host."""

from __future__ import annotations

import os

import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")


def test_nothing_of_ours_is_on_the_host(host):
    assert host.check_output("find / -xdev -name '*infra-llm*' -not -path '/proc/*'") == ""
    assert not host.user("infra-llm").exists
    assert host.check_output("ls /run | grep -c infra-llm || true") == "0"


def test_the_other_server_still_runs(host):
    if host.backend.get_hostname() == "trixie":
        assert host.service("other-server").is_running
