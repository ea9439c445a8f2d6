"""What is wrong or worth knowing about a machine, from its HostHardware alone.

Pure. The probe's panel, `doctor` and preflight read the same list; `code` is stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.stack.cards import by_modules
from infra_llm.core.stack.rules import StackRules


@dataclass(frozen=True)
class Finding:
    """`severity` is wrong (an engine will not run, or slowly) or note; `hint` says what to do."""

    code: str
    severity: str
    what: str
    hint: str = ""


def findings(host: HostHardware, rules: StackRules) -> list[Finding]:
    """Everything wrong first, then notes; a cause that the probe recorded is not repeated.

    `rules` know which kernel modules serve which card.
    """
    found = [finding for check in CHECKS for finding in check(host)]
    found = [*_driver(host, rules), *found]
    codes = {finding.code for finding in found}
    for error in host.errors:
        if "version mismatch" in error["what"] and "mismatch" not in codes:
            found.append(Finding("mismatch", "wrong", error["what"], error["hint"]))
        elif "not in the GPU table: its speed not known" in error["what"]:
            found.append(Finding("unknown_gpu", "note", _error_text(error), error["hint"]))
        else:
            found.append(Finding("probe_error", "wrong", _error_text(error), error["hint"]))
    return sorted(found, key=lambda finding: finding.severity != "wrong")


def _error_text(error: dict[str, str]) -> str:
    return f"{error['part']}: {error['what']}"


def _nvidia(host: HostHardware) -> list[Gpu]:
    return [gpu for gpu in host.gpus if gpu.vendor == "nvidia"]


def _driver(host: HostHardware, rules: StackRules) -> Iterator[Finding]:
    driver, cards = host.driver, [g for g in _nvidia(host) if not g.integrated]
    if driver.nouveau_bound:
        yield Finding(
            "nouveau",
            "wrong",
            "nouveau drives the NVIDIA card: no engine can use it",
            "`infra-llm provision` blacklists nouveau, installs NVIDIA's driver and reboots once",
        )
    elif cards and not driver.module_loaded and not any(g.kernel_driver for g in cards):
        yield Finding(
            "no_driver",
            "wrong",
            f"no driver is loaded for {_names(cards)}",
            "`infra-llm provision` installs the one that fits",
        )
    if driver.reboot_required:
        yield Finding("reboot", "wrong", "a reboot is pending", "`infra-llm provision` will reboot")
    old, new = by_modules(cards, rules)
    if old and new:
        yield Finding(
            "no_common_driver",
            "wrong",
            f"no driver serves both {_names(old)} and {_names(new)}",
            "take one of them out, or give it to a virtual machine",
        )
    elif driver.module_flavour == "open" and old:
        yield Finding(
            "flavour",
            "wrong",
            f"the open kernel modules do not serve {_names(old)}",
            "`infra-llm provision` installs the proprietary modules (branch 580)",
        )
    elif driver.module_flavour == "proprietary" and new:
        yield Finding(
            "flavour",
            "wrong",
            f"the proprietary kernel modules do not serve {_names(new)}",
            "`infra-llm provision` installs the open modules",
        )


def _names(gpus: list[Gpu]) -> str:
    return ", ".join(dict.fromkeys(gpu.name or gpu.pci_id for gpu in gpus))


def _modules(host: HostHardware) -> Iterator[Finding]:
    driver, kernel = host.driver, host.system.kernel
    built = [line for line in driver.dkms if line.startswith(("nvidia", "amdgpu"))]
    if built and kernel and not any(kernel in line and "installed" in line for line in built):
        yield Finding(
            "dkms",
            "wrong",
            f"DKMS has no module for the running kernel {kernel}: {'; '.join(built)}",
            f"install the headers of {kernel}, then `dkms autoinstall`",
        )
    if driver.kernel_headers is False and (host.gpus or built):
        yield Finding(
            "headers",
            "wrong" if built else "note",
            f"the headers of the running kernel {kernel} are not installed",
            "`infra-llm provision` installs them where a module must be built",
        )
    if driver.secure_boot and _nvidia(host):
        yield Finding(
            "secure_boot",
            "note",
            "Secure Boot is on: the kernel refuses modules without an enrolled signature",
            "use the distribution's signed modules, or enrol a machine owner key",
        )
    relevant = [p for p in driver.held_packages if any(w in p for w in HELD)]
    if relevant:
        yield Finding(
            "held",
            "note",
            f"packages on hold: {', '.join(relevant)}",
            "a change of driver branch must release them first",
        )


HELD = ("nvidia", "cuda", "rocm", "amdgpu", "linux-image", "linux-headers", "kernel")


def _cards(host: HostHardware) -> Iterator[Finding]:
    for gpu in host.gpus:
        label = f"GPU {gpu.index} {gpu.name}".strip()
        if gpu.kernel_driver == "vfio-pci":
            yield Finding(
                "vfio",
                "wrong",
                f"{label} is set aside for a virtual machine (vfio-pci)",
                "unbind it from vfio-pci to use it here",
            )
        if gpu.pcie_width and gpu.pcie_width_max and gpu.pcie_width < gpu.pcie_width_max:
            yield Finding(
                "pcie_width",
                "note",
                f"{label} has {gpu.pcie_width} of {gpu.pcie_width_max} PCIe lanes",
                "loading and multi-GPU traffic are slower; check the slot",
            )
        used = sum(process.used_mib or 0 for process in gpu.processes)
        if used >= 512:
            names = ", ".join(p.name or str(p.pid) for p in gpu.processes)
            yield Finding("busy", "note", f"{label}: {used:,} MiB are held by {names}")
        if gpu.mig_enabled and not gpu.mig_instances:
            yield Finding(
                "mig_empty",
                "wrong",
                f"{label} is in MIG mode without an instance: nothing can run on it",
                "create instances (`nvidia-smi mig -cgi`), or switch MIG off",
            )


def _fabric(host: HostHardware) -> Iterator[Finding]:
    if host.driver.nvswitch and not host.driver.fabric_manager:
        yield Finding(
            "fabric_manager",
            "wrong",
            "the board has NVSwitches but no Fabric Manager: CUDA will not start",
            "install nvidia-fabricmanager of exactly the driver's version",
        )
    several = len([g for g in host.gpus if not g.integrated]) > 1
    if several and host.system.acs:
        yield Finding(
            "acs",
            "note",
            "ACS redirects traffic between the GPUs through the CPU",
            "tensor parallelism may hang or crawl: switch ACS off, or iommu=pt",
        )
    elif several and host.system.iommu_mode == "translated":
        yield Finding(
            "iommu",
            "note",
            "the IOMMU translates GPU traffic",
            "iommu=pt on the kernel command line makes peer-to-peer copies faster",
        )
    for interface in host.network:
        if interface.rdma and interface.rdma_state not in ("ACTIVE", "unknown"):
            yield Finding(
                "rdma",
                "note",
                f"{interface.rdma} port {interface.name} is {interface.rdma_state}",
            )


def _memory(host: HostHardware) -> Iterator[Finding]:
    limit = host.memory.limit_mib
    if limit is not None:
        yield Finding(
            "memory_limit",
            "note",
            f"a cgroup caps the RAM at {limit:,} MiB of {host.memory.total_mib:,}",
            "models are planned within the cap",
        )
    if host.cpu.usable_threads < host.cpu.threads:
        yield Finding(
            "cpu_limit",
            "note",
            f"{host.cpu.usable_threads} of {host.cpu.threads} CPU threads may be used here",
        )


CHECKS: tuple[Callable[[HostHardware], Iterator[Finding]], ...] = (
    _modules,
    _cards,
    _fabric,
    _memory,
)
