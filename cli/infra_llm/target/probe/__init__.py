"""The probe: what one machine is, read on the machine itself.

Standard library only, Python 3.8. `probe()` never raises: what can't be read is in `errors`.
"""

from __future__ import annotations

from functools import partial
from typing import List, Optional

from ...core.hardware import DriverState, Gpu, HostHardware
from .amd import read_amd
from .context import Context, ProbeOptions
from .cpu import read_cpu
from .disks import read_disks
from .driver import read_driver
from .fingerprint import fingerprint
from .intel import read_intel
from .jetson import read_jetson
from .measure import measure
from .memory import read_memory, read_numa
from .network import read_network
from .nvidia import read_nvidia
from .pci import PciDevice, gpu_of, is_gpu, read_pci
from .system import read_system
from .topology import fill_links, read_isolation

__all__ = ["HostHardware", "ProbeOptions", "probe"]


def probe(root: str = "/", options: Optional[ProbeOptions] = None) -> HostHardware:
    """Read the machine whose files lie under `root` ("/" for this one).

    Every file is read and every command looked up below the root, so a tree of captured files
    stands for a machine. Takes well under a second without the measurements, more only where a
    tool hangs (`ProbeOptions.call_timeout_s` for each).
    """
    context = Context(root, options)
    host = HostHardware(sources=context.sources, errors=context.errors)
    host.system = context.guard("system", lambda: read_system(context)) or host.system
    host.cpu = context.guard("cpu", lambda: read_cpu(context)) or host.cpu
    host.memory = context.guard("memory", lambda: read_memory(context)) or host.memory
    host.numa = context.guard("numa", lambda: read_numa(context)) or []
    host.disks = context.guard("disks", lambda: read_disks(context)) or []
    host.network = context.guard("network", lambda: read_network(context)) or []
    devices: List[PciDevice] = context.guard("gpus", lambda: read_pci(context)) or []
    host.driver = context.guard("driver", lambda: read_driver(context, devices)) or DriverState()
    host.gpus = [gpu_of(context, device) for device in devices if is_gpu(device)]
    for gpu in host.gpus:
        context.source("gpus[{}]".format(gpu.pci_address), "/sys/bus/pci/devices")
    for part, reader in VENDORS:
        context.guard(part, partial(reader, context, host.gpus, host.driver))
    _order(host.gpus)
    context.guard("topology", lambda: fill_links(context, host.gpus, host.network, devices))
    context.guard("system", lambda: read_isolation(context, host.system, host.gpus, devices))
    _place_in_numa(host)
    host.fingerprint = context.guard("fingerprint", lambda: fingerprint(host)) or {}
    context.guard("measurements", lambda: measure(context, host))
    return host


VENDORS = (
    ("gpus.nvidia", read_nvidia),
    ("gpus.amd", read_amd),
    ("gpus.intel", read_intel),
    ("gpus.jetson", read_jetson),
)


def _order(gpus: List[Gpu]) -> None:
    """Cards before integrated GPUs, then by PCI address (the order of NVML and CUDA by bus)."""
    gpus.sort(key=lambda gpu: (gpu.integrated, gpu.pci_address or "~", gpu.index))
    for index, gpu in enumerate(gpus):
        gpu.index = index


def _place_in_numa(host: HostHardware) -> None:
    for node in host.numa:
        node.gpus = [g.pci_address for g in host.gpus if g.numa_node == node.index]
        node.nics = [n.name for n in host.network if n.numa_node == node.index]
