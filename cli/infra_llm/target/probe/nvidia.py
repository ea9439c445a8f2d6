"""NVIDIA: NVML first, `nvidia-smi` second, the PCI layer always; one list of GPUs."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ...core.hardware import DriverState, Gpu, GpuLink, GpuProcess, MigInstance
from .context import Context, isolated
from .nvml import find_library, read_nvml

SIMPLE = {
    "name",
    "uuid",
    "vram_total_mib",
    "vram_free_mib",
    "vram_reserved_mib",
    "compute_capability",
    "mig_enabled",
    "ecc_enabled",
    "power_limit_w",
    "pcie_generation",
    "pcie_generation_max",
    "pcie_width",
    "pcie_width_max",
    "persistence_mode",
}


def read_nvidia(context: Context, gpus: List[Gpu], driver: DriverState) -> None:
    """Complete the NVIDIA cards that PCI found, and add those that only the driver knows.

    Not an error: no library (a bare host). An error entry: a library that fails or hangs.
    """
    answer = _ask_nvml(context)
    if answer is None:
        return
    driver.library_version = answer.get("library_version") or driver.library_version
    driver.cuda_version = answer.get("cuda_version") or driver.cuda_version
    if answer.get("driver_version"):
        driver.module_version = driver.module_version or answer["driver_version"]
        context.sources.setdefault("driver.module_version", answer["came_from"])
    for part, what in answer["errors"]:
        context.error(part, what)
    for values in answer["gpus"]:
        merge_gpu(context, gpus, values, answer["came_from"])
    for address, links in answer["links"].items():
        for gpu in gpus:
            if gpu.pci_address == address:
                gpu.links = [GpuLink(*link) for link in links]
                context.source("topology", answer["came_from"])


def _ask_nvml(context: Context) -> Optional[Dict[str, Any]]:
    library = find_library(context)
    if not library:
        return None
    try:
        answer = isolated(lambda: read_nvml(context, library), context.options.call_timeout_s)
    except (TimeoutError, RuntimeError) as error:
        context.error(
            "driver",
            "NVML: {}".format(error),
            "see dmesg for Xid messages; a reset or a reboot may be needed",
        )
        return None
    answer["came_from"] = "NVML"
    if answer["failure"]:
        context.error("driver", "NVML: {}".format(answer["failure"]))
        return None
    return dict(answer)


def merge_gpu(context: Context, gpus: List[Gpu], values: Dict[str, Any], came_from: str) -> None:
    """Put what a driver says into the card at the same PCI address, or append a new card."""
    address = values.get("pci_address") or ""
    gpu = next((g for g in gpus if address and g.pci_address == address), None)
    if gpu is None:
        gpu = Gpu(index=len(gpus), vendor=values.get("vendor", "nvidia"), pci_address=address)
        gpus.append(gpu)
    for name in SIMPLE:
        if values.get(name) is not None and values.get(name) != "":
            setattr(gpu, name, values[name])
            context.source("gpus[{}].{}".format(address or gpu.uuid, name), came_from)
    for name in ("pci_id", "pci_subsystem_id"):
        if values.get(name) and not getattr(gpu, name):
            setattr(gpu, name, values[name])
    gpu.mig_instances = [MigInstance(**m) for m in values.get("mig_instances") or []]
    gpu.processes = [_process(context, p) for p in values.get("processes") or []]


def _process(context: Context, values: Dict[str, Any]) -> GpuProcess:
    name = values.get("name") or context.read("/proc/{}/comm".format(values["pid"]))
    return GpuProcess(pid=values["pid"], used_mib=values.get("used_mib"), name=name)
