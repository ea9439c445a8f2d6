"""Who listens on a TCP port of this host, from /proc.

Runs on the target: standard library, Python 3.8.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List, Optional, Set

_LISTEN = "0A"
"""TCP_LISTEN in the kernel's include/net/tcp_states.h, as /proc/net/tcp prints it."""


@dataclass(frozen=True)
class Listener:
    pid: int
    """0 where the process is not ours to see."""
    name: str


def listener(port: int) -> Optional[Listener]:
    """The process that listens on `port`, on any address; None when nothing does."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if inodes & _socket_inodes(pid):
            return Listener(pid, _name(pid))
    return Listener(0, "another process")


def _listening_inodes(port: int) -> Set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as file:
                rows = [line.split() for line in file.readlines()[1:]]
        except OSError:
            continue
        found |= {
            row[9]
            for row in rows
            if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port
        }
    return found


def _socket_inodes(pid: int) -> Set[str]:
    folder = "/proc/{}/fd".format(pid)
    found = set()
    try:
        for name in os.listdir(folder):
            target = os.readlink(os.path.join(folder, name))
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    except OSError:
        pass
    return found


def _name(pid: int) -> str:
    try:
        with open("/proc/{}/cmdline".format(pid), "rb") as file:
            words = file.read().split(b"\0")
        return os.path.basename(words[0].decode("utf-8", "replace")) or "a process"
    except OSError:
        return "a process"


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether `pid` is `ancestor` or runs below it."""
    seen: List[int] = []
    while pid > 1 and pid not in seen:
        if pid == ancestor:
            return True
        seen.append(pid)
        pid = _parent(pid)
    return False


def _parent(pid: int) -> int:
    try:
        with open("/proc/{}/stat".format(pid), encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
