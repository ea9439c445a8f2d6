"""Driver state as found: module, library, flavour, nouveau, DKMS, headers, Secure Boot ..."""

from __future__ import annotations

import re
from typing import List, Optional

from ...core.hardware import DriverState
from .context import Context
from .pci import BRIDGE_OTHER, PciDevice


def parse_module_version(text: str) -> "tuple[Optional[str], Optional[str]]":
    """/proc/driver/nvidia/version -> (version, "open" or "proprietary")."""
    match = re.search(r"NVRM version:\s*(.+)", text)
    if not match:
        return None, None
    line = match.group(1)
    version = re.search(r"\b(\d{3}\.\d{2,3}(?:\.\d{2})?)\b", line)
    flavour = "open" if "Open Kernel Module" in line else "proprietary"
    return (version.group(1) if version else None), flavour


def read_driver(context: Context, devices: List[PciDevice]) -> DriverState:
    """The kernel side and what surrounds it; versions of libraries come with NVML."""
    state = DriverState()
    state.module_version, state.module_flavour = parse_module_version(
        context.read("/proc/driver/nvidia/version")
    )
    if state.module_version:
        context.source("driver.module_version", "/proc/driver/nvidia/version")
    loaded = context.read("/sys/module/nvidia/version")
    if loaded and not state.module_version:
        state.module_version = loaded
        context.source("driver.module_version", "/sys/module/nvidia/version")
    state.module_loaded = bool(state.module_version) or context.exists("/sys/module/nvidia")
    state.nouveau_bound = any(d.driver == "nouveau" for d in devices)
    state.nvswitch = context.exists("/dev/nvidia-nvswitch0") or any(
        d.vendor == "nvidia" and d.class_code.startswith(BRIDGE_OTHER) for d in devices
    )
    state.reboot_required = context.exists("/run/reboot-required") or context.exists(
        "/var/run/reboot-required"
    )
    state.secure_boot = _secure_boot(context)
    kernel = context.read("/proc/sys/kernel/osrelease")
    if kernel and context.exists("/lib/modules/" + kernel):
        state.kernel_headers = context.exists("/lib/modules/{}/build/Makefile".format(kernel))
        context.source("driver.kernel_headers", "/lib/modules/{}/build".format(kernel))
    state.cdi_files = [
        "{}/{}".format(folder, name)
        for folder in ("/etc/cdi", "/var/run/cdi")
        for name in context.names(folder)
        if name.endswith((".yaml", ".yml", ".json"))
    ]
    state.container_runtimes = [
        name
        for name in ("docker", "podman", "containerd", "crio", "nvidia-container-runtime")
        if context.tool(name)
    ]
    return state


def _secure_boot(context: Context) -> Optional[bool]:
    """efivars: four bytes of attributes, then 1 for enabled. None where there is no EFI."""
    data = context.read_bytes(
        "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    )
    context.source("driver.secure_boot", "/sys/firmware/efi/efivars")
    if len(data) >= 5:
        return data[4] == 1
    return None if context.exists("/sys/firmware/efi/efivars") else False
