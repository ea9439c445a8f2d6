#!/usr/bin/python3
"""Let a running container open devices the way libnvidia-container does: behind systemd's back.

    legacy_devices.py docker|podman CONTAINER        # its name or id

The hook that `docker run --gpus` calls replaces the container's device program (cgroup v2, BPF)
with its own. Neither runc nor systemd knows of it, so systemd's next daemon-reload puts its own
program back, and the GPU is gone (NVIDIA/nvidia-container-toolkit#48). The stand-in allows all
devices; that is the only difference. Runs as root in a test host.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

SYSCALL = {"x86_64": 321, "aarch64": 280}
LOAD, ATTACH, DETACH, FD_BY_ID, QUERY = 5, 8, 9, 13, 16
CGROUP_DEVICE_PROGRAM, CGROUP_DEVICE, ALLOW_MULTI = 15, 6, 2
# r0 = 1; exit
ALLOW_ALL = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_LIBC = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """The system call; `attributes` is padded to the size of the kernel's union."""
    buffer = ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120)
    result = _LIBC.syscall(SYSCALL[platform.machine()], command, buffer, 120)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return int(result)


def attached(group: int) -> list[int]:
    """Ids of the device programs of a cgroup."""
    ids = (ctypes.c_uint32 * 64)()
    head = struct.pack("<IIII", group, CGROUP_DEVICE, 0, 0)
    query = head + struct.pack("<QI", ctypes.addressof(ids), 64)
    buffer = ctypes.create_string_buffer(query.ljust(120, b"\0"), 120)
    if _LIBC.syscall(SYSCALL[platform.machine()], QUERY, buffer, 120) < 0:
        raise OSError(ctypes.get_errno(), "bpf(query)")
    count = struct.unpack_from("<I", buffer.raw, 24)[0]
    return list(ids[:count])


def main(engine: str, name: str) -> None:
    pid = subprocess.check_output([engine, "inspect", "--format", "{{.State.Pid}}", name])
    place = Path(f"/proc/{int(pid)}/cgroup").read_text().strip().partition("::")[2]
    group = os.open(f"/sys/fs/cgroup{place}", os.O_RDONLY | os.O_DIRECTORY)
    instructions = ctypes.create_string_buffer(ALLOW_ALL)
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    program = struct.pack("<IIQQ", CGROUP_DEVICE_PROGRAM, 2, ctypes.addressof(instructions),
                          ctypes.addressof(licence))  # fmt: skip
    allow = bpf(LOAD, program)
    for number in attached(group):
        old = bpf(FD_BY_ID, struct.pack("<I", number))
        bpf(DETACH, struct.pack("<III", group, old, CGROUP_DEVICE))
    bpf(ATTACH, struct.pack("<IIII", group, allow, CGROUP_DEVICE, ALLOW_MULTI))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
