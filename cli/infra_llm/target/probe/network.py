"""Network interfaces with speed, and the RDMA devices on them."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from typing import Dict, List, Optional

from ...core.hardware import NetworkInterface
from .context import Context

BASE = "/sys/class/net"
VIRTUAL = re.compile(r"^(lo|docker\d|veth|v[be]-|virbr|br-|ifb|cni|flannel|cali|dummy|sit\d|gre)")


def read_network(context: Context) -> List[NetworkInterface]:
    """Physical and virtio interfaces (bridges, veth and loopback left out)."""
    rdma = _rdma_by_pci(context)
    ipv6 = parse_if_inet6(context.read("/proc/net/if_inet6"))
    interfaces = []
    for name in context.names(BASE):
        folder = "{}/{}".format(BASE, name)
        if _is_plumbing(context, name, folder):
            continue
        speed = context.read_int(folder + "/speed")
        interface = NetworkInterface(
            name=name,
            speed_mbit_s=speed if speed is not None and speed > 0 else None,
            up=context.read(folder + "/operstate") == "up",
            pci_address=_pci_address(context, folder),
        )
        interface.numa_node = _numa_node(context, interface.pci_address)
        interface.addresses = ipv6.get(name, [])
        if context.root == "/":
            interface.addresses = ipv4_address(name) + interface.addresses
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


def _is_plumbing(context: Context, name: str, folder: str) -> bool:
    """Bridges, their ports and other interfaces that only connect containers."""
    marks = ("/bridge", "/brport", "/tun_flags")
    return (
        bool(VIRTUAL.match(name))
        or not context.exists(folder + "/operstate")
        or any(context.exists(folder + mark) for mark in marks)
    )


def _numa_node(context: Context, address: str) -> Optional[int]:
    if not address:
        return None
    node = context.read_int("/sys/bus/pci/devices/{}/numa_node".format(address))
    return node if node is not None and node >= 0 else None


def parse_if_inet6(text: str) -> Dict[str, List[str]]:
    """/proc/net/if_inet6 -> global addresses by interface (scope 00)."""
    found: Dict[str, List[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 6 and re.match(r"^[0-9a-f]{32}$", words[0]) and words[3] == "00":
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))
            found.setdefault(words[5], []).append(address)
    return found


def ipv4_address(name: str) -> List[str]:
    """The first IPv4 address of an interface, asked of the kernel (SIOCGIFADDR, netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        try:
            answer = fcntl.ioctl(asker, 0x8915, struct.pack("256s", name[:15].encode()))
        except OSError:
            return []
    return [socket.inet_ntoa(answer[20:24])]


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
