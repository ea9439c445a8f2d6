"""Network interfaces with speed, and the RDMA devices on them."""

from __future__ import annotations

import re
from typing import Dict, List, Optional

from ...core.hardware import NetworkInterface
from .context import Context

BASE = "/sys/class/net"
VIRTUAL = re.compile(r"^(lo|docker\d*|veth|virbr|br-|ifb|tap|tun|cni|flannel|cali|dummy|sit\d|gre)")


def read_network(context: Context) -> List[NetworkInterface]:
    """Physical and virtio interfaces (bridges, veth and loopback left out)."""
    rdma = _rdma_by_pci(context)
    interfaces = []
    for name in context.names(BASE):
        folder = "{}/{}".format(BASE, name)
        if VIRTUAL.match(name) or not context.exists(folder + "/operstate"):
            continue
        speed = context.read_int(folder + "/speed")
        interface = NetworkInterface(
            name=name,
            speed_mbit_s=speed if speed is not None and speed > 0 else None,
            up=context.read(folder + "/operstate") == "up",
            pci_address=_pci_address(context, folder),
        )
        interface.numa_node = _numa_node(context, interface.pci_address)
        device = rdma.get(interface.pci_address)
        if device:
            interface.rdma, interface.rdma_state = device["kind"], device["state"]
        interfaces.append(interface)
    _rdma_without_interface(context, rdma, interfaces)
    if interfaces:
        context.source("network", BASE)
    return interfaces


def _pci_address(context: Context, folder: str) -> str:
    name = context.link_name(folder + "/device")
    if re.match(r"^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$", name):
        return name
    return ""


def _numa_node(context: Context, address: str) -> Optional[int]:
    if not address:
        return None
    node = context.read_int("/sys/bus/pci/devices/{}/numa_node".format(address))
    return node if node is not None and node >= 0 else None


def parse_rate(text: str) -> int:
    """/sys/class/infiniband/*/ports/*/rate, "400 Gb/sec (4X NDR)" -> Mbit/s; 0 if unknown."""
    match = re.match(r"^\s*(\d{1,6}(?:\.\d+)?)\s*Gb/sec", text)
    return int(float(match.group(1)) * 1000) if match else 0


def _rdma_by_pci(context: Context) -> Dict[str, Dict[str, str]]:
    """PCI address (or device name) -> kind, state, rate of its first port."""
    found: Dict[str, Dict[str, str]] = {}
    base = "/sys/class/infiniband"
    for name in context.names(base):
        folder = "{}/{}".format(base, name)
        ports = context.names(folder + "/ports")
        port = "{}/ports/{}".format(folder, ports[0] if ports else "1")
        layer = context.read(port + "/link_layer")
        state = context.read(port + "/state").partition(":")[2].strip()
        found[_pci_address(context, folder) or name] = {
            "name": name,
            "kind": "RoCE" if layer == "Ethernet" else "InfiniBand",
            "state": state or "unknown",
            "rate": str(parse_rate(context.read(port + "/rate"))),
        }
    if found:
        context.source("network.rdma", base)
    return found


def _rdma_without_interface(
    context: Context, rdma: Dict[str, Dict[str, str]], interfaces: List[NetworkInterface]
) -> None:
    """A device with no IP interface is still a link: list it by its RDMA name."""
    seen = {interface.pci_address for interface in interfaces if interface.rdma}
    for place, device in sorted(rdma.items()):
        if place not in seen:
            rate = int(device["rate"])
            interfaces.append(
                NetworkInterface(
                    name=device["name"],
                    speed_mbit_s=rate or None,
                    up=device["state"] == "ACTIVE",
                    pci_address=place if ":" in place else "",
                    rdma=device["kind"],
                    rdma_state=device["state"],
                    numa_node=_numa_node(context, place if ":" in place else ""),
                )
            )
