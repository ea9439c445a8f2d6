"""Disk of a virtual machine: the lab's root file system with a kernel, as an ext4 image.

The root file system is built once and cached with those of the lab (`tests.lab.rootfs`); a disk is
made from it for every machine and goes with it. Needs root, as mmdebstrap's owners are kept.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import guestfiles, rootfs
from tests.lab.config import LabError
from tests.lab.system import locked, run

SIZE = "14G"
"""Sparse: what is not written takes no room."""
PACKAGES = ("initramfs-tools", "kmod", "udev", "zstd")
_KERNEL = re.compile(r"^linux-image-(\d\S*-cloud-amd64) ", re.M)

# Only what boots this machine, or an emulated update-initramfs takes minutes.
CUSTOMIZE = """\
printf 'virtio_pci\\nvirtio_blk\\next4\\n' >>"$1/etc/initramfs-tools/modules"
printf 'MODULES=list\\n' >"$1/etc/initramfs-tools/conf.d/modules"
chroot "$1" update-initramfs -u -k all >/dev/null 2>&1
"""

NETWORK = """\
[Match]
Type=ether

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


@dataclass(frozen=True)
class Disk:
    """A disk, and what a machine boots of it."""

    path: Path
    kernel: Path
    initrd: Path


def kernels(suite: str) -> list[str]:
    """Releases of the suite's cloud kernels that this machine's sources have, oldest first.

    Raises LabError where there are fewer than two: a second one cannot be installed then.
    """
    wanted = rootfs.recipe(suite)
    folder = rootfs.cache_dir().parent / "vm" / f"apt-{suite}"
    with locked(folder.with_suffix(".lock"), timeout=300):
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text("".join(f"{line}\n" for line in wanted.sources))
        lines = [
            f'Dir::State "{folder}";',
            f'Dir::State::status "{folder}/status";',
            f'Dir::Cache "{folder}/cache";',
            f'Dir::Etc::sourcelist "{folder}/sources.list";',
            'Dir::Etc::sourceparts "-";',
            'APT::Architecture "amd64";',
        ]
        (folder / "apt.conf").write_text("\n".join([*lines, *wanted.apt_settings]) + "\n")
        apt = ["env", f"APT_CONFIG={folder}/apt.conf"]
        run([*apt, "apt-get", "-qq", "update"], timeout=300)
        found = run([*apt, "apt-cache", "search", "--names-only", "^linux-image-[0-9].*-cloud-"])
    releases = sorted(set(_KERNEL.findall(found)), key=_order)
    if len(releases) < 2:
        raise LabError(
            f"the package sources of {suite} have {len(releases)} cloud kernels, two are needed",
            "add the suite's security or updates source to this machine",
        )
    return releases


def _order(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release.partition("-cloud")[0])]


def recipe(suite: str, kernel: str) -> rootfs.Recipe:
    """The lab's recipe with a kernel of the distribution."""
    base = rootfs.recipe(suite)
    return replace(
        base,
        packages=(*base.packages, *PACKAGES, f"linux-image-{kernel}"),
        customize=base.customize + CUSTOMIZE,
    )


def make(
    wanted: rootfs.Recipe, kernel: str, files: dict[str, guestfiles.File], folder: Path
) -> Disk:
    """A new disk in `folder`, with `files` put over the root file system."""
    root = folder / "root"
    root.mkdir(parents=True)
    archive = rootfs.archive(wanted)
    run(["tar", "-C", str(root), "--numeric-owner", "-xpf", str(archive)], timeout=300)
    own = {
        **files,
        "etc/hosts": guestfiles.File("127.0.0.1 localhost vm\n::1 localhost\n"),
        "etc/hostname": guestfiles.File("vm\n"),
        # qemu's own resolver, which asks those of this machine.
        "etc/resolv.conf": guestfiles.File("nameserver 10.0.2.3\n"),
        "etc/systemd/network/10-vm.network": guestfiles.File(NETWORK),
    }
    tar = guestfiles.as_tar(own)
    run(["tar", "-C", str(root), "--numeric-owner", "-xpf", "-"], stdin=tar)
    disk = Disk(folder / "disk.raw", folder / "vmlinuz", folder / "initrd.img")
    shutil.copy(root / "boot" / f"vmlinuz-{kernel}", disk.kernel)
    shutil.copy(root / "boot" / f"initrd.img-{kernel}", disk.initrd)
    run(["mkfs.ext4", "-q", "-d", str(root), str(disk.path), SIZE], timeout=300)
    shutil.rmtree(root)
    return disk
