"""Driver state as found: module, library, flavour, nouveau, DKMS, headers, Secure Boot ..."""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

from ...core.hardware import DriverState
from .context import Context
from .pci import BRIDGE_OTHER, PciDevice

NVRM = re.compile(r"NVRM version:\s*(.+)")
VERSION = re.compile(r"\b(\d{3}\.\d{2,3}(?:\.\d{2})?)\b")
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
RUNTIMES = ("docker", "podman", "containerd", "crio", "nvidia-container-runtime", "nvidia-ctk")
DPKG_LIMIT = 64 * 1024 * 1024


def parse_module_version(text: str) -> Tuple[Optional[str], Optional[str]]:
    """/proc/driver/nvidia/version -> (version, "open" or "proprietary")."""
    match = NVRM.search(text)
    if not match:
        return None, None
    version = VERSION.search(match.group(1))
    flavour = "open" if "Open Kernel Module" in match.group(1) else "proprietary"
    return (version.group(1) if version else None), flavour


def read_driver(context: Context, devices: List[PciDevice]) -> DriverState:
    """The kernel side and what surrounds it; versions of libraries come with NVML."""
    state = DriverState()
    _module(context, state)
    kernel = context.read("/proc/sys/kernel/osrelease") or context.kernel()
    state.nouveau_bound = any(d.driver == "nouveau" for d in devices)
    state.nvswitch = context.exists("/dev/nvidia-nvswitch0") or any(
        d.vendor == "nvidia" and d.class_code.startswith(BRIDGE_OTHER) for d in devices
    )
    state.fabric_manager = bool(context.tool("nv-fabricmanager"))
    state.reboot_required = any(
        context.exists(path) for path in ("/run/reboot-required", "/var/run/reboot-required")
    )
    context.source("driver.reboot_required", "/run/reboot-required")
    state.secure_boot = _secure_boot(context)
    if kernel and context.exists("/lib/modules/" + kernel):
        state.kernel_headers = context.exists("/lib/modules/{}/build/Makefile".format(kernel))
        context.source("driver.kernel_headers", "/lib/modules/{}/build".format(kernel))
    state.dkms = _dkms(context)
    state.held_packages = held_packages(context)
    state.cdi_files = [
        "{}/{}".format(folder, name)
        for folder in ("/etc/cdi", "/var/run/cdi")
        for name in context.names(folder)
        if name.endswith((".yaml", ".yml", ".json"))
    ]
    state.container_runtimes = [name for name in RUNTIMES if context.tool(name)]
    context.source("driver.container_runtimes", "commands in the usual folders")
    context.source("driver.cdi_files", "/etc/cdi, /var/run/cdi")
    context.source("driver.nouveau_bound", "/sys/bus/pci/devices")
    context.source("driver.nvswitch", "/dev/nvidia-nvswitch0, /sys/bus/pci/devices")
    return state


def _module(context: Context, state: DriverState) -> None:
    place = "/proc/driver/nvidia/version"
    state.module_version, state.module_flavour = parse_module_version(context.read(place))
    if not state.module_version:
        place = "/sys/module/nvidia/version"
        state.module_version = context.read(place) or None
    if state.module_version:
        context.source("driver.module_version", place)
    state.module_loaded = bool(state.module_version) or context.exists("/sys/module/nvidia")
    if state.module_loaded and not state.module_flavour:
        # The open modules are dual licensed, the proprietary one says NVIDIA.
        licence = context.run("modinfo", "-F", "license", "nvidia").output.strip()
        if licence:
            state.module_flavour = "proprietary" if licence == "NVIDIA" else "open"
            context.source("driver.module_flavour", "modinfo")


def _secure_boot(context: Context) -> Optional[bool]:
    """efivars: four bytes of attributes, then 1 for enabled. None where that can't be read."""
    context.source("driver.secure_boot", "/sys/firmware/efi/efivars")
    data = context.read_bytes(SECURE_BOOT)
    if len(data) >= 5:
        return data[4] == 1
    if context.exists("/sys/firmware/efi") or not context.exists("/sys/firmware"):
        return None
    return False


def _dkms(context: Context) -> List[str]:
    """As `dkms status` prints: "nvidia/580.95.05, 6.8.0-60-generic, x86_64: installed".

    Read from DKMS's own tree: a link kernel-<kernel>-<arch> stands for installed, a folder
    <version>/<kernel>/<arch>/module for built, a version alone for added.
    """
    base = "/var/lib/dkms"
    found: List[str] = []
    for module in context.names(base):
        for version in context.names("{}/{}".format(base, module)):
            if not re.match(r"^\d", version):
                continue
            states = _dkms_kernels(context, "{}/{}".format(base, module), version)
            label = "{}/{}".format(module, version)
            found.extend("{}, {}".format(label, state) for state in states)
            if not states:
                found.append(label + ": added")
    if found:
        context.source("driver.dkms", base)
    return found


def _dkms_kernels(context: Context, folder: str, version: str) -> List[str]:
    states = []
    for kernel in context.names("{}/{}".format(folder, version)):
        if not re.match(r"^\d+\.\d+", kernel):
            continue
        for architecture in context.names("{}/{}/{}".format(folder, version, kernel)):
            installed = context.exists("{}/kernel-{}-{}".format(folder, kernel, architecture))
            state = "installed" if installed else "built"
            states.append("{}, {}: {}".format(kernel, architecture, state))
    return states


def parse_dpkg_holds(lines: "List[str]") -> List[str]:
    """Packages on hold in /var/lib/dpkg/status."""
    held, package = [], ""
    for line in lines:
        if line.startswith("Package:"):
            package = line[8:].strip()
        elif line.startswith("Status: hold ") and package:
            held.append(package)
    return held


def held_packages(context: Context) -> List[str]:
    """Packages that an upgrade will not touch: dpkg holds, or dnf's versionlock."""
    try:
        with open(context.path("/var/lib/dpkg/status"), "rb") as stream:
            text = stream.read(DPKG_LIMIT)
    except (OSError, ValueError):
        text = b""
    held = []
    # Few machines have holds: search the bytes first, parse only where there is one.
    if b"\nStatus: hold " in text:
        held = parse_dpkg_holds(text.decode("utf-8", "replace").splitlines())
        context.source("driver.held_packages", "/var/lib/dpkg/status")
    for line in context.read("/etc/dnf/plugins/versionlock.list").splitlines():
        if line.strip() and not line.startswith("#"):
            held.append(line.strip())
            context.source("driver.held_packages", "/etc/dnf/plugins/versionlock.list")
    return held
