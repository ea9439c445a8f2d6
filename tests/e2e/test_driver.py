"""The driver's role on guests: branch and flavour changes, and faults, with the real apt.

The packages are stand-ins (tests/standins/nvidia_repository.py), apt and dpkg are not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.driver_lab import DriverLab, vendor_plan
from tests.standins import apt_repository, nvidia_repository

KERNEL = os.uname().release
HOST = "d1"


class Vendor:
    """The lab, and the repository that its guest reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "vendor"
        self.folder.mkdir()
        self.key = nvidia_repository.build(self.folder)
        self.repository = self.folder / "repository"
        self.repositories = nvidia_repository.repositories(self.key)
        self.lab = DriverLab("driver", folder, HOST, gpus="no-driver-rtx5060ti")
        self.serve()

    def serve(self) -> None:
        """Bring the repository as it is now to the guest."""
        tar = nvidia_repository.pack(self.folder)
        unpack = "rm -rf /srv/standin/repository; mkdir -p /srv/standin; tar -xC /srv/standin"
        self.lab.on(HOST, unpack, stdin=tar)
        self.lab.on(HOST, "sh /srv/standin/setup; systemctl restart standin-repository")

    def on(self, script: str, check: bool = True) -> str:
        return self.lab.on(HOST, script, check)

    def play(self, branch: str, modules: str, *words: str, **more: Any) -> Any:
        plan = vendor_plan(branch, modules, KERNEL, **more.pop("plan", {}))
        given = {"driver_repositories": self.repositories, **more}
        return self.lab.play(*words, driver_plan=plan, **given)

    def apply(self, branch: str, modules: str, **more: Any) -> None:
        """Apply it, and once more: the second time nothing changes."""
        first = self.play(branch, modules, **more)
        assert first.code == 0, first.text[-3000:]
        again = self.play(branch, modules, **more)
        assert again.code == 0, again.text[-3000:]
        assert again.changed == {HOST: 0}, again.text[-3000:]

    def versions(self) -> dict[str, str]:
        return self.lab.versions(HOST)

    def loaded(self) -> str:
        return self.on("cat /proc/driver/nvidia/version", check=False)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    made = Vendor(tmp_path_factory.mktemp("driver"))
    yield made
    made.lab.down()


def of(version: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, f"{version}-1 hold")


COMMON = ("libnvidia-ml1", "nvidia-smi", "nvidia-persistenced")
OPEN = (*COMMON, "nvidia-open", "nvidia-kernel-open-dkms")
CLOSED = (*COMMON, "cuda-drivers", "nvidia-kernel-dkms")


def test_check_mode_says_what_comes_and_touches_nothing(vendor: Vendor) -> None:
    before = vendor.on("find /etc/apt /var/lib/apt /var/lib/dpkg -type f | sort | xargs sha256sum")
    found = vendor.play("580", "open", "--check", "--diff")
    assert found.code == 0, found.text[-3000:]
    assert "+nvidia-kernel-open-dkms 580.95.05-1" in found.text
    after = vendor.on("find /etc/apt /var/lib/apt /var/lib/dpkg -type f | sort | xargs sha256sum")
    assert after == before
    assert vendor.versions() == {}


def test_install_then_every_change_of_branch_and_flavour(vendor: Vendor) -> None:
    vendor.apply("580", "proprietary")
    assert vendor.versions() == of("580.95.05", *CLOSED)
    assert "x86_64 Kernel Module  580.95.05" in vendor.loaded()
    vendor.apply("580", "open")
    assert vendor.versions() == of("580.95.05", *OPEN)
    assert "Open Kernel Module for x86_64  580.95.05" in vendor.loaded()
    vendor.apply("595", "open")
    assert vendor.versions() == of("595.58.03", *OPEN)
    vendor.apply("590", "proprietary")
    assert vendor.versions() == of("590.44.01", *CLOSED)
    vendor.apply("580", "proprietary")
    assert vendor.versions() == of("580.95.05", *CLOSED)
    assert "x86_64 Kernel Module  580.95.05" in vendor.loaded()
    assert vendor.on("nvidia-smi -L; echo $?").splitlines()[-1] == "6", "NVML works, without cards"


# Faults: each is told in words, and leaves packages, holds and sources as they were --------------


