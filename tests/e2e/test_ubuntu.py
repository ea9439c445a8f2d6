"""Hosts that say they are Ubuntu 22.04 and 24.04: the main job, and Ubuntu's own signed driver.

The hosts are stand-ins (Debian below, tests/lab/ubuntu.py), and so are the driver's packages
(tests/standins/ubuntu_driver.py). apt, dpkg, the wheel of llama.cpp and its answers are real; the
plans of the driver are the solver's for these systems. The tests run in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Cli
from tests.e2e.driver_lab import MACHINE, DriverLab
from tests.standins import nvidia_repository, ubuntu_driver
from tests.unit.stack.golden import planned
from tests.unit.stack.test_solver import running

from infra_llm.core.stack import StackWishes
from infra_llm.core.stack.desired import role_parts
from infra_llm.core.variables import defaults

HOSTS = {"u22": "ubuntu22.04", "u24": "ubuntu24.04"}
SUITES = "u22:ubuntu2204,u24:ubuntu2404"
LIST_HOST = (ROOT / "molecule/llm_remove/list_host.sh").read_text()
OPEN, CLOSED = "Open Kernel Module for x86_64", "x86_64 Kernel Module"


def listed(lab: DriverLab, host: str) -> set[str]:
    """Packages, users, units and files."""
    script = "sh -s /tmp/list && cat /tmp/list/*"
    return set(lab.on(host, script, stdin=LIST_HOST.encode()).splitlines())


class Ubuntu:
    """Two guests with a card and a kernel of their own; each reads a repository on 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        card = "no-driver-rtx5060ti"
        self.lab = DriverLab("ubuntu-driver", folder, SUITES, gpus=f"{card},{card}")
        vendor = folder / "vendor"
        vendor.mkdir()
        self.key = nvidia_repository.build(vendor, "ubuntu")
        ubuntu_driver.build(vendor / "repository/archive", self.key)
        tar = nvidia_repository.pack(vendor)
        for host in HOSTS:
            self.lab.on(host, "mkdir -p /srv/standin; tar -xC /srv/standin", stdin=tar)
            self.lab.on(host, f"sh /srv/standin/setup; {MACHINE}")

    def apply(self, wishes: StackWishes) -> str:
        """The role by the solver's plans for an RTX 3090; the second time nothing changes."""
        plans = {}
        for host, system in HOSTS.items():
            plan = planned(running(system, "RTX 3090"), system, wishes)
            assert not plan.refused, plan.reason
            plans[host] = role_parts(plan.to_dict(), defaults())["nvidia_driver"]["plan"]
            # These guests' kernel is neither of Ubuntu's; MACHINE gave it headers.
            plans[host] = {**plans[host], "headers": []}
        (place,) = nvidia_repository.repositories(self.key)
        archive = {**place, "name": "archive", "url": f"{place['url']}/archive"}
        given = {"driver_plans": plans, "driver_repositories": [place, archive]}
        first = self.lab.play(**given)
        assert first.code == 0, first.text[-3000:]
        again = self.lab.play(**given)
        assert again.code == 0, again.text[-3000:]
        assert again.changed == dict.fromkeys(HOSTS, 0), again.text[-3000:]
        return first.text

    def check(self, version: str, module: str, *packages: str) -> None:
        for host in HOSTS:
            said = self.lab.on(host, "cat /proc/driver/nvidia/version")
            assert f"{module}  {version}" in said, (host, said)
            found = self.lab.versions(host)
            assert set(packages) <= set(found), (host, found)
            held = "hold" if "nvidia-open" in found else "install"
            assert {row.split()[1] for row in found.values()} == {held}, (host, found)
            assert all(row.startswith(version) for row in found.values()), (host, found)


@pytest.fixture(scope="module")
def ubuntu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ubuntu]:
    made = Ubuntu(tmp_path_factory.mktemp("ubuntu"))
    yield made
    made.lab.down()


def test_the_main_job_and_back(tmp_path: Path) -> None:
    lab = DriverLab("ubuntu", tmp_path, SUITES)
    before = {}
    for host in HOSTS:
        # The package lists are the machine's own business.
        lab.on(host, "apt-get -qq update")
        before[host] = listed(lab, host)
    command = Cli(lab.inventory)
    hosts = command("provision")["report"]["hosts"]
    for host, system in HOSTS.items():
        assert hosts[host]["result"] == "serving", hosts[host]
        checks: dict[str, Any] = {c["name"]: c for c in hosts[host]["verdict"]["checks"]}
        assert checks["answer"]["ok"], checks
        found = hosts[host]["hardware"]["system"]
        assert f"{found['distribution']}{found['distribution_version']}" == system
    again = command("provision")["report"]["hosts"]
    assert {host: again[host]["result"] for host in HOSTS} == dict.fromkeys(HOSTS, "unchanged")
    command("remove")
    for host in HOSTS:
        assert listed(lab, host) == before[host], host
    lab.down()


def test_the_archives_signed_modules_in_both_flavours_and_branches(ubuntu: Ubuntu) -> None:
    ubuntu.apply(StackWishes(source="distro"))
    tools = ("nvidia-utils-580-server", "libnvidia-compute-580-server")
    ubuntu.check("580.95.05", OPEN, "linux-modules-nvidia-580-server-open-generic", *tools)
    for host in HOSTS:
        # Nothing is built where all comes built.
        assert ubuntu.lab.on(host, "ls -d /usr/src/nvidia-* /var/lib/dkms 2>/dev/null; true") == ""
        assert ubuntu.lab.on(host, "systemctl is-active nvidia-persistenced") == "active"
    ubuntu.apply(StackWishes(source="distro", modules="proprietary"))
    ubuntu.check("580.95.05", CLOSED, "linux-modules-nvidia-580-server-generic", *tools)
    ubuntu.apply(StackWishes(source="distro", branch=595))
    ubuntu.check("595.58.03", OPEN, "linux-modules-nvidia-595-server-open-generic")


def test_to_nvidias_repository_and_back(ubuntu: Ubuntu) -> None:
    """The other source's packages go: two of one library would be held broken packages."""
    ubuntu.apply(StackWishes(source="vendor", branch=580))
    ubuntu.check("580.95.05", OPEN, "nvidia-open", "nvidia-dkms-580-open")
    for host in HOSTS:
        assert not [name for name in ubuntu.lab.versions(host) if "server" in name]
    ubuntu.apply(StackWishes(source="distro"))
    ubuntu.check("580.95.05", OPEN, "linux-modules-nvidia-580-server-open-generic")
    for host in HOSTS:
        assert not [name for name in ubuntu.lab.versions(host) if name.startswith("nvidia-dkms")]


def test_kernel_modules_and_libraries_go_on_together(ubuntu: Ubuntu) -> None:
    """By hand, not unattended: held modules would be missing after the next kernel."""
    older, newer = ubuntu_driver.KERNELS
    for host in HOSTS:
        ubuntu.lab.on(host, f"apt-get -qq install linux-image-generic={older}")
        assert ubuntu.lab.on(host, "apt-mark showhold") == ""
        said = ubuntu.lab.on(host, "apt-get --simulate upgrade")
        assert f"linux-image-generic [{older}] ({newer}" in said, said
        excluded = ubuntu.lab.on(host, "apt-config dump Unattended-Upgrade::Package-Blacklist")
        assert '"^linux-image-generic$"' in excluded
        assert '"^linux-modules-nvidia-.*$"' in excluded
