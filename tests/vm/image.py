"""Disk of a virtual machine: the lab's root file system with a kernel, as an ext4 image.

The root file system is built once and cached with those of the lab (`tests.lab.rootfs`); a disk is
made from it for every machine and goes with it. Needs root, as mmdebstrap's owners are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.lab import guestfiles, rootfs
from tests.lab.system import run
from tests.vm import warm

SIZE = "14G"
"""Sparse: what is not written takes no room."""
PACKAGES = ("ccache", "initramfs-tools", "kmod", "udev", "zstd")

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


def recipe(suite: str, kernel: str) -> rootfs.Recipe:
    """The lab's recipe with a kernel of the distribution."""
    base = rootfs.recipe(suite)
    return replace(
        base,
        packages=(*base.packages, *PACKAGES, f"linux-image-{kernel}"),
        customize=base.customize + warm.USE + CUSTOMIZE,
    )


def make(
    wanted: rootfs.Recipe,
    kernel: str,
    files: dict[str, guestfiles.File],
    folder: Path,
    archives: Sequence[Path] = (),
) -> Disk:
    """A new disk in `folder`, with `archives` and `files` put over the root file system."""
    root = folder / "root"
    root.mkdir(parents=True)
    for archive in (rootfs.archive(wanted), *archives):
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
