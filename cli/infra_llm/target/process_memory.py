"""Memory of a process and all below it, from /proc.

Standard library, Python 3.8. Sizes in MiB. RSS counts a mapped model file (RssFile) once it was
read, although the kernel may drop those pages again; RssAnon is what only swap could take.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional

_FIELDS = {"VmRSS": "rss_mib", "RssAnon": "rss_anon_mib", "RssFile": "rss_file_mib",
           "RssShmem": "rss_shmem_mib", "VmHWM": "peak_rss_mib", "VmSwap": "swap_mib"}  # fmt: skip


def tree_memory(pid: int, proc: str = "/proc") -> Optional[Dict[str, Any]]:
    """Sums over `pid` and its descendants, None when it is gone.

    {"processes": n, "pids", "rss_mib", "rss_anon_mib", "rss_file_mib", "rss_shmem_mib",
    "peak_rss_mib", "swap_mib"}; the peak is the sum of each process's own (VmHWM, proc(5)).
    """
    found: Dict[str, Any] = {"pids": []}
    found.update(dict.fromkeys(_FIELDS.values(), 0.0))
    for member in _tree(pid, proc):
        status = _read(os.path.join(proc, str(member), "status"))
        if not status:
            continue
        found["pids"].append(member)
        for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE):
            if key in _FIELDS:
                found[_FIELDS[key]] += int(value) / 1024
    if not found["pids"]:
        return None
    found["processes"] = len(found["pids"])
    return {key: round(v, 1) if isinstance(v, float) else v for key, v in found.items()}


def _tree(pid: int, proc: str) -> List[int]:
    children: Dict[int, List[int]] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            # The name in parentheses may hold anything, also spaces and parentheses.
            fields = _read(os.path.join(proc, name, "stat")).rpartition(")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(name))
    tree, waiting = [], [pid]
    while waiting:
        member = waiting.pop()
        tree.append(member)
        waiting += children.get(member, [])
    return tree


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""
