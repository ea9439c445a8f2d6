"""One branch, one flavour: installed, pinned, held, built, loaded, running, and written down."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

VERSION = {"bookworm": "595.58.03", "trixie": "580.95.05"}
MODULES = {"bookworm": "nvidia-kernel-open-dkms", "trixie": "nvidia-dkms-580"}
WORDS = {"bookworm": "Open Kernel Module", "trixie": "x86_64 Kernel Module"}


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


def test_every_package_is_of_the_branch_and_on_hold(host, name):
    wish = "${Package} ${Version} ${db:Status-Want} ${db:Status-Status}\\n"
    said = host.check_output(f"dpkg-query --show --showformat='{wish}'")
    rows = [line.split() for line in said.splitlines() if line.endswith(" installed")]
    found = [row for row in rows if "nvidia" in row[0] or "cuda" in row[0]]
    there = {row[0]: row[1:3] for row in found}
    assert MODULES[name] in there
    assert {tuple(v) for v in there.values()} == {(f"{VERSION[name]}-1", "hold")}


def test_apt_would_not_leave_the_branch(host, name):
    policy = host.check_output("apt-cache policy nvidia-persistenced")
    assert f"Candidate: {VERSION[name]}-1" in policy
    assert "595.58.03-1" in policy
    assert host.check_output("apt-get --simulate upgrade | grep -c '^Inst .*nvidia' || true") == "0"


def test_the_repository_is_signed_by_the_pinned_key_alone(host):
    source = host.file("/etc/apt/sources.list.d/infra-llm-nvidia-cuda.sources").content_string
    assert "Signed-By: /etc/apt/keyrings/infra-llm-nvidia-cuda.gpg" in source
    assert host.file("/etc/apt/keyrings/infra-llm-nvidia-cuda.gpg").mode == 0o644
    assert not host.run("ls /etc/apt/trusted.gpg.d | grep -i nvidia").stdout


def test_the_module_of_the_running_kernel_is_the_one_that_is_loaded(host, name):
    kernel = host.check_output("uname -r")
    built = host.file(f"/lib/modules/{kernel}/updates/dkms/nvidia.ko").content_string
    assert built.split()[0] == VERSION[name]
    said = host.file("/proc/driver/nvidia/version").content_string
    assert VERSION[name] in said
    assert WORDS[name] in said


def test_nvml_works_though_there_are_no_cards_behind_it(host):
    listed = host.run("nvidia-smi -L")
    assert (listed.rc, listed.stdout) == (6, "No devices were found\n")


def test_nouveau_is_kept_away(host):
    text = host.file("/etc/modprobe.d/infra-llm-nouveau.conf").content_string
    assert "blacklist nouveau" in text


def test_services_run_where_they_are_wished(host, name):
    assert host.service("nvidia-persistenced").is_running
    assert host.service("nvidia-fabricmanager").is_running is (name == "bookworm")
    assert host.check_output("systemctl --failed --no-legend --plain") == ""


def test_no_profile_or_path_is_touched(host):
    assert host.run("grep --recursive --ignore-case nvidia /etc/profile.d /etc/environment").rc != 0


def test_the_receipt_tells_all(host):
    path = "/var/lib/infra-llm/receipts/nvidia_driver.json"
    receipt = json.loads(host.file(path).content_string)
    assert {item["path"] for item in receipt["files"]} >= {
        "/etc/apt/keyrings/infra-llm-nvidia-cuda.gpg",
        "/etc/apt/sources.list.d/infra-llm-nvidia-cuda.sources",
        "/etc/apt/preferences.d/infra-llm-nvidia_driver",
        "/etc/apt/apt.conf.d/52infra-llm-nvidia_driver",
        "/etc/modprobe.d/infra-llm-nouveau.conf",
        "/etc/systemd/system/nvidia-persistenced.service.d/infra-llm.conf",
    }
    assert f"linux-headers-{host.check_output('uname -r')}" in receipt["packages_added"]