@pytest.fixture
def settled(vendor: Vendor) -> Iterator[Vendor]:
    """580 with proprietary modules, before and after."""
    if vendor.versions() != of("580.95.05", *CLOSED):
        done = vendor.play("580", "proprietary")
        assert done.code == 0, done.text[-3000:]
    sources = vendor.on(SOURCES)
    yield vendor
    assert vendor.versions() == of("580.95.05", *CLOSED)
    assert vendor.on(SOURCES) == sources
    assert vendor.on("dpkg --audit") == ""


SOURCES = "cat /etc/apt/sources.list.d/* /etc/apt/preferences.d/* /etc/apt/apt.conf.d/52*"
HOLDER = """
import fcntl, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
time.sleep(600)
"""


def test_a_lock_is_waited_for_and_its_holder_named(settled: Vendor) -> None:
    settled.lab.on(HOST, "cat >/srv/unattended-upgrade", stdin=HOLDER.encode())
    settled.on("systemd-run --quiet --unit=holder python3 /srv/unattended-upgrade; sleep 0.5")
    try:
        found = settled.play("590", "proprietary", lock_timeout=2)
    finally:
        settled.on("systemctl stop holder")
    assert found.code == 2
    assert "python3 unattended-upgrade (pid" in found.text
    assert "holds the package database; waited 2 s" in found.text


def test_an_interrupted_dpkg_is_finished_first(settled: Vendor) -> None:
    deb = "/srv/standin/repository/nvidia-fabricmanager_580.95.05-1_amd64.deb"
    settled.on(f"dpkg --unpack {deb}")
    assert settled.on("dpkg --audit") != ""
    done = settled.play("580", "proprietary")
    assert done.code == 0, done.text[-3000:]
    assert settled.on("dpkg --audit") == ""
    settled.on("apt-get --yes --purge --allow-change-held-packages remove nvidia-fabricmanager")


def test_another_key_at_the_repository_is_refused(settled: Vendor) -> None:
    other = apt_repository.create_key(settled.folder / "other", "somebody else")
    ours = "/etc/apt/keyrings/infra-llm-nvidia-cuda.gpg"
    apt_repository.publish(settled.repository, other)
    settled.serve()
    settled.on(f"rm {ours}")
    found = settled.play("590", "proprietary")
    assert settled.on(f"ls {ours}", check=False) == "", "the other key was taken"
    apt_repository.publish(settled.repository, settled.key)
    settled.serve()
    assert found.code == 2
    assert f"is {other.fingerprint}, pinned is {settled.key.fingerprint}" in found.text
    assert settled.play("580", "proprietary").code == 0


def test_an_index_that_another_key_signed_is_refused(settled: Vendor) -> None:
    other = apt_repository.create_key(settled.folder / "other", "somebody else")
    apt_repository.publish(settled.repository, other)
    # Whoever took the repository over may still show the old key.
    (settled.repository / "gpgkey").write_bytes(settled.key.export())
    settled.serve()
    source = "/etc/apt/sources.list.d/infra-llm-nvidia-cuda.sources"
    settled.on(f"rm {source} /var/lib/apt/lists/127.0.0.1*")
    found = settled.play("580", "proprietary")
    assert settled.on(f"ls {source}", check=False) == "", "a source that can't be read was left"
    apt_repository.publish(settled.repository, settled.key)
    settled.serve()
    assert found.code == 2
    assert "it is not signed by the pinned key" in found.text, found.text[-3000:]
    assert settled.play("580", "proprietary").code == 0


def test_a_package_that_vanished_is_named(settled: Vendor) -> None:
    # apt keeps what it downloaded, and would not notice: 590 was here before.
    settled.on("apt-get clean; mv /srv/standin/repository/nvidia-smi_590.44.01-1_amd64.deb /srv/")
    gone = settled.play("590", "proprietary")
    settled.on("mv /srv/nvidia-smi_590.44.01-1_amd64.deb /srv/standin/repository/")
    assert gone.code == 2
    assert "can't be fetched" in gone.text
    assert "nvidia-smi_590.44.01-1_amd64.deb 404" in gone.text
    named = settled.play("590", "proprietary", plan={"packages": ["nvidia-driver-of-nowhere"]})
    assert named.code == 2
    assert "no repository of this host has nvidia-driver-of-nowhere" in named.text
    settled.play("580", "proprietary")


