"""DKMS builds Debian's open NVIDIA modules for real kernels, by the role, in an emulated machine.

`make test-vm`: no KVM, no card; an hour and more. The machine runs the last but one cloud kernel of
the suite, so that a newer one can be installed. Its image has that kernel and what the lab's hosts
have; driver, headers, compiler and DKMS come with the role.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.hardware import Gpu
from tests.e2e.conftest import run
from tests.e2e.driver_lab import DriverLab, Outcome
from tests.vm import warm
from tests.vm.machine import NAME, VirtualMachine

SUITE = "bookworm"
# The newest two for which Debian's open modules (535.261.03) compile: 6.1.0-53 took over a change
# of pci_resize_resource() that they do not know. trixie's (550.163.01) do with none of its kernels.
KERNELS = ("6.1.0-47-cloud-amd64", "6.1.0-50-cloud-amd64")
CARD = Gpu(0, "nvidia", name="NVIDIA GeForce RTX 3090", compute_capability="8.6")
WISHES = ("--set", "driver_source=distro", "--set", "driver_modules=open")
MODULES = {"nvidia", "nvidia-drm", "nvidia-modeset", "nvidia-peermem", "nvidia-uvm"}
RENAMED = "nvidia-current-open"
# A card as sysfs shows one, laid over the real list: the role tries to load the module then.
PRETEND = """
mkdir -p /run/pretended/0000:01:00.0
echo 0x10de >/run/pretended/0000:01:00.0/vendor
echo 0x030000 >/run/pretended/0000:01:00.0/class
mount --bind /run/pretended /sys/bus/pci/devices
"""


class Emulated(DriverLab):
    """The driver's play against the machine; emulation is slow."""

    script_seconds = 1800
    play_seconds = 4 * 3600

    def __init__(self) -> None:
        self.name = NAME
        self.old, self.new = KERNELS
        self.machine = VirtualMachine(SUITE, self.old, [warm.store(SUITE, KERNELS)])
        self.inventory = self.machine.inventory
        self.plan: dict[str, Any] = {}
        self.version = ""

    def sh(self, script: str, check: bool = True) -> str:
        """Output of a script that runs as root."""
        return self.on(NAME, f"export PATH=$PATH:/usr/sbin; {script}", check)

    def apply(self, *words: str, **more: Any) -> Outcome:
        components = ["contrib", "non-free", "non-free-firmware"]
        repositories = [{"name": "distribution", "kind": "apt", "components": components}]
        started = time.monotonic()
        done = self.play(*words, driver_plan=self.plan, driver_repositories=repositories, **more)
        print(f"play: {time.monotonic() - started:.0f} s, changed {done.changed}")
        assert "Traceback" not in done.text, done.text[-3000:]
        return done

    def probe(self) -> dict[str, Any]:
        """HostHardware of the machine, by the command line."""
        words = ("probe", "--inventory", str(self.inventory), "--json")
        found: list[dict[str, Any]] = json.loads(run(sys.executable, "-m", "infra_llm", *words))
        return found[0]

    def solve(self, folder: Path) -> None:
        """The solver's plan for this very machine, had it a card."""
        path = folder / "host.json"
        path.write_text(json.dumps({**self.probe(), "gpus": [asdict(CARD)]}))
        words = ("stack", "--hardware", str(path), *WISHES, "--json")
        self.plan = json.loads(run(sys.executable, "-m", "infra_llm", *words))["driver"]

    def modules(self, kernel: str) -> dict[str, dict[str, str]]:
        """Upstream's name -> fields of modinfo, of the NVIDIA modules built for a kernel."""
        folder = f"/lib/modules/{kernel}/updates/dkms"
        text = self.sh(f"for path in {folder}/*.ko*; do modinfo $path; echo; done")
        found = {}
        for part in text.split("\n\n"):
            fields = dict(reversed(re.findall(r"^(\w+):[ \t]*(.*)$", part, re.M)))
            name = Path(fields["filename"]).name.partition(".ko")[0]
            found[name.replace(RENAMED, "nvidia")] = fields
        return found

    def check_modules(self, kernel: str) -> None:
        """All of them, for that kernel, of the packages' version, with the open licence."""
        found = self.modules(kernel)
        assert set(found) == MODULES
        for name, fields in found.items():
            assert fields["vermagic"].split()[0] == kernel, name
        for name in MODULES - {"nvidia-peermem"}:
            assert found[name]["version"] == self.version, name
            assert found[name]["license"] == "Dual MIT/GPL", name

    def dkms(self) -> list[str]:
        return self.sh("dkms status").splitlines()


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    """The machine with the driver that the solver chose, installed by the role."""
    made = Emulated()
    try:
        made.machine.start()
        install(made, tmp_path_factory.mktemp("host"))
        yield made
    finally:
        made.machine.stop()


