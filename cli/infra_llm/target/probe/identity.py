"""Which CPU, RAM and GPUs a machine has, as short texts that can be compared.

A part of the probe that is whole in itself: the role llm_service copies this file to hosts, where
launch.py compares the machine with the plan's before it starts the engine. So it imports nothing
but the standard library and is quick. Python 3.8.
"""

from __future__ import annotations

import os
import re
from typing import Dict, List, Mapping

PCI_DEVICES = "/sys/bus/pci/devices"
ADDRESS = re.compile(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")
VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
GPU_CLASSES = ("0x03", "0x1200")
"""PCI class codes (PCI Code and ID Assignment Specification): 03 display controller, 1200
processing accelerator (AMD Instinct shows itself so)."""


def identity(root: str = "/") -> Dict[str, str]:
    """{"cpu": model, "memory": "24 GiB", "gpu:ADDRESS": "10de:2504 1458:4096"} of a machine.

    What can't be read is left out; a machine without GPUs has "gpus": "none", unless sysfs is
    masked.
    """
    found = {}
    model = cpu_model(_read(root, "/proc/cpuinfo"))
    if model:
        found["cpu"] = model
    total = re.search(r"^MemTotal:\s*(\d{1,18})", _read(root, "/proc/meminfo"), re.MULTILINE)
    if total:
        found["memory"] = "{} GiB".format(rounded_gib(int(total.group(1)) // 1024))
    gpus = _gpus(root)
    found.update(gpus)
    if not gpus and os.path.exists(_path(root, "/sys/bus")):
        found["gpus"] = "none"
    return found


def differences(planned: Mapping[str, str], found: Mapping[str, str]) -> List[str]:
    """What of the fingerprint `planned` the machine `found` (`identity`) no longer is, in words."""
    texts: List[str] = []
    if not planned:
        return texts
    cpu = planned.get("cpu", "")
    if "cpu" in found and cpu and not (cpu + " ").startswith(found["cpu"] + " "):
        texts.append("cpu {} -> {}".format(cpu, found["cpu"]))
    if "memory" in found and planned.get("memory", found["memory"]) != found["memory"]:
        texts.append("memory {} -> {}".format(planned["memory"], found["memory"]))
    before = {name for name in planned if name.startswith("gpu:") and ADDRESS.match(name[4:])}
    after = {name for name in found if name.startswith("gpu:")}
    if after or "gpus" in found:
        for name in sorted(before | after):
            old, new = planned.get(name, "none"), found.get(name, "none")
            # The board is compared where both know it: the driver may tell what sysfs does not.
            if any(one != other for one, other in zip(old.split(), new.split())):
                texts.append("{} {} -> {}".format(name, old, new))
    return texts


def cpu_model(cpuinfo: str) -> str:
    """The first "model name" of /proc/cpuinfo; "" on machines that have none (arm64)."""
    match = re.search(r"^model name[ \t]*:(.*)$", cpuinfo, re.MULTILINE | re.IGNORECASE)
    return re.sub(r"\s+", " ", match.group(1)).strip() if match else ""


def rounded_gib(mib: int) -> int:
    """Size of the modules, in GiB.

    MemTotal is what the kernel left of them, some per cent less, and that changes with its
    version. Up to 16 GiB to the GiB above, beyond in steps of 1/16 to 1/8.
    """
    step = 1024
    while step * 16 < mib:
        step *= 2
    return -(-mib // step) * step // 1024


def gpu_label(pci_id: str, subsystem: str) -> str:
    """How a fingerprint names a card: "10de:2504 1458:4096"."""
    return "{} {}".format(pci_id, subsystem).strip()


def hex4(text: str) -> str:
    """ "0x10de" -> "10de"; "" for what is no number."""
    match = re.match(r"^(?:0x)?([0-9a-fA-F]{1,8})$", text.strip())
    return match.group(1).lower().zfill(4)[-4:] if match else ""


def _gpus(root: str) -> Dict[str, str]:
    try:
        names = sorted(os.listdir(_path(root, PCI_DEVICES)))
    except OSError:
        return {}
    found = {}
    for name in names:
        folder = "{}/{}/".format(PCI_DEVICES, name)
        vendor = _read(root, folder + "vendor").lower()
        if not ADDRESS.match(name) or vendor not in VENDORS:
            continue
        if not _read(root, folder + "class").lower().startswith(GPU_CLASSES):
            continue
        board = hex4(_read(root, folder + "subsystem_vendor"))
        if board:
            board = "{}:{}".format(board, hex4(_read(root, folder + "subsystem_device")))
        pci_id = "{}:{}".format(hex4(vendor), hex4(_read(root, folder + "device")))
        found["gpu:" + name] = gpu_label(pci_id, board)
    return found


def _path(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _read(root: str, path: str) -> str:
    try:
        with open(_path(root, path), "rb") as stream:
            return stream.read(4 * 1024 * 1024).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return ""