def test_a_driver_of_the_run_installer_stops_the_role(settled: Vendor) -> None:
    log = "nvidia-installer log file: driver version 550.54.14"
    settled.on(
        f"echo {log} >/var/log/nvidia-installer.log; "
        'printf "#!/bin/sh\\nrm /usr/bin/nvidia-uninstall\\n" >/usr/bin/nvidia-uninstall; '
        "chmod 755 /usr/bin/nvidia-uninstall"
    )
    found = settled.play("580", "proprietary")
    assert found.code == 2
    assert "a driver of NVIDIA's .run installer is here (version 550.54.14)" in found.text
    assert "infra_llm_remove_foreign_driver" in found.text
    removed = settled.play("580", "proprietary", remove_runfile=True)
    assert removed.code == 0, removed.text[-3000:]
    assert settled.on("ls /usr/bin/nvidia-uninstall", check=False) == ""
    settled.on("rm /var/log/nvidia-installer.log")


def tools(vendor: Vendor, **settings: str) -> None:
    """What the stand-ins of the kernel's tools are to do."""
    text = json.dumps(settings)
    vendor.on(f"cat >/etc/infra-llm-standin/tools.json <<'END'\n{text}\nEND")


def test_a_new_kernel_gets_its_module_or_the_reason_why_not(settled: Vendor) -> None:
    settled.on("mkdir -p /lib/modules/6.99.0-1-amd64/kernel")
    try:
        found = settled.play("580", "proprietary")
        assert found.code == 2
        assert "no module for kernel 6.99.0-1-amd64: its headers are missing" in found.text
        settled.on("install -D /dev/null /lib/modules/6.99.0-1-amd64/build/Makefile")
        tools(settled, dkms_fails="nv.c:237:9: error: too few arguments to function 'x'")
        broken = settled.play("580", "proprietary")
        assert broken.code == 2
        assert "build the module for kernel 6.99.0-1-amd64: nv.c:237:9: error: too" in broken.text
        tools(settled)
        built = settled.play("580", "proprietary")
        assert built.code == 0, built.text[-3000:]
        module = "/lib/modules/6.99.0-1-amd64/updates/dkms/nvidia.ko"
        assert settled.on(f"cat {module}") == "580.95.05 proprietary"
    finally:
        settled.on("rm -r /lib/modules/6.99.0-1-amd64")
        tools(settled)


def test_a_flavour_that_does_not_compile_is_told_and_the_other_takes_its_place(
    settled: Vendor,
) -> None:
    tools(settled, dkms_fails="nv.c:1:1: error: too new a kernel", dkms_fails_for="open")
    try:
        broken = settled.play("580", "open")
        assert broken.code == 2
        assert "nv.c:1:1: error: too new a kernel" in broken.text, broken.text[-3000:]
        assert "infra_llm_driver_modules" in broken.text
        again = settled.play("580", "open")
        assert again.code == 2
        assert "dpkg can't finish them" in again.text
        # What does not compile stays half installed, and must not bar the way back.
        back = settled.play("580", "proprietary")
        assert back.code == 0, back.text[-3000:]
        assert "half installed, and not wanted" in back.text, back.text[-3000:]
    finally:
        tools(settled)


# A small file system in the place of the real one, or over it.
SMALL = "mount -t tmpfs -o size=20m tmpfs "
FULL = {
    "/boot": f"{SMALL} /boot; head -c 15M /dev/zero >/boot/initrd.img-6.1.0-1-amd64",
    "/usr": f"mkdir -p /run/small; {SMALL} /run/small; mkdir /run/small/upper /run/small/work; "
    "mount -t overlay -o lowerdir=/usr,upperdir=/run/small/upper,workdir=/run/small/work none /usr",
    "/var/cache/apt/archives": f"{SMALL} /var/cache/apt/archives; "
    "mkdir /var/cache/apt/archives/partial",
}


@pytest.mark.parametrize("place", FULL)
def test_a_full_disk_is_seen_before_anything_is_done(settled: Vendor, place: str) -> None:
    settled.on(FULL[place])
    found = settled.play("590", "proprietary")
    settled.on(f"umount --lazy {place}; umount --lazy /run/small 2>/dev/null || true")
    assert found.code == 2
    assert f"{place}: no space:" in found.text
    settled.play("580", "proprietary")


