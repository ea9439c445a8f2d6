"""Operating system, kernel, virtualization, service manager, IOMMU and proxies."""

from __future__ import annotations

import os
import platform
import re
import shlex
from typing import Dict

from ...core.hardware import System
from .context import Context

PROXY_NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")

# DMI vendor or product text -> name as systemd-detect-virt gives it. Source: systemd
# src/basic/virt.c (the DMI table).
DMI_KINDS = (
    ("kvm", "kvm"),
    ("openstack", "kvm"),
    ("kubevirt", "kvm"),
    ("amazon ec2", "amazon"),
    ("qemu", "qemu"),
    ("vmware", "vmware"),
    ("vmw", "vmware"),
    ("innotek", "oracle"),
    ("virtualbox", "oracle"),
    ("xen", "xen"),
    ("bochs", "bochs"),
    ("parallels", "parallels"),
    ("bhyve", "bhyve"),
    ("hyper-v", "microsoft"),
    ("google compute engine", "google"),
    ("apple virtualization", "apple"),
)


def parse_os_release(text: str) -> Dict[str, str]:
    """/etc/os-release as a dictionary; lines that are not assignments are left out."""
    values: Dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or not re.match(r"^[A-Z0-9_]+$", name):
            continue
        try:
            values[name] = "".join(shlex.split(value)[:1])
        except ValueError:
            values[name] = value.strip("\"'")
    return values


def parse_proxies(text: str) -> Dict[str, str]:
    """Proxy variables of /etc/environment or a shell profile, passwords taken out."""
    found: Dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"^\s*(?:export\s+)?([A-Za-z_]+)=[\"']?([^\"']*)[\"']?\s*$", line)
        if match and match.group(1).lower() in PROXY_NAMES:
            found[match.group(1).lower()] = hide_password(match.group(2).strip())
    return found


def hide_password(url: str) -> str:
    """The URL with its user and password replaced."""
    return re.sub(r"//[^/@\s]+@", "//***@", url)


def read_system(context: Context) -> System:
    """Distribution, kernel, virtualization, service manager, proxies, IOMMU."""
    release = parse_os_release(
        context.read("/etc/os-release") or context.read("/usr/lib/os-release")
    )
    system = System(
        hostname=context.read("/proc/sys/kernel/hostname") or context.read("/etc/hostname"),
        distribution=release.get("ID", ""),
        distribution_version=release.get("VERSION_ID", ""),
        kernel=context.read("/proc/sys/kernel/osrelease") or context.kernel(),
        python=platform.python_version(),
    )
    if not release:
        context.error("system.distribution", "/etc/os-release can't be read")
    context.source("system.distribution", "/etc/os-release")
    context.source("system.hostname", "/proc/sys/kernel/hostname")
    context.source("system.python", "the interpreter that runs the probe")
    context.source("system.kernel", "/proc/sys/kernel/osrelease")
    system.virtualization = _virtualization(context)
    system.service_manager = _service_manager(context)
    system.proxies = _proxies(context)
    system.iommu = _iommu(context)
    return system


def _virtualization(context: Context) -> str:
    kind, came_from = _container(context)
    if not kind:
        kind, came_from = _virtual_machine(context)
    context.source("system.virtualization", came_from)
    return kind or "none"


def _container(context: Context) -> "tuple[str, str]":
    kind = context.read("/run/systemd/container")
    if kind:
        return kind, "/run/systemd/container"
    for mark, name in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if context.exists(mark):
            return name, mark
    for field in context.read_bytes("/proc/1/environ").split(b"\0"):
        if field.startswith(b"container="):
            value = field[len(b"container=") :].decode("utf-8", "replace")
            return value or "container", "/proc/1/environ"
    version = context.read("/proc/sys/kernel/osrelease").lower()
    if "microsoft" in version:
        return "wsl", "/proc/sys/kernel/osrelease"
    return "", ""


def _virtual_machine(context: Context) -> "tuple[str, str]":
    base = "/sys/class/dmi/id/"
    text = " ".join(
        context.read(base + name)
        for name in ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
    ).lower()
    metal = "metal" in text
    for mark, name in DMI_KINDS:
        if mark in text and not metal:
            return name, base
    if re.search(r"^flags\s*:.*\bhypervisor\b", context.read("/proc/cpuinfo"), re.MULTILINE):
        return "vm-other", "/proc/cpuinfo hypervisor flag"
    hypervisor = context.read("/sys/hypervisor/type")
    return (hypervisor, "/sys/hypervisor/type") if hypervisor else ("", base)


def _service_manager(context: Context) -> str:
    """systemd where it is pid 1: /run/systemd/system exists (sd_booted(3)) and pid 1 is it."""
    context.source("system.service_manager", "/run/systemd/system, /proc/1/comm")
    first = context.read("/proc/1/comm")
    if first == "systemd" or (context.exists("/run/systemd/system") and first in ("", "init")):
        return "systemd"
    return "none"


def _proxies(context: Context) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for place in ("/etc/environment", "/etc/profile.d/proxy.sh"):
        for name, value in parse_proxies(context.read(place)).items():
            found.setdefault(name, value)
            context.source("system.proxies." + name, place)
    for line in context.read("/etc/apt/apt.conf").splitlines() + _apt_lines(context):
        match = re.match(r"^\s*Acquire::(https?)::Proxy\s+\"([^\"]+)\"", line, re.IGNORECASE)
        if match and match.group(2).upper() != "DIRECT":
            name = "apt_{}_proxy".format(match.group(1).lower())
            found[name] = hide_password(match.group(2))
            context.source("system.proxies." + name, "/etc/apt")
    if context.root == "/":
        for name, value in os.environ.items():
            if name.lower() in PROXY_NAMES and value:
                found.setdefault(name.lower(), hide_password(value))
                context.sources.setdefault("system.proxies." + name.lower(), "environment")
    return found


def _apt_lines(context: Context) -> "list[str]":
    folder = "/etc/apt/apt.conf.d"
    lines = []
    for name in context.names(folder):
        if "proxy" in name.lower():
            lines.extend(context.read("{}/{}".format(folder, name)).splitlines())
    return lines


def _iommu(context: Context) -> "bool | None":
    if not context.exists("/sys/class/iommu") and not context.exists("/sys/kernel/iommu_groups"):
        return None
    context.source("system.iommu", "/sys/class/iommu, /sys/kernel/iommu_groups")
    return bool(context.names("/sys/class/iommu") or context.names("/sys/kernel/iommu_groups"))
