"""The release is there beside older ones, and nothing that sets up a shell was touched."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

WHEELS = "/opt/infra-llm/cuda/13.0"


@pytest.fixture
def receipt(host):
    return json.loads(host.file("/var/lib/infra-llm/receipts/cuda.json").content_string)


def test_the_shells_and_the_loader_are_as_before(host):
    assert host.check_output("/root/list_setup.sh") == host.check_output("cat /root/before")


def test_the_older_release_stays(host):
    assert host.file("/opt/infra-llm/cuda/12.9/bin").is_directory


def test_a_runtime_of_packages_is_what_came(host, receipt):
    if host.backend.get_hostname() != "bookworm":
        assert receipt["packages_added"] == []
        return
    assert receipt["packages_added"] == ["libcudart11.0"]
    assert not host.package("nvidia-cuda-toolkit").is_installed
    assert not host.file(WHEELS).exists


def test_a_compiler_of_wheels_works_by_its_path(host):
    if host.backend.get_hostname() != "trixie":
        return
    with host.sudo("ops"):
        said = host.check_output(f"{WHEELS}/bin/nvcc --version")
        listed = host.check_output(f"{WHEELS}/bin/nvcc --list-gpu-arch").split()
    assert "release 13.0" in said
    assert {"compute_75", "compute_86", "compute_90", "compute_120"} <= set(listed)
    assert host.run("command -v nvcc").rc != 0
    assert host.check_output("ls /opt/infra-llm/cuda") == "12.9\n13.0"
    assert host.check_output(f"find {WHEELS} -not -user root -o -perm /022 -not -type l") == ""