# Library and module of different versions -------------------------------------------------------


@pytest.fixture
def mismatched(vendor: Vendor) -> Iterator[Vendor]:
    """An upgrade swapped the library under the loaded module, as unattended-upgrades did."""
    done = vendor.play("580", "proprietary", plan={"pin": "580.82.07*"})
    assert done.code == 0, done.text[-3000:]
    names = " ".join(f"{name}=580.95.05-1" for name in CLOSED)
    vendor.on(f"apt-get --yes --allow-change-held-packages install {names}")
    assert "580.82.07" in vendor.loaded()
    assert "Driver/library version mismatch" in vendor.on("nvidia-smi", check=False)
    yield vendor
    vendor.on("systemctl stop user-of-card 2>/dev/null; rm -f /run/reboot-required", check=False)


def test_the_module_is_loaded_anew_without_a_reboot(mismatched: Vendor) -> None:
    boot = mismatched.on("cat /proc/sys/kernel/random/boot_id")
    mismatched.apply("580", "proprietary", reboot="if_needed")
    assert "580.95.05" in mismatched.loaded()
    assert "mismatch" not in mismatched.on("nvidia-smi", check=False)
    assert mismatched.on("systemctl is-active nvidia-persistenced") == "active"
    assert mismatched.on("cat /proc/sys/kernel/random/boot_id") == boot


def test_a_card_in_use_needs_a_reboot_that_nobody_makes_unasked(mismatched: Vendor) -> None:
    use = "systemd-run --quiet --unit=user-of-card sh -c 'exec sleep infinity 3</dev/nvidia0'"
    mismatched.on(use)
    found = mismatched.play("580", "proprietary")
    assert found.code == 0, found.text[-3000:]
    assert "be taken out: sleep (pid" in found.text
    assert "infra_llm_reboot is never" in found.text
    assert "580.82.07" in mismatched.loaded()
    assert "restart required" in mismatched.on("cat /run/reboot-required")
    outside = mismatched.play("580", "proprietary", reboot="window", reboot_window="00:00-00:00")
    assert "infra_llm_reboot is window, 00:00-00:00" in outside.text
    # Its unit is gone after the boot, as a service that is not enabled would be.
    rebooted = mismatched.play("580", "proprietary", reboot="window", reboot_window="00:00-23:59",
                               drain=["user-of-nothing.service"])  # fmt: skip
    assert rebooted.code != 0, "a unit that does not exist can't be stopped"
    boot = mismatched.on("cat /proc/sys/kernel/random/boot_id")
    mismatched.apply("580", "proprietary", reboot="if_needed")
    assert mismatched.on("cat /proc/sys/kernel/random/boot_id") != boot
    assert "580.95.05" in mismatched.loaded()
    assert mismatched.on("ls /run/reboot-required", check=False) == ""


def test_a_host_that_does_not_come_back_is_marked_and_the_others_go_on(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("lost")
    key = nvidia_repository.build(folder)
    cards = "no-driver-rtx5060ti,no-driver-rtx5060ti"
    lab = DriverLab("driver-lost", folder, "lost,stays", cards, reboots=False)
    try:
        for host in ("lost", "stays"):
            tar = nvidia_repository.pack(folder)
            lab.on(host, "mkdir -p /srv/standin; tar -xC /srv/standin", stdin=tar)
            lab.on(host, "sh /srv/standin/setup")
        given = {
            "driver_plan": vendor_plan("580", "open", KERNEL),
            "driver_repositories": nvidia_repository.repositories(key),
        }
        # An older driver of somebody else's is loaded on both; on one of them it is in use.
        older = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build"
        for host in ("lost", "stays"):
            lab.on(host, f"mkdir -p /proc/driver/nvidia; echo {older} >/proc/driver/nvidia/version")
        lab.on("lost", "echo '{\"busy\": true}' >/etc/infra-llm-standin/tools.json")
        found = lab.play(**given, reboot="if_needed", reboot_timeout=10)
        assert found.code == 2
        assert "the host did not come back within 10 s after its reboot" in found.text
        assert "580.95.05" in lab.on("stays", "cat /proc/driver/nvidia/version")
        assert "stays : ok=" in found.text
        assert "failed=0" in found.text.partition("stays : ok=")[2].partition("rescued")[0]
    finally:
        lab.down()
