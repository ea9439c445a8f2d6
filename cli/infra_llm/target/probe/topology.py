"""How GPUs and NICs reach each other over PCIe, from sysfs alone; ACS and the IOMMU's mode.

The words are those of `nvidia-smi topo -m`: PIX at most one PCIe switch, PXB several switches,
PHB through the host bridge, NODE within a NUMA node, SYS across sockets.
"""

from __future__ import annotations

import struct
from typing import Dict, List, Optional

from ...core.hardware import Gpu, GpuLink, NetworkInterface, System
from .context import Context
from .pci import BASE, PciDevice

BRIDGE = "0x0604"
ACS_CAPABILITY = 0x000D
ACS_REDIRECT = 0x04 | 0x08 | 0x10
"""P2P request redirect, completion redirect, upstream forwarding (PCIe specification, 7.7.11)."""


def relation(one: PciDevice, other: PciDevice) -> str:
    """PIX, PXB, PHB, NODE or SYS."""
    if not one.bridges_known or not other.bridges_known:
        return _far(one, other)
    shared = 0
    for left, right in zip(one.chain[:-1], other.chain[:-1]):
        if left != right:
            break
        shared += 1
    if shared == 0:
        return "PHB" if one.host_bridge == other.host_bridge else _far(one, other)
    # Below the last shared bridge: one switch means at most its downstream port and the device.
    deepest = max(len(one.chain), len(other.chain)) - shared
    return "PIX" if deepest <= 2 else "PXB"


def _far(one: PciDevice, other: PciDevice) -> str:
    if one.numa_node is None or other.numa_node is None:
        return "SYS" if one.chain[0].split(":")[0] != other.chain[0].split(":")[0] else "NODE"
    return "NODE" if one.numa_node == other.numa_node else "SYS"


def fill_links(
    context: Context,
    gpus: List[Gpu],
    network: List[NetworkInterface],
    devices: List[PciDevice],
) -> None:
    """Links that no driver told, and the way from each GPU to each NIC."""
    known: Dict[str, PciDevice] = {device.address: device for device in devices}
    for gpu in gpus:
        here = known.get(gpu.pci_address)
        if here is None or gpu.integrated:
            continue
        told = {link.peer for link in gpu.links}
        for other in gpus:
            there = known.get(other.pci_address)
            if there and other is not gpu and not other.integrated and there.address not in told:
                gpu.links.append(GpuLink(there.address, relation(here, there)))
                context.sources.setdefault("topology", "/sys/bus/pci/devices")
        for nic in network:
            there = known.get(nic.pci_address)
            if there:
                gpu.nics.append(GpuLink(nic.name, relation(here, there)))


def read_isolation(
    context: Context, system: System, gpus: List[Gpu], devices: List[PciDevice]
) -> None:
    """IOMMU mode, and ACS on the bridges above the GPUs: both break or slow peer-to-peer."""
    kinds = set()
    for group in context.names("/sys/kernel/iommu_groups")[:512]:
        kinds.add(context.read("/sys/kernel/iommu_groups/{}/type".format(group)))
    if kinds - {""}:
        system.iommu_mode = "passthrough" if kinds <= {"identity", ""} else "translated"
        context.source("system.iommu_mode", "/sys/kernel/iommu_groups")
    elif system.iommu is False:
        system.iommu_mode = "off"
    above = {
        address
        for gpu in gpus
        for device in devices
        if device.address == gpu.pci_address
        for address in device.chain[:-1]
    }
    states = [acs_enabled(context.read_bytes("{}/{}/config".format(BASE, a))) for a in above]
    if True in states:
        system.acs = True
    elif states and None not in states:
        system.acs = False
    if above:
        context.source("system.acs", "PCI configuration space of the bridges above the GPUs")


def acs_enabled(config: bytes) -> Optional[bool]:
    """Whether a bridge redirects peer-to-peer traffic; None where that can't be read.

    Without root the kernel shows 64 bytes only; extended capabilities begin at 256.
    """
    if len(config) < 260:
        return None
    place, seen = 0x100, 0
    while 0x100 <= place <= len(config) - 8 and seen < 64:
        header = struct.unpack_from("<I", config, place)[0]
        if header in (0, 0xFFFFFFFF):
            return False
        if header & 0xFFFF == ACS_CAPABILITY:
            control = struct.unpack_from("<H", config, place + 6)[0]
            return bool(control & ACS_REDIRECT)
        place = header >> 20 & 0xFFC
        seen += 1
    return False
