"""`nvidia-smi` as the second source: pure parsers of its XML and CSV.

Used where NVML can't be asked through pynvml (no pynvml, a driver from before nvmlInitWithFlags,
WSL). The parsers take captured text, whole or damaged, and give what they can find.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any, Dict, List, Optional

from .pci import normal_address

QUERY = "--query-gpu=pci.bus_id,compute_cap"
CSV = "--format=csv,noheader"

# What nvidia-smi prints when it can't work -> NVML's error number (nvml.h, nvmlReturn_t).
FAILURES = (
    ("version mismatch", 18),
    ("couldn't communicate with the nvidia driver", 9),
    ("driver is not loaded", 9),
    ("insufficient permissions", 4),
    ("gpu is lost", 15),
    ("no devices were found", 6),
    ("function not found", 13),
)


def failure_code(text: str) -> Optional[int]:
    """NVML's number for a printed failure, else None."""
    lowered = text.lower()
    return next((code for words, code in FAILURES if words in lowered), None)


def parse_compute_caps(text: str) -> Dict[str, str]:
    """CSV of `QUERY`: {"0000:01:00.0": "8.6"}."""
    found = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 2 and re.match(r"^\d{1,2}\.\d$", parts[1]):
            address = normal_address(parts[0])
            if address:
                found[address] = parts[1]
    return found


def parse_xml(text: str) -> Optional[Dict[str, Any]]:
    """`nvidia-smi -q -x` -> the same document as nvml.read_nvml; None if it is no such XML.

    Only numbers, units and addresses are read from it, none of the words for people.
    """
    start = text.find("<nvidia_smi_log")
    if start < 0 or "<!ENTITY" in text:
        return None
    end = text.rfind("</nvidia_smi_log>")
    try:
        root = ET.fromstring(text[start : end + 17] if end > 0 else text[start:])  # noqa: S314
    except ET.ParseError:
        return None
    gpus = [_gpu(node) for node in root.findall("gpu")]
    for index, gpu in enumerate(gpus):
        gpu["index"] = index
    return {
        "failure": "",
        "code": None,
        "driver_version": _text(root, "driver_version"),
        "library_version": None,
        "cuda_version": _match(_text(root, "cuda_version"), r"^(\d{1,2}\.\d{1,2})$"),
        "gpus": gpus,
        "links": {},
        "errors": [],
    }


def _text(node: Any, path: str) -> Optional[str]:
    value = (node.findtext(path) or "").strip()
    missing = ("", "N/A", "[N/A]", "[Not Supported]", "Unknown Error", "Requested functionality")
    return None if value in missing else value


def _match(value: Optional[str], pattern: str) -> Optional[str]:
    match = re.match(pattern, value or "")
    return match.group(1) if match else None


def _number(node: Any, path: str, pattern: str = r"^(\d{1,9}(?:\.\d+)?)") -> Optional[float]:
    found = _match(_text(node, path), pattern)
    return float(found) if found else None


def _whole(node: Any, path: str) -> Optional[int]:
    found = _number(node, path)
    return int(found) if found is not None else None


def _mib(node: Any, path: str) -> Optional[int]:
    found = _match(_text(node, path), r"^(\d{1,9}) MiB$")
    return int(found) if found else None


def _enabled(node: Any, path: str) -> Optional[bool]:
    value = _text(node, path)
    return {"Enabled": True, "Disabled": False}.get(value or "")


def _gpu(node: Any) -> Dict[str, Any]:
    power = None
    for place in (
        "gpu_power_readings/current_power_limit",
        "gpu_power_readings/power_limit",
        "power_readings/enforced_power_limit",
        "power_readings/power_limit",
    ):
        power = power or _number(node, place)
    gen = "pci/pci_gpu_link_info/pcie_gen/"
    width = "pci/pci_gpu_link_info/link_widths/"
    return {
        "vendor": "nvidia",
        "name": _text(node, "product_name") or "",
        "uuid": _text(node, "uuid") or "",
        "pci_address": normal_address(node.get("id") or _text(node, "pci/pci_bus_id") or ""),
        "pci_id": _pair(_text(node, "pci/pci_device_id")),
        "pci_subsystem_id": _pair(_text(node, "pci/pci_sub_system_id")),
        "vram_total_mib": _mib(node, "fb_memory_usage/total"),
        "vram_free_mib": _mib(node, "fb_memory_usage/free"),
        "vram_reserved_mib": _mib(node, "fb_memory_usage/reserved"),
        "compute_capability": None,
        "ecc_enabled": _enabled(node, "ecc_mode/current_ecc"),
        "power_limit_w": power,
        "pcie_generation": _whole(node, gen + "current_link_gen"),
        "pcie_generation_max": _whole(node, gen + "max_link_gen"),
        "pcie_width": _whole(node, width + "current_link_width"),
        "pcie_width_max": _whole(node, width + "max_link_width"),
        "persistence_mode": _enabled(node, "persistence_mode"),
        "mig_enabled": _enabled(node, "mig_mode/current_mig"),
        "mig_instances": [_mig(child) for child in node.findall("mig_devices/mig_device")],
        "processes": _processes(node),
    }


def _pair(text: Optional[str]) -> str:
    """nvidia-smi joins device and vendor: "250410DE" or "0x250410DE" -> "10de:2504"."""
    match = re.match(r"^(?:0x)?([0-9A-Fa-f]{4})([0-9A-Fa-f]{4})$", text or "")
    return "{}:{}".format(match.group(2), match.group(1)).lower() if match else ""


def _mig(node: Any) -> Dict[str, Any]:
    """The XML names no profile: it is put together from slices and memory, as NVIDIA names it."""
    memory = _mib(node, "fb_memory_usage/total")
    slices = _whole(node, "device_attributes/shared/gpu_instance_slice_count")
    profile = "{}g.{}gb".format(slices, -(-memory // 1024)) if slices and memory else ""
    return {"profile": profile, "uuid": _text(node, "uuid") or "", "memory_mib": memory}


def _processes(node: Any) -> List[Dict[str, Any]]:
    found = []
    for child in node.findall("processes/process_info"):
        pid = _whole(child, "pid")
        if pid is not None:
            found.append(
                {
                    "pid": pid,
                    "used_mib": _mib(child, "used_memory"),
                    "name": (_text(child, "process_name") or "")[:200],
                }
            )
    return found
