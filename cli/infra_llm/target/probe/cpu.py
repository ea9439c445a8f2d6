"""CPU: model, sockets, cores, threads, instruction sets, and what of them may be used."""

from __future__ import annotations

import os
import re
from typing import Dict, List, Optional

from ...core.hardware import Cpu
from .context import Context
from .identity import cpu_model

# Names of /proc/cpuinfo flags (x86, arm64) -> the names used here. Only those that inference
# engines choose kernels by (llama.cpp ggml-cpu, oneDNN).
INSTRUCTION_SETS = {
    "sse4_2": "sse4_2",
    "ssse3": "ssse3",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "bmi2": "bmi2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512cd": "avx512cd",
    "avx512vbmi": "avx512vbmi",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}

# MIDR implementer and part of arm64 cores that servers, boards and cloud machines have.
# Source: arch/arm64/include/asm/cputype.h of the Linux kernel and util-linux sys-utils/lscpu-arm.c.
ARM_PARTS = {
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x41", "0xd84"): "Neoverse-V3",
    ("0x41", "0xd85"): "Cortex-X925",
    ("0x41", "0xd87"): "Cortex-A725",
    ("0xc0", "0xac3"): "Ampere-1",
    ("0xc0", "0xac4"): "Ampere-1A",
}


def parse_cpuinfo(text: str) -> Cpu:
    """/proc/cpuinfo of x86 or arm64. Cores are counted by (physical id, core id)."""
    blocks = _blocks(text)
    cpu = Cpu(threads=max(1, len(blocks)))
    places = {(b.get("physical id"), b.get("core id")) for b in blocks if "core id" in b}
    cpu.cores = len(places) or cpu.threads
    cpu.sockets = len({b.get("physical id") for b in blocks if "physical id" in b}) or 1
    first = blocks[0] if blocks else {}
    cpu.model = cpu_model(text) or _arm_model(blocks)
    flags = (first.get("flags") or first.get("features") or "").split()
    cpu.instruction_sets = sorted({INSTRUCTION_SETS[f] for f in flags if f in INSTRUCTION_SETS})
    return cpu


def _blocks(text: str) -> List[Dict[str, str]]:
    """One dictionary a logical CPU, keys in lower case."""
    blocks: List[Dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if not colon:
            continue
        if key == "processor" and value.strip().isdigit():
            blocks.append({})
        if blocks:
            blocks[-1][key] = value.strip()
    return blocks


def _arm_model(blocks: List[Dict[str, str]]) -> str:
    names: List[str] = []
    for block in blocks:
        part = (block.get("cpu implementer", ""), block.get("cpu part", ""))
        name = ARM_PARTS.get(part, "ARM {} {}".format(*part).strip() if any(part) else "")
        if name and name not in names:
            names.append(name)
    return " + ".join(names)


def parse_cpu_list(text: str) -> List[int]:
    """ "0-3,8" -> [0, 1, 2, 3, 8]; what is not such a list is left out."""
    found: List[int] = []
    for part in text.strip().split(","):
        match = re.match(r"^\s*(\d{1,6})(?:-(\d{1,6}))?\s*$", part)
        if match:
            first = int(match.group(1))
            last = int(match.group(2) or first)
            found.extend(range(first, min(last, first + 65535) + 1))
    return found


def parse_cpu_quota(text: str) -> Optional[float]:
    """cgroup v2 cpu.max: "200000 100000" is 2.0 CPUs, "max 100000" is no limit."""
    words = text.split()
    try:
        quota, period = int(words[0]), int(words[1])
    except (IndexError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None


def read_cpu(context: Context) -> Cpu:
    """The machine's CPU from /proc/cpuinfo, /sys topology, affinity and cgroup quota."""
    text = context.read("/proc/cpuinfo")
    cpu = parse_cpuinfo(text)
    cpu.architecture = os.uname().machine if context.root == "/" else _architecture(text)
    if text:
        for name in ("model", "sockets", "cores", "threads", "instruction_sets"):
            context.source("cpu." + name, "/proc/cpuinfo")
    else:
        context.error("cpu", "/proc/cpuinfo can't be read", "mount /proc on the host")
    if not re.search(r"^core id\s*:", text, re.MULTILINE):
        _topology_from_sysfs(context, cpu)
    cpu.usable_threads = _usable_threads(context, cpu)
    return cpu


def _architecture(cpuinfo: str) -> str:
    return "aarch64" if "CPU implementer" in cpuinfo else "x86_64"


def _topology_from_sysfs(context: Context, cpu: Cpu) -> None:
    """arm64 cpuinfo names no cores: count them by package and core id in /sys."""
    base = "/sys/devices/system/cpu"
    places = set()
    for name in context.names(base):
        if re.match(r"^cpu\d+$", name):
            folder = "{}/{}/topology/".format(base, name)
            core = context.read(folder + "core_id")
            if core:
                places.add((context.read(folder + "physical_package_id"), core))
    if places:
        cpu.cores = len(places)
        cpu.sockets = len({package for package, _ in places}) or 1
        context.source("cpu.cores", base)
        context.source("cpu.sockets", base)


def _usable_threads(context: Context, cpu: Cpu) -> int:
    usable = cpu.threads
    allowed = re.search(
        r"^Cpus_allowed_list:\s*(\S+)", context.read("/proc/self/status"), re.MULTILINE
    )
    came_from = "/proc/cpuinfo"
    if allowed:
        listed = [c for c in parse_cpu_list(allowed.group(1)) if c < cpu.threads]
        if listed:
            usable, came_from = min(usable, len(listed)), "/proc/self/status Cpus_allowed_list"
    quota = _cpu_quota(context)
    if quota is not None and quota < usable:
        usable, came_from = max(1, int(quota)), "cgroup cpu quota"
    context.source("cpu.usable_threads", came_from)
    return usable


def _cpu_quota(context: Context) -> Optional[float]:
    from .memory import own_cgroup_folders

    quotas = []
    for folder in own_cgroup_folders(context, "cpu"):
        quota = parse_cpu_quota(context.read(folder + "/cpu.max"))
        if quota is None:
            pair = "{} {}".format(
                context.read(folder + "/cpu.cfs_quota_us"),
                context.read(folder + "/cpu.cfs_period_us"),
            )
            quota = parse_cpu_quota(pair)
        if quota is not None:
            quotas.append(quota)
    return min(quotas) if quotas else None
