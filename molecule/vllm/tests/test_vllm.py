"""The environment has the lock file's packages and no more; `current` and the receipt say so."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

PLACES = {
    "bookworm": ("/opt/infra-llm/vllm", "/var/lib/infra-llm/receipts", "3.11"),
    "trixie": ("/srv/engines/vllm", "/srv/receipts", "3.13"),
}


@pytest.fixture
def places(host):
    return PLACES[host.backend.get_hostname()]


def test_an_ordinary_user_can_run_the_packages(host, places):
    code = "import standin_server, standin_kernels; print(standin_server.NAME)"
    with host.sudo("ops"):
        done = host.run("%s -I -c %s", f"{places[0]}/current/bin/python", code)
    assert done.stdout.strip() == "standin_server", done.stderr


def test_nothing_else_is_in_it(host, places):
    packages = host.file(f"{places[0]}/current/lib/python{places[2]}/site-packages").listdir()
    names = {name.partition("-")[0] for name in packages} - {"__pycache__", "infra"}
    assert names == {"standin_server", "standin_kernels"}


def test_neither_wheels_nor_temporary_files_were_left(host, places):
    found = host.file(f"{places[0]}/releases").listdir()
    assert sorted(found) == ["standin-1.0", "standin-1.0.lock"]
    assert host.file("/root/.cache").exists is False


def test_only_root_may_write(host, places):
    assert host.check_output("find %s -not -user root -o -perm /022 -not -type l", places[0]) == ""


def test_the_receipt_lists_the_packages_and_what_came_with_the_role(host, places):
    receipt = json.loads(host.file(f"{places[1]}/vllm.json").content_string)
    records = [file["path"] for file in receipt["files"] if file["path"].endswith("RECORD")]
    assert len(records) == 2
    assert "libnuma1" in receipt["packages_added"]
    assert host.package("libnuma1").is_installed
