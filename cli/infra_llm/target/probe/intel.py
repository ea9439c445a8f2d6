"""Intel GPUs from i915 and xe sysfs, xpu-smi where present."""

from __future__ import annotations

import json
from typing import Any, Dict, List

from ...core.hardware import DriverState, Gpu
from .context import Context, to_int
from .pci import BASE, normal_address

MIB = 1024 * 1024
INTEGRATED_ADDRESS = "0000:00:02.0"
"""Intel's integrated graphics is always device 2 of bus 0 (processor data sheets)."""


def read_intel(context: Context, gpus: List[Gpu], driver: DriverState) -> None:
    """Complete the Intel GPUs that PCI found."""
    cards = [gpu for gpu in gpus if gpu.vendor == "intel"]
    for gpu in cards:
        if gpu.pci_address == INTEGRATED_ADDRESS:
            gpu.integrated = gpu.unified_memory = True
            context.source("gpus[{}].integrated".format(gpu.pci_address), "PCI address")
        else:
            _vram(context, gpu)
    bound = [gpu for gpu in cards if gpu.kernel_driver in ("i915", "xe") and not gpu.integrated]
    if any(gpu.vram_total_mib is None for gpu in bound):
        _from_xpu_smi(context, bound)
    if bound and not driver.module_loaded:
        driver.module_loaded = True


def _vram(context: Context, gpu: Gpu) -> None:
    """xe names physical_vram_size_bytes for each tile, i915 lmem_total_bytes for the card."""
    folder = "{}/{}".format(BASE, gpu.pci_address)
    total = 0
    for name in context.names(folder):
        if name.startswith("tile"):
            total += context.read_int("{}/{}/physical_vram_size_bytes".format(folder, name)) or 0
    for name in context.names(folder + "/drm"):
        if not total and name.startswith("card"):
            total = context.read_int("{}/drm/{}/lmem_total_bytes".format(folder, name)) or 0
    if total > 0:
        gpu.vram_total_mib = total // MIB
        context.source("gpus[{}].vram_total_mib".format(gpu.pci_address), "i915 or xe sysfs")


def _from_xpu_smi(context: Context, cards: List[Gpu]) -> None:
    result = context.run("xpu-smi", "discovery", "-j")
    if result.failure:
        if result.failure != "missing":
            context.error("gpus", "xpu-smi: {}".format(result.failure))
        return
    for values in parse_xpu_smi(result.output):
        for gpu in cards:
            if gpu.pci_address == values["pci_address"]:
                for name in ("name", "uuid", "vram_total_mib"):
                    if values.get(name) and not getattr(gpu, name):
                        setattr(gpu, name, values[name])
                        context.source("gpus[{}].{}".format(gpu.pci_address, name), "xpu-smi")


def parse_xpu_smi(text: str) -> List[Dict[str, Any]]:
    """`xpu-smi discovery -j`: {"device_list": [...]}."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    devices = data.get("device_list") if isinstance(data, dict) else None
    found = []
    for device in devices if isinstance(devices, list) else []:
        if isinstance(device, dict):
            size = to_int(str(device.get("memory_physical_size_byte", "")))
            found.append(
                {
                    "pci_address": normal_address(str(device.get("pci_bdf_address", ""))),
                    "name": str(device.get("device_name", "")),
                    "uuid": str(device.get("uuid", "")),
                    "vram_total_mib": size // MIB if size else None,
                }
            )
    return found
