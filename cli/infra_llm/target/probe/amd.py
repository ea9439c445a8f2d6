"""AMD GPUs from amdgpu's sysfs and the KFD topology; amd-smi or rocm-smi fill what is missing."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Optional

from ...core.hardware import DriverState, Gpu, GpuLink
from .context import Context, to_int
from .pci import BASE, normal_address

KFD = "/sys/class/kfd/kfd/topology/nodes"
MIB = 1024 * 1024
XGMI = 11
"""HSA_IOLINKTYPE_XGMI of the kernel's kfd_crat.h (CRAT_IOLINK_TYPE_XGMI)."""


def parse_properties(text: str) -> Dict[str, int]:
    """KFD's `properties`: lines of "name number"."""
    values = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        number = to_int(value)
        if name and number is not None:
            values[name] = number
    return values


def gfx_name(version: int) -> Optional[str]:
    """KFD's gfx_target_version, 90402 -> "gfx942": minor and stepping are hexadecimal digits.

    Source: ROCR-Runtime, which names the ISA from the same number.
    """
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    if not 6 <= major <= 99 or minor > 15 or step > 15:
        return None
    return "gfx{}{:x}{:x}".format(major, minor, step)


def read_amd(context: Context, gpus: List[Gpu], driver: DriverState) -> None:
    """Complete the AMD cards that PCI found."""
    cards = [gpu for gpu in gpus if gpu.vendor == "amd"]
    if not cards:
        return
    nodes = _kfd_nodes(context)
    for gpu in cards:
        _from_sysfs(context, gpu)
        node = nodes.get(gpu.pci_address)
        if node:
            _from_kfd(context, gpu, node)
    _links(context, cards, nodes)
    if any(g.kernel_driver == "amdgpu" and g.vram_total_mib is None for g in cards):
        _from_tools(context, cards)
    version = context.read("/sys/module/amdgpu/version")
    if not driver.module_version and context.exists("/sys/module/amdgpu"):
        driver.module_loaded = True
        driver.module_version = version or None
        context.source("driver.module_version", "/sys/module/amdgpu")
    driver.rocm_version = context.read("/opt/rocm/.info/version") or None
    for gpu in cards:
        if gpu.kernel_driver == "amdgpu" and not gpu.integrated and not nodes:
            context.error(
                "gpus[{}]".format(gpu.pci_address),
                "amdgpu is loaded but /dev/kfd's topology is missing: ROCm will not see the card",
                "load amdgpu with compute support (kernel option CONFIG_HSA_AMD)",
            )


def _from_sysfs(context: Context, gpu: Gpu) -> None:
    folder = "{}/{}".format(BASE, gpu.pci_address)
    total = context.read_int(folder + "/mem_info_vram_total")
    used = context.read_int(folder + "/mem_info_vram_used")
    shared = context.read_int(folder + "/mem_info_gtt_total")
    place = "gpus[{}].".format(gpu.pci_address)
    if total is not None and total > 0:
        gpu.vram_total_mib = total // MIB
        context.source(place + "vram_total_mib", "amdgpu sysfs")
        if used is not None and 0 <= used <= total:
            gpu.vram_free_mib = (total - used) // MIB
            context.source(place + "vram_free_mib", "amdgpu sysfs")
    if shared is not None and shared > 0:
        gpu.shared_memory_mib = shared // MIB
        context.source(place + "shared_memory_mib", "amdgpu sysfs")
    unique = context.read(folder + "/unique_id")
    if re.match(r"^[0-9a-f]{16}$", unique):
        gpu.uuid = "GPU-" + unique
    name = context.read(folder + "/product_name")
    if name and name.isprintable():
        gpu.name = name
        context.source(place + "name", "amdgpu sysfs")
    for entry in context.names(folder + "/hwmon"):
        cap = context.read_int("{}/hwmon/{}/power1_cap".format(folder, entry))
        if cap:
            gpu.power_limit_w = cap / 1e6


def _kfd_nodes(context: Context) -> Dict[str, Dict[str, int]]:
    """GPU nodes by PCI address; "node" is the node's own number."""
    found = {}
    for name in context.names(KFD):
        if not name.isdigit():
            continue
        values = parse_properties(context.read("{}/{}/properties".format(KFD, name)))
        if values.get("simd_count", 0) <= 0:
            continue
        location = values.get("location_id", 0)
        address = "{:04x}:{:02x}:{:02x}.{}".format(
            values.get("domain", 0) & 0xFFFF,
            location >> 8 & 0xFF,
            location >> 3 & 0x1F,
            location & 7,
        )
        values["node"] = int(name)
        found[address] = values
    return found


