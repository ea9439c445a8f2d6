"""RAM, swap, hugepages, the cgroup limit that caps them, and NUMA nodes."""

from __future__ import annotations

import re
from typing import Dict, List, Optional

from ...core.hardware import Memory, NumaNode
from .context import Context, to_int

MIB = 1024 * 1024
NO_LIMIT = 1 << 50
"""cgroup v1 writes "no limit" as a number near 2^63."""


def parse_meminfo(text: str) -> Dict[str, int]:
    """/proc/meminfo (or a node's meminfo) as {name: KiB or count}."""
    values: Dict[str, int] = {}
    for line in text.splitlines():
        match = re.match(r"^(?:Node \d+ )?([A-Za-z_()0-9]+):\s*(\d{1,18})", line)
        if match:
            values[match.group(1)] = int(match.group(2))
    return values


def parse_limit(text: str) -> Optional[int]:
    """Bytes of memory.max or memory.limit_in_bytes; None for "max" and for no limit."""
    value = to_int(text)
    return value if value is not None and 0 < value < NO_LIMIT else None


def own_cgroup_folders(context: Context, controller: str) -> List[str]:
    """Folders of this process's cgroup and its parents, v2 and v1, nearest first.

    Inside a container the path of /proc/self/cgroup may not exist below the mount: the mount's
    own root is the last entry and holds the container's limit there.
    """
    folders: List[str] = []
    for line in context.read("/proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        names = parts[1].split(",")
        if parts[1] == "":
            bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in names:
            bases = ["/sys/fs/cgroup/" + parts[1], "/sys/fs/cgroup/" + controller]
        else:
            continue
        for base in bases:
            path = parts[2].rstrip("/")
            while path and path.count("/") < 64:
                folders.append(base + path)
                path = path.rpartition("/")[0]
            folders.append(base)
    return folders


def read_memory(context: Context) -> Memory:
    """RAM in MiB; `available_mib` is never more than what a cgroup limit leaves."""
    values = parse_meminfo(context.read("/proc/meminfo"))
    if not values:
        context.error("memory", "/proc/meminfo can't be read", "mount /proc on the host")
    memory = Memory(
        total_mib=values.get("MemTotal", 0) // 1024,
        available_mib=values.get("MemAvailable", values.get("MemFree", 0)) // 1024,
        swap_total_mib=values.get("SwapTotal", 0) // 1024,
        hugepages_total=values.get("HugePages_Total", 0),
        hugepage_size_kib=values.get("Hugepagesize", 0),
    )
    if "MemAvailable" not in values and values:
        context.error("memory.available_mib", "MemAvailable is missing: MemFree is shown instead")
    for name in ("total_mib", "available_mib", "swap_total_mib", "hugepages_total"):
        context.source("memory." + name, "/proc/meminfo")
    _apply_limit(context, memory)
    return memory


def _apply_limit(context: Context, memory: Memory) -> None:
    limits = []
    for folder in own_cgroup_folders(context, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = parse_limit(context.read("{}/{}".format(folder, limit_name)))
            if limit is not None:
                used = context.read_int("{}/{}".format(folder, used_name)) or 0
                limits.append((limit, used, "{}/{}".format(folder, limit_name)))
    if not limits:
        return
    limit, used, place = min(limits)
    if limit // MIB >= memory.total_mib:
        return
    memory.limit_mib = limit // MIB
    memory.available_mib = min(memory.available_mib, max(0, (limit - used) // MIB))
    context.source("memory.limit_mib", place)
    context.source("memory.available_mib", place)


def read_numa(context: Context) -> List[NumaNode]:
    """NUMA nodes from /sys/devices/system/node (none where it is masked)."""
    base = "/sys/devices/system/node"
    nodes = []
    for name in context.names(base):
        match = re.match(r"^node(\d+)$", name)
        if not match:
            continue
        values = parse_meminfo(context.read("{}/{}/meminfo".format(base, name)))
        nodes.append(
            NumaNode(
                index=int(match.group(1)),
                cpus=context.read("{}/{}/cpulist".format(base, name)),
                total_mib=values.get("MemTotal", 0) // 1024,
            )
        )
    if nodes:
        context.source("numa", base)
    return sorted(nodes, key=lambda node: node.index)
