"""Debian's own driver is there, held, kept from unattended upgrades, and says what it is not."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

MODULES = {"bookworm": "nvidia-kernel-dkms", "trixie": "nvidia-open-kernel-dkms"}
WANTED = ("libcuda1", "nvidia-smi", "nvidia-persistenced")


@pytest.fixture
def modules(host):
    return MODULES[host.backend.get_hostname()]


def test_the_packages_of_the_plan_are_installed(host, modules):
    assert all(host.package(name).is_installed for name in (modules, *WANTED))
    others = set(MODULES.values()) - {modules}
    assert not any(host.package(name).is_installed for name in others)


def test_they_are_on_hold_with_the_libraries_that_they_brought(host, modules):
    held = set(host.check_output("apt-mark showhold").split())
    assert {modules, *WANTED, "libnvidia-ml1"} <= held
    assert "dkms" not in held


def test_unattended_upgrades_are_told_to_leave_them(host):
    said = host.check_output("apt-config dump Unattended-Upgrade::Package-Blacklist")
    assert '"^nvidia-.*$"' in said


def test_the_components_come_from_the_hosts_own_mirror(host):
    ours = host.file("/etc/apt/sources.list.d/infra-llm-distribution.sources").content_string
    own = host.check_output("cat /etc/apt/sources.list.d/0000sources.list || true")
    mirrors = {line.split()[1] for line in ours.splitlines() if line.startswith("URIs:")}
    assert mirrors
    assert all(mirror in own for mirror in mirrors)
    assert "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg" in ours


def test_no_service_failed_for_want_of_a_card(host):
    assert host.check_output("systemctl --failed --no-legend --plain") == ""
    assert host.service("nvidia-persistenced").is_enabled
    assert not host.service("nvidia-persistenced").is_running


def test_a_guest_builds_no_module_for_the_kernel_of_its_host(host):
    assert host.run("ls /lib/modules/*/updates/dkms").rc != 0
    assert not host.file("/etc/modprobe.d/infra-llm-nouveau.conf").exists
    assert not host.file("/run/reboot-required").exists


def test_the_receipt_names_every_package_that_came(host):
    receipt = json.loads(host.file("/var/lib/infra-llm/receipts/nvidia_driver.json").content_string)
    now = set(host.check_output("dpkg-query --show --showformat='${Package}\\n'").split())
    before = set(host.file("/root/packages-before").content_string.split())
    assert set(receipt["packages_added"]) == now - before
    assert before <= now
