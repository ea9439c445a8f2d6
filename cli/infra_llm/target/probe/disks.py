"""Disks that can hold models: free space, kind, and read speed on request."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import Dict, List, Optional

from ...core.hardware import Disk
from .context import Context

MIB = 1024 * 1024
KINDS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "nfs", "nfs4", "cifs"}
KINDS_OF_ROOT = KINDS | {"overlay", "tmpfs", "ramfs", "rootfs"}
SKIPPED = ("/snap/", "/boot", "/var/lib/docker/", "/var/lib/containers/", "/run/", "/dev/")
READ_BYTES = 256 * MIB
READ_SECONDS = 3.0


def parse_mounts(text: str) -> List[Disk]:
    """/proc/mounts -> mounts that can hold models, the root first, one a device."""
    by_device: Dict[str, Disk] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        device, mount, kind = words[0], _unescape(words[1]), words[2]
        if kind not in (KINDS_OF_ROOT if mount == "/" else KINDS):
            continue
        if any((mount + "/").startswith(skip) for skip in SKIPPED):
            continue
        key = device if device.startswith("/dev/") else "{} {}".format(device, mount)
        known = by_device.get(key)
        if known is None or len(mount) < len(known.mount):
            by_device[key] = Disk(mount=mount, device=device, filesystem=kind)
    return sorted(by_device.values(), key=lambda disk: disk.mount)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def read_disks(context: Context) -> List[Disk]:
    """Mounted file systems with total and free MiB (free for an ordinary user)."""
    disks = parse_mounts(context.read("/proc/mounts"))
    for disk in disks:
        try:
            figures = os.statvfs(context.path(disk.mount))
        except (OSError, ValueError) as error:
            context.error("disks", "{}: {}".format(disk.mount, error))
            continue
        disk.total_mib = figures.f_blocks * figures.f_frsize // MIB
        disk.free_mib = figures.f_bavail * figures.f_frsize // MIB
        disk.rotational = _rotational(context, disk.device)
    if disks:
        context.source("disks", "/proc/mounts, statvfs, /sys/block")
    return disks


def _rotational(context: Context, device: str) -> Optional[bool]:
    """Of the disk, or of the disk that a partition or a device-mapper volume lies on."""
    name = os.path.basename(device)
    try:
        real = os.path.basename(os.path.realpath(context.path(device)))
    except (OSError, ValueError):
        real = name
    for candidate in (name, real):
        folder = "/sys/class/block/" + candidate
        for place in (folder, folder + "/.."):
            text = context.read(place + "/queue/rotational")
            if text in ("0", "1"):
                return text == "1"
    return None


def measure_read_mib_s(disk_device: str, folder: str) -> Optional[float]:
    """Sequential read speed in MiB/s: the raw device past the page cache, else a file.

    Reads at most 256 MiB or 3 s. The device needs root; without it (or on overlay and network
    file systems) a temporary file is written, dropped from the cache and read back.
    """
    speed = _read_speed(disk_device) if disk_device.startswith("/dev/") else None
    return speed if speed is not None else _file_read_speed(folder)


def _read_speed(path: str) -> Optional[float]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        started, done = time.monotonic(), 0
        while done < READ_BYTES and time.monotonic() - started < READ_SECONDS:
            chunk = os.read(descriptor, 4 * MIB)
            if not chunk:
                break
            done += len(chunk)
        elapsed = time.monotonic() - started
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return round(done / MIB / elapsed, 1) if done >= 16 * MIB and elapsed > 0 else None


def _file_read_speed(folder: str) -> Optional[float]:
    path = os.path.join(folder, ".infra-llm-read-test-{}".format(os.getpid()))
    try:
        with open(path, "wb") as stream:
            for _ in range(READ_BYTES // (4 * MIB)):
                stream.write(os.urandom(4 * MIB))
            stream.flush()
            os.fsync(stream.fileno())
        return _read_speed(path)
    except OSError:
        return None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
