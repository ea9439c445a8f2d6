"""The PCI layer from sysfs: display and accelerator devices, their driver, link and place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import List, Optional

from ...core.hardware import Gpu
from .context import Context
from .identity import ADDRESS, GPU_CLASSES, PCI_DEVICES, VENDORS, hex4

BASE = PCI_DEVICES
BRIDGE_OTHER = "0x0680"
"""PCI class code of NVSwitch: other bridge (PCI Code and ID Assignment Specification)."""

GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}


@dataclass
class PciDevice:
    """One device of sysfs. `chain` is the path of addresses from the root port down."""

    address: str
    vendor_id: str = ""
    device_id: str = ""
    subsystem: str = ""
    class_code: str = ""
    driver: str = ""
    numa_node: Optional[int] = None
    boot_vga: bool = False
    host_bridge: str = ""
    chain: List[str] = field(default_factory=list)
    bridges_known: bool = False
    """Whether `chain` comes from the device tree of sysfs and not from the address alone."""

    @property
    def vendor(self) -> str:
        return VENDORS.get(self.vendor_id, "")


def normal_address(text: str) -> str:
    """PCI address as the kernel writes it: "00000000:01:00.0" or "01:00.0" -> "0000:01:00.0"."""
    match = re.match(
        r"^\s*(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.([0-7]))?\s*$", text
    )
    if not match:
        return ""
    domain = "{:04x}".format(int(match.group(1) or "0", 16))
    return "{}:{}:{}.{}".format(
        domain, match.group(2).lower(), match.group(3).lower(), match.group(4) or "0"
    )


def read_pci(context: Context) -> List[PciDevice]:
    """All PCI devices; none (with an error entry) where sysfs is missing or masked."""
    names = [name for name in context.names(BASE) if ADDRESS.match(name)]
    if not names and not context.exists("/sys/bus"):
        context.error(
            "gpus",
            "/sys is missing or masked: GPUs can only be found through their driver",
            "run on the host itself, or give the container the host's /sys",
        )
    return [_device(context, name) for name in names]


def _device(context: Context, address: str) -> PciDevice:
    folder = "{}/{}".format(BASE, address)
    node = context.read_int(folder + "/numa_node")
    device = PciDevice(
        address=address,
        vendor_id=context.read(folder + "/vendor").lower(),
        device_id=hex4(context.read(folder + "/device")),
        class_code=context.read(folder + "/class").lower(),
        driver=context.link_name(folder + "/driver"),
        numa_node=node if node is not None and node >= 0 else None,
        boot_vga=context.read(folder + "/boot_vga") == "1",
    )
    vendor = hex4(context.read(folder + "/subsystem_vendor"))
    if vendor:
        device.subsystem = "{}:{}".format(vendor, hex4(context.read(folder + "/subsystem_device")))
    try:
        parts = os.path.realpath(context.path(folder)).split("/")
    except (OSError, ValueError):
        parts = []
    device.chain = [part for part in parts if ADDRESS.match(part)] or [address]
    device.bridges_known = any(part.startswith("pci") and ":" in part for part in parts)
    device.host_bridge = next(
        (part for part in parts if re.match(r"^pci[0-9a-f]{4}:", part)),
        "pci" + address.rsplit(":", 1)[0],
    )
    return device


def is_gpu(device: PciDevice) -> bool:
    """A display controller or accelerator of a vendor whose GPUs engines can use."""
    return bool(device.vendor) and device.class_code.startswith(GPU_CLASSES)


def gpu_of(context: Context, device: PciDevice) -> Gpu:
    """What sysfs alone tells of a GPU."""
    folder = "{}/{}".format(BASE, device.address)
    return Gpu(
        index=0,
        vendor=device.vendor,
        pci_address=device.address,
        pci_id="{}:{}".format(hex4(device.vendor_id), device.device_id),
        pci_subsystem_id=device.subsystem,
        pci_revision=hex4(context.read(folder + "/revision"))[-2:],
        kernel_driver=device.driver,
        numa_node=device.numa_node,
        pcie_generation=generation(context.read(folder + "/current_link_speed")),
        pcie_generation_max=generation(context.read(folder + "/max_link_speed")),
        pcie_width=_width(context.read_int(folder + "/current_link_width")),
        pcie_width_max=_width(context.read_int(folder + "/max_link_width")),
    )


def generation(speed: str) -> Optional[int]:
    """ "16.0 GT/s PCIe" -> 4; None for "Unknown speed"."""
    match = re.match(r"^(\d{1,3}(?:\.\d+)?)\s*GT/s", speed)
    return GENERATIONS.get(float(match.group(1))) if match else None


def _width(value: Optional[int]) -> Optional[int]:
    return value if value is not None and 0 < value <= 32 else None
