"""The engine that each host should have, asked itself."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def receipt(host):
    text = host.file("/var/lib/infra-llm/receipts/container_engine.json").content_string
    return json.loads(text)


def test_docker_runs_with_systemds_cgroups_and_its_data_where_it_was_wished(host, name):
    if name != "bookworm":
        return
    facts = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert facts["CgroupDriver"] == "systemd"
    assert facts["DockerRootDir"] == "/var/lib/docker/elsewhere"
    assert host.service("docker.service").is_enabled
    assert host.package("docker.io").is_installed
    assert json.loads(host.file("/etc/docker/daemon.json").content_string) == {
        "data-root": "/var/lib/docker/elsewhere"
    }


def test_podman_answers_where_it_was_wished(host, name):
    if name != "trixie":
        return
    facts = json.loads(host.check_output("podman info --format json"))
    assert facts["host"]["cgroupManager"] == "systemd"
    assert not host.package("docker.io").is_installed


def test_a_docker_of_another_source_is_kept_and_runs(host, name, receipt):
    if name != "kept":
        return
    assert host.package("docker-ce").is_installed
    assert not host.package("docker.io").is_installed
    assert host.service("docker.service").is_running
    assert receipt["packages_added"] == []
    assert receipt["inputs"]["installed"] == ""


def test_the_receipt_names_what_came_with_us(name, receipt):
    added = {"bookworm": "docker.io", "trixie": "podman"}
    if name in added:
        assert added[name] in receipt["packages_added"]
        assert receipt["inputs"]["engine"] == ("docker" if name == "bookworm" else "podman")


def test_no_foreign_repository_is_needed(host):
    assert "infra-llm" not in host.check_output("ls /etc/apt/sources.list.d")