def install(vm: Emulated, folder: Path) -> None:
    before = vm.probe()
    assert before["system"]["kernel"] == vm.old
    assert before["driver"]["kernel_headers"] is False
    assert before["driver"]["secure_boot"] is False
    assert (before["driver"]["module_loaded"], before["driver"]["dkms"]) == (False, [])
    vm.solve(folder)
    assert vm.plan["packages"][0] == "nvidia-open-kernel-dkms"
    # The meta package brings the newest kernel's headers, for which these modules do not compile.
    own = f"linux-headers-{vm.old}"
    assert vm.plan["headers"] == [own, "linux-headers-cloud-amd64"]
    vm.plan["headers"] = [own]
    done = vm.apply()
    assert done.code == 0, done.text[-3000:]
    assert "no NVIDIA card on the PCI bus: no module is loaded" in done.text
    package = vm.versions(NAME)["nvidia-open-kernel-dkms"]
    vm.version = package.split()[0].partition("-")[0]


def test_dkms_built_for_the_running_kernel(vm: Emulated) -> None:
    assert vm.sh("uname -r") == vm.old
    assert f"{RENAMED}/{vm.version}, {vm.old}, x86_64: installed" in vm.dkms()
    vm.check_modules(vm.old)


def test_the_second_run_changes_nothing_and_the_probe_sees_it_all(vm: Emulated) -> None:
    again = vm.apply()
    assert (again.code, again.changed) == (0, {NAME: 0}), again.text[-3000:]
    found = vm.probe()["driver"]
    assert found["kernel_headers"] is True
    assert f"{RENAMED}/{vm.version}, {vm.old}, x86_64: installed" in found["dkms"]
    assert found["module_loaded"] is False
    assert "nvidia-open-kernel-dkms" in found["held_packages"]


def test_the_kernels_answer_without_a_card_is_told_in_words(vm: Emulated) -> None:
    said = vm.sh("modprobe nvidia 2>&1", check=False)
    assert "No such device" in said
    vm.sh(PRETEND)
    found = vm.apply()
    vm.sh("umount /sys/bus/pci/devices")
    assert found.code == 2
    words = f"the module {vm.version} open does not load: No such device"
    assert words in found.text, found.text[-3000:]
    assert "NVRM: No NVIDIA GPU found" in found.text
    assert "infra-llm stack" in found.text


def test_a_newer_kernel_has_its_module_before_it_boots(vm: Emulated) -> None:
    """As an upgrade brings it, with its headers."""
    names = f"linux-image-{vm.new} linux-headers-{vm.new}"
    vm.sh(f"apt-get -qq -y --no-install-recommends install {names}")
    done = vm.apply()
    assert (done.code, done.changed) == (0, {NAME: 0}), done.text[-3000:]
    assert f"the next boot takes kernel {vm.new}" in done.text
    assert f"{RENAMED}/{vm.version}, {vm.new}, x86_64: installed" in vm.dkms()
    vm.check_modules(vm.new)


def test_a_module_that_is_missing_is_put_in_or_the_reason_told(vm: Emulated) -> None:
    """What DKMS built is set aside and brought back, for a third build takes its time."""
    module, headers = f"{RENAMED}/{vm.version}", f"/lib/modules/{vm.new}/build"
    built = f"/var/lib/dkms/{module}/{vm.new}"
    vm.sh(f"dkms uninstall {module} -k {vm.new}; cp -a {built} /root/built")
    vm.sh(f"mv {headers} {headers}.away")
    missing = vm.apply()
    assert missing.code == 2
    assert f"no module for kernel {vm.new}: its headers are missing" in missing.text
    # Headers that are there and of no use: DKMS itself fails, at once.
    vm.sh(f"dkms unbuild {module} -k {vm.new}; mkdir {headers}; touch {headers}/Makefile")
    broken = vm.apply()
    assert broken.code == 2
    assert f"DKMS can't build the module for kernel {vm.new}" in broken.text
    vm.sh(f"rm -r {headers}; mv {headers}.away {headers}; mv /root/built {built}")
    assert f"{module}, {vm.new}, x86_64: built" in vm.dkms()
    done = vm.apply()
    assert done.code == 0, done.text[-3000:]
    assert f"built the module for kernel {vm.new}" in done.text
    vm.check_modules(vm.new)


def test_the_newer_kernel_boots_and_is_in_order(vm: Emulated, tmp_path: Path) -> None:
    files = []
    for kind in ("vmlinuz", "initrd.img"):
        path = tmp_path / kind
        vm.machine.copy(f"/boot/{kind}-{vm.new}", path)
        files.append(path)
    vm.machine.power_off()
    vm.machine.start(*files)
    assert vm.sh("uname -r") == vm.new
    again = vm.apply()
    assert (again.code, again.changed) == (0, {NAME: 0}), again.text[-3000:]
    assert "No such device" in vm.sh("modprobe nvidia 2>&1", check=False)


def test_a_kernel_that_went_takes_its_module_along(vm: Emulated) -> None:
    vm.sh(f"apt-get -qq -y remove linux-image-{vm.old}")
    assert vm.sh(f"find /lib/modules/{vm.old} -name 'nvidia*.ko*'", check=False) == ""
    again = vm.apply()
    assert (again.code, again.changed) == (0, {NAME: 0}), again.text[-3000:]
