"""What `infra-llm probe` shows: a line a host, a panel with what matters and what is wrong."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra_llm.core.findings import Finding, findings
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.readers.stack_rules import load_stack_rules

SETS_SHOWN = ("amx_int8", "avx512f", "avx512_vnni", "avx2", "fma", "f16c", "sve2", "sve", "neon")


def host_line(name: str, host: HostHardware) -> str:
    """Plain text: "node1: 2 x Tesla T4 15 GiB, 8 cores, 29 GiB RAM, debian 12 (1 wrong)"."""
    wrong = sum(1 for finding in findings(host, load_stack_rules()) if finding.severity == "wrong")
    parts = [
        gpu_summary(host.gpus),
        f"{host.cpu.cores} cores",
        f"{gib(host.memory.total_mib)} RAM",
        f"{host.system.distribution} {host.system.distribution_version}".strip(),
    ]
    return f"{name}: {', '.join(p for p in parts if p)}" + (f" ({wrong} wrong)" if wrong else "")


def gpu_summary(gpus: list[Gpu]) -> str:
    """ "8 x NVIDIA H200 140.4 GiB + AMD Radeon 780M (integrated)", or "no GPU"."""
    counted = Counter(
        f"{gpu.name or gpu.pci_id} "
        + ("(integrated)" if gpu.integrated else gib(gpu.vram_total_mib))
        for gpu in gpus
    )
    return " + ".join(f"{n} x {text}" if n > 1 else text for text, n in counted.items()) or "no GPU"


def gib(mib: float | None) -> str:
    """MiB as GiB: "12.0 GiB", "503 GiB", "? GiB"."""
    if mib is None:
        return "? GiB"
    value = mib / 1024
    return f"{value:.0f} GiB" if value >= 100 else f"{value:.1f} GiB"


def hardware_panel(name: str, host: HostHardware, verbose: bool = False) -> Panel:
    """The panel of one host; with `verbose` disks, network and the topology matrix too."""
    found = findings(host, load_stack_rules())
    wrong = any(finding.severity == "wrong" for finding in found)
    parts: list[RenderableType] = [_facts(host)]
    if host.gpus:
        parts.append(_gpu_table(host.gpus))
    if verbose and len(host.gpus) > 1:
        parts.append(_matrix(host.gpus))
    parts += [_finding(finding) for finding in found]
    return Panel(
        Group(*parts),
        title=f"[bold]{escape(name)}[/]",
        title_align="left",
        border_style="red" if wrong else "green",
    )


def error_row(name: str, error: str) -> Panel:
    """A host that can't be probed is a row like any other."""
    return Panel(Text(error), title=f"[bold]{escape(name)}[/]", title_align="left", style="red")


def _facts(host: HostHardware) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, text in fact_rows(host):
        table.add_row(label, Text(text))
    return table


def fact_rows(host: HostHardware) -> list[tuple[str, str]]:
    """(label, text) for CPU, RAM, system, driver and disk."""
    cpu, memory, system = host.cpu, host.memory, host.system
    sets = " ".join(s for s in SETS_SHOWN if s in cpu.instruction_sets)
    sockets = f"{cpu.sockets} sockets, " if cpu.sockets > 1 else ""
    speed = (
        f", reads {cpu.memory_bandwidth_gbs:.0f} GB/s (measured)"
        if cpu.memory_bandwidth_gbs
        else ""
    )
    limit = f", capped at {gib(memory.limit_mib)}" if memory.limit_mib is not None else ""
    rows = [
        ("CPU", f"{cpu.model or cpu.architecture}: {sockets}{cpu.cores} cores ({sets})"),
        ("RAM", f"{gib(memory.total_mib)}, {gib(memory.available_mib)} available{limit}{speed}"),
        ("System", _system_text(host)),
    ]
    driver = _driver_text(host)
    if driver:
        rows.append(("Driver", driver))
    disk = max(host.disks, key=lambda d: d.free_mib, default=None)
    if disk:
        rows.append(("Disk", f"{gib(disk.free_mib)} free of {gib(disk.total_mib)} at {disk.mount}"))
    links = Counter(
        f"{n.rdma} {n.speed_mbit_s // 1000 if n.speed_mbit_s else '?'} Gbit/s {n.rdma_state}"
        for n in host.network
        if n.rdma
    )
    if links:
        rows.append(("RDMA", ", ".join(f"{count} x {text}" for text, count in links.items())))
    if system.proxies:
        rows.append(("Proxy", ", ".join(f"{k}={v}" for k, v in sorted(system.proxies.items()))))
    return rows