def _from_kfd(context: Context, gpu: Gpu, node: Dict[str, int]) -> None:
    gpu.gfx_target = gfx_name(node.get("gfx_target_version", 0))
    if gpu.gfx_target:
        context.source("gpus[{}].gfx_target".format(gpu.pci_address), "KFD topology")
    # An APU is one node with both CPU cores and SIMDs, on KFD of kernels before 6.x and MI300A.
    if node.get("cpu_cores_count", 0) > 0:
        gpu.unified_memory = True


def _links(context: Context, cards: List[Gpu], nodes: Dict[str, Dict[str, int]]) -> None:
    by_node = {values["node"]: address for address, values in nodes.items()}
    for gpu in cards:
        node = nodes.get(gpu.pci_address)
        if not node:
            continue
        folder = "{}/{}/io_links".format(KFD, node["node"])
        for name in context.names(folder):
            link = parse_properties(context.read("{}/{}/properties".format(folder, name)))
            peer = by_node.get(link.get("node_to", -1))
            if link.get("type") == XGMI and peer:
                speed = link.get("max_bandwidth", 0) / 1000.0
                gpu.links.append(GpuLink(peer, "XGMI", speed or None))
                context.source("topology", "KFD topology")


def _from_tools(context: Context, cards: List[Gpu]) -> None:
    for tool, arguments, parser in (
        ("amd-smi", ("static", "--json"), parse_amd_smi),
        (
            "rocm-smi",
            ("--showproductname", "--showmeminfo", "vram", "--showbus", "--json"),
            parse_rocm_smi,
        ),
    ):
        result = context.run(tool, *arguments)
        if result.failure == "missing":
            continue
        if result.failure:
            context.error("gpus", "{}: {}".format(tool, result.failure))
            continue
        for values in parser(result.output):
            for gpu in cards:
                if gpu.pci_address == values["pci_address"]:
                    for name in ("name", "gfx_target", "vram_total_mib"):
                        if values.get(name) and not getattr(gpu, name):
                            setattr(gpu, name, values[name])
                            context.source("gpus[{}].{}".format(gpu.pci_address, name), tool)
        return


def _load(text: str) -> Any:
    """The JSON in a tool's output; warnings may stand before it."""
    starts = [i for i in (text.find("["), text.find("{")) if i >= 0]
    try:
        return json.loads(text[min(starts) :]) if starts else None
    except (ValueError, RecursionError):
        return None


def parse_amd_smi(text: str) -> List[Dict[str, Any]]:
    """`amd-smi static --json`: a list of GPUs, or {"gpu_data": [...]} since ROCm 7."""
    data = _load(text)
    if isinstance(data, dict):
        data = data.get("gpu_data")
    found = []
    for gpu in data if isinstance(data, list) else []:
        if not isinstance(gpu, dict):
            continue
        asic, bus, vram = (
            value if isinstance(value, dict) else {}
            for value in (gpu.get("asic"), gpu.get("bus"), gpu.get("vram"))
        )
        size = vram.get("size")
        amount = size.get("value") if isinstance(size, dict) else size
        found.append(
            {
                "pci_address": normal_address(str(bus.get("bdf", ""))),
                "name": str(asic.get("market_name") or ""),
                "gfx_target": _gfx(asic.get("target_graphics_version")),
                "vram_total_mib": amount if isinstance(amount, int) else None,
            }
        )
    return found


def parse_rocm_smi(text: str) -> List[Dict[str, Any]]:
    """`rocm-smi --json`: {"card0": {...}}; names of keys changed over the releases."""
    data = _load(text)
    found = []
    for card in data.values() if isinstance(data, dict) else []:
        if not isinstance(card, dict):
            continue
        values = {str(key).lower(): str(value) for key, value in card.items()}
        total = to_int(values.get("vram total memory (b)", ""))
        found.append(
            {
                "pci_address": normal_address(values.get("pci bus", "")),
                "name": values.get("card series", ""),
                "gfx_target": _gfx(values.get("gfx version")),
                "vram_total_mib": total // MIB if total else None,
            }
        )
    return found


def _gfx(value: Any) -> Optional[str]:
    return value if isinstance(value, str) and re.match(r"^gfx[0-9a-f]{3,4}$", value) else None
