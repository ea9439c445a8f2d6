"""NVIDIA: NVML first, `nvidia-smi` second, the PCI layer always; one list of GPUs."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional

from ...core.hardware import DriverState, Gpu, GpuLink, GpuProcess, MigInstance
from . import nvidia_smi
from .context import Context, isolated
from .nvml import find_library, read_nvml

SIMPLE = (
    "name",
    "uuid",
    "vram_total_mib",
    "vram_free_mib",
    "vram_reserved_mib",
    "compute_capability",
    "memory_bandwidth_gbs",
    "mig_enabled",
    "ecc_enabled",
    "power_limit_w",
    "pcie_generation",
    "pcie_generation_max",
    "pcie_width",
    "pcie_width_max",
    "persistence_mode",
)
MISMATCH, NOT_LOADED, NO_PERMISSION, LOST = 18, 9, 4, 15
"""nvmlReturn_t of nvml.h."""

HINTS = {
    MISMATCH: "reboot, or `infra-llm provision` will",
    NOT_LOADED: "`infra-llm provision` installs and loads the driver",
    NO_PERMISSION: "probe as root (become), or put the user into the groups video and render",
    LOST: "look for Xid messages in dmesg, power-cycle the host, then check card and cables",
}


def read_nvidia(context: Context, gpus: List[Gpu], driver: DriverState) -> None:
    """Complete the NVIDIA cards that PCI found, and add those that only the driver knows.

    Not an error: no library (a bare host). An error entry: a library that fails or hangs.
    """
    library = find_library(context)
    if library:
        driver.library_version = _library_version(library) or driver.library_version
        if driver.library_version:
            context.source("driver.library_version", "name of libnvidia-ml.so")
    answer = _ask(context, library, driver)
    if answer is None:
        return
    came_from = answer["came_from"]
    driver.cuda_version = answer.get("cuda_version") or driver.cuda_version
    context.source("driver.cuda_version", came_from)
    if answer.get("library_version") and not driver.library_version:
        # NVML's own version begins with the major version of CUDA: "13.580.95.05".
        driver.library_version = re.sub(r"^\d{1,2}\.(?=\d{3}\.)", "", answer["library_version"])
    if answer.get("driver_version"):
        driver.module_version = driver.module_version or answer["driver_version"]
        driver.module_loaded = True
        context.sources.setdefault("driver.module_version", came_from)
    for part, what in answer["errors"]:
        hint = HINTS[LOST] if "lost" in what.lower() else ""
        context.error(part, what, hint or (HINTS[NO_PERMISSION] if "ermission" in what else ""))
    for values in answer["gpus"]:
        merge_gpu(context, gpus, values, came_from)
    for gpu in gpus:
        if gpu.pci_address in answer["links"]:
            gpu.links = [GpuLink(*link) for link in answer["links"][gpu.pci_address]]
            context.source("topology", came_from)
    _mark_silent(context, gpus, answer)


def _library_version(library: str) -> Optional[str]:
    """The library's file is named after its version: libnvidia-ml.so.580.95.05."""
    match = re.search(r"\.so\.(\d{3}\.[\d.]+)$", os.path.realpath(library))
    return match.group(1) if match else None


def _ask(context: Context, library: str, driver: DriverState) -> Optional[Dict[str, Any]]:
    if library:
        answer = _ask_nvml(context, library)
        if answer is None:
            return None
        if not answer["failure"]:
            answer["came_from"] = "NVML"
            return answer
        if answer["code"] in (MISMATCH, NOT_LOADED, NO_PERMISSION):
            _report(context, driver, answer["code"], answer["failure"])
            return None
    return _ask_nvidia_smi(context, driver, library)


def _ask_nvml(context: Context, library: str) -> Optional[Dict[str, Any]]:
    try:
        return dict(isolated(lambda: read_nvml(context, library), context.options.call_timeout_s))
    except TimeoutError as error:
        context.error(
            "driver",
            "NVML hangs: {}".format(error),
            "look for Xid messages in dmesg; a reboot is the usual cure",
        )
        return None
    except (RuntimeError, ValueError) as error:
        return {"failure": str(error), "code": None}


def _ask_nvidia_smi(
    context: Context, driver: DriverState, library: str
) -> Optional[Dict[str, Any]]:
    result = context.run("nvidia-smi", "-q", "-x")
    if result.failure == "missing":
        if library:
            context.error("driver", "NVML can't be asked and there is no nvidia-smi")
        return None
    answer = nvidia_smi.parse_xml(result.output)
    if answer is None:
        code = nvidia_smi.failure_code(result.output)
        first = (result.output.strip().splitlines() or [""])[0]
        what = first[:200] if code else result.failure or "its output is not nvidia-smi's XML"
        _report(context, driver, code, "nvidia-smi: " + what)
        return None
    answer["came_from"] = "nvidia-smi"
    if answer["gpus"]:
        caps = nvidia_smi.parse_compute_caps(
            context.run("nvidia-smi", nvidia_smi.QUERY, nvidia_smi.CSV).output
        )
        for gpu in answer["gpus"]:
            gpu["compute_capability"] = caps.get(gpu["pci_address"])
    return answer


def _report(context: Context, driver: DriverState, code: Optional[int], what: str) -> None:
    if code == MISMATCH:
        what = "library {}, loaded module {}: Driver/library version mismatch".format(
            driver.library_version or "of another version",
            driver.module_version or "of another version",
        )
        driver.reboot_required = True
        context.source("driver.reboot_required", "driver and library versions differ")
    context.error("driver", what, HINTS.get(code or 0, ""))


def _mark_silent(context: Context, gpus: List[Gpu], answer: Dict[str, Any]) -> None:
    """A card bound to the driver for which the driver does not answer is broken, say so."""
    answered = {values["pci_address"] for values in answer["gpus"]}
    for gpu in gpus:
        if gpu.kernel_driver == "nvidia" and gpu.pci_address not in answered:
            gpu.fault = "bound to the driver, which does not answer for it"
            context.error("gpus[{}]".format(gpu.pci_address), gpu.fault, HINTS[LOST])


def merge_gpu(context: Context, gpus: List[Gpu], values: Dict[str, Any], came_from: str) -> None:
    """Put what a driver says into the card at the same PCI address, or append a new card."""
    address = values.get("pci_address") or ""
    gpu = next((g for g in gpus if address and g.pci_address == address), None)
    if gpu is None:
        gpu = Gpu(index=len(gpus), vendor=values.get("vendor", "nvidia"), pci_address=address)
        gpus.append(gpu)
    place = "gpus[{}]".format(address or values.get("uuid") or gpu.index)
    for name in SIMPLE:
        if values.get(name) is not None and values.get(name) != "":
            setattr(gpu, name, values[name])
            context.source("{}.{}".format(place, name), came_from)
    for name in ("pci_id", "pci_subsystem_id"):
        if values.get(name) and not getattr(gpu, name):
            setattr(gpu, name, values[name])
    gpu.mig_instances = [MigInstance(**m) for m in values.get("mig_instances") or []]
    gpu.processes = [_process(context, p) for p in values.get("processes") or []]


def _process(context: Context, values: Dict[str, Any]) -> GpuProcess:
    name = values.get("name") or context.read("/proc/{}/comm".format(values["pid"]))
    return GpuProcess(pid=values["pid"], used_mib=values.get("used_mib"), name=name)