def _system_text(host: HostHardware) -> str:
    system = host.system
    where = "" if system.virtualization in ("", "none") else f", {system.virtualization}"
    manager = system.service_manager if system.service_manager != "none" else "no systemd"
    return (
        f"{system.distribution} {system.distribution_version}, kernel {system.kernel}"
        f"{where}, {manager}, Python {system.python}"
    )


def _driver_text(host: HostHardware) -> str:
    driver = host.driver
    if not driver.module_version and not driver.library_version:
        return "none loaded" if any(not g.integrated for g in host.gpus) else ""
    parts = [driver.module_version or "not loaded"]
    if driver.module_flavour:
        parts.append(f"{driver.module_flavour} modules")
    if driver.library_version and driver.library_version != driver.module_version:
        parts.append(f"library {driver.library_version}")
    if driver.cuda_version:
        parts.append(f"CUDA {driver.cuda_version}")
    if driver.rocm_version:
        parts.append(f"ROCm {driver.rocm_version}")
    return ", ".join(parts)


def _gpu_table(gpus: list[Gpu]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (
        ("GPU", "left"),
        ("VRAM", "right"),
        ("free", "right"),
        ("cc / gfx", "left"),
        ("GB/s", "right"),
        ("PCIe", "left"),
        ("at", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for gpu in gpus:
        notes = [note for note in ("integrated" if gpu.integrated else "", _mig(gpu)) if note]
        label = f"{gpu.index}  {gpu.name or gpu.pci_id}" + (
            f" ({', '.join(notes)})" if notes else ""
        )
        table.add_row(
            Text(label, style="red" if gpu.fault else ""),
            gib(gpu.vram_total_mib) + (" shared" if gpu.unified_memory else ""),
            gib(gpu.vram_free_mib) if gpu.vram_free_mib is not None else "-",
            gpu.compute_capability or gpu.gfx_target or "-",
            f"{gpu.memory_bandwidth_gbs:.0f}" if gpu.memory_bandwidth_gbs else "-",
            f"{gpu.pcie_generation} x{gpu.pcie_width}" if gpu.pcie_width else "-",
            gpu.pci_address or "-",
        )
    return table


def _mig(gpu: Gpu) -> str:
    slices = Counter(instance.profile for instance in gpu.mig_instances)
    return "MIG " + ", ".join(f"{n} x {p}" for p, n in slices.items()) if slices else ""


def _matrix(gpus: list[Gpu]) -> Table:
    cards = [gpu for gpu in gpus if not gpu.integrated]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("links")
    for gpu in cards:
        table.add_column(str(gpu.index), justify="right")
    for gpu in cards:
        kinds = {link.peer: link.kind for link in gpu.links}
        cells = ["X" if p is gpu else kinds.get(p.pci_address, "?") for p in cards]
        table.add_row(str(gpu.index), *cells)
    return table


def _finding(finding: Finding) -> Text:
    wrong = finding.severity == "wrong"
    text = Text("wrong  " if wrong else "note   ", style="bold red" if wrong else "bold yellow")
    text.append(finding.what, style="default not bold")
    if finding.hint:
        text.append(f"\n       {finding.hint}", style="dim not bold")
    return text
