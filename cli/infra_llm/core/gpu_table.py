"""The GPU table: a card by its name or its PCI id, and what to add to a probe from it.

Pure; `readers.gpu_table.load_gpu_table()` reads the rows from data/gpus.json.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu, HostHardware

HOW_TO_ADD = (
    "add a row for it to cli/infra_llm/data/gpus.json (docs/probe.md, 'A GPU that is not known')"
)
SAME_SIZE = 0.12
"""A card "of N GiB" reports up to this share less: ECC takes 1/16, the driver some more."""

# Words that name a vendor or a family and tell no card from another.
NOISE = {
    *("nvidia", "amd", "intel", "geforce", "radeon", "tesla", "quadro", "instinct", "graphics"),
    *("gpu", "generation", "rtx", "gtx", "rx", "arc", "jetson", "edition", "card", "the"),
}


@dataclass(frozen=True)
class GpuRow:
    """One card or board. Sizes MiB, bandwidth GB/s (decimal), `fp16_tflops` dense TFLOPS.

    `vram_mib` is the total that the driver reports, None for a GPU that shares the host's RAM.
    `assumed` is text where a lookup had to choose between variants; "" else.
    """

    name: str
    vendor: str
    architecture: str
    memory_bandwidth_gbs: float
    fp16_tflops: float
    vram_mib: int | None = None
    compute_capability: str | None = None
    gfx_target: str | None = None
    pci_ids: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    integrated: bool = False
    unified_memory: bool = False
    rare: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    assumed: str = ""

    def label(self) -> str:
        size = f", {self.vram_mib / 1024:.0f} GiB" if self.vram_mib else ""
        return f"{self.aliases[0] if self.aliases else self.name}{size}"


class GpuTable:
    """Rows with two ways in: `find_gpu` by name, `find_pci` by device id."""

    def __init__(self, rows: Sequence[GpuRow]) -> None:
        self.rows = list(rows)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> GpuTable:
        """From the document infra-llm/gpu-table/1. Raises BadInputError with the row's place."""
        rows = data.get("gpus")
        if not isinstance(rows, list):
            raise BadInputError("no list `gpus`", where="GPU table")
        return cls([from_dict(GpuRow, row, f"gpus[{i}]") for i, row in enumerate(rows)])

    def find_gpu(self, name: str, vram_mib: float | None = None) -> GpuRow:
        """The row for a name as people write it: "RTX 3060", "nvidia geforce rtx 3060", "3060".

        `vram_mib` (or a size in the name, "4060 Ti 16GB") tells variants apart. Variants of one
        size that differ only in speed resolve to the slower, with `assumed` set. Raises
        BadInputError naming the candidates (different sizes) or the nearest names (unknown).
        """
        words, size_in_name = _words(name)
        matches = _best(self.rows, words)
        if not matches:
            raise self._unknown(name)
        wanted = vram_mib or size_in_name
        if wanted:
            near = [row for row in matches if _near(row, wanted)]
            if not near and size_in_name and not vram_mib:
                raise self._ambiguous(name, matches, "none has that memory size")
            # A --vram that no variant has (a modified card) keeps the speed of the named one.
            matches = near or matches
        return self._one(name, matches)

    def find_pci(
        self,
        pci_id: str,
        subsystem_id: str = "",
        revision: str = "",
        vram_mib: float | None = None,
    ) -> list[GpuRow]:
        """Rows for vendor:device ("10de:2504"), the most specific first kind that matches.

        A subsystem or revision in the table decides where it is given; several rows remain only
        for variants that share their ids, and `vram_mib` of the driver tells those apart.
        """
        if not pci_id:
            return []
        exact = [f"{pci_id}/{subsystem_id}", f"{pci_id}@{revision}"]
        for keys in (exact, [pci_id]):
            rows = [row for row in self.rows if any(key in row.pci_ids for key in keys)]
            if rows:
                break
        else:
            rows = [row for row in self.rows if any(i.startswith(pci_id) for i in row.pci_ids)]
        if vram_mib:
            return [row for row in rows if row.vram_mib is None or _near(row, vram_mib)] or rows
        return [row for row in rows if not row.rare] or rows

    def _one(self, name: str, matches: list[GpuRow]) -> GpuRow:
        common = [row for row in matches if not row.rare] or matches
        if len(common) == 1:
            others = [row.label() for row in matches if row is not common[0]]
            if not others:
                return common[0]
            return replace(common[0], assumed=f"the common variant, not {', '.join(others)}")
        sizes = [row.vram_mib or 0 for row in common]
        if min(sizes) * (1 + SAME_SIZE) < max(sizes):
            raise self._ambiguous(name, common, "several cards have that name")
        slowest = min(common, key=lambda row: row.memory_bandwidth_gbs)
        others = [row.name for row in common if row is not slowest]
        return replace(slowest, assumed=f"the slower variant, not {', '.join(others)}")

    def _ambiguous(self, name: str, rows: Iterable[GpuRow], why: str) -> BadInputError:
        listed = "; ".join(dict.fromkeys(row.label() for row in rows))
        return BadInputError(
            f"{why}: {listed}",
            where=f"GPU {name!r}",
            hint="write the full name or add the memory size, as in '4060 Ti 16GB'",
        )

    def _unknown(self, name: str) -> BadInputError:
        names = {n.lower(): n for row in self.rows for n in (row.name, *row.aliases)}
        close = difflib.get_close_matches(name.lower(), list(names), n=3, cutoff=0.4)
        nearest = ", ".join(names[c] for c in close)
        return BadInputError(
            "no such GPU in the table" + (f"; nearest: {nearest}" if nearest else ""),
            where=f"GPU {name!r}",
            hint=f"check the spelling, or {HOW_TO_ADD}",
        )


def _words(name: str) -> tuple[set[str], float | None]:
    """Words that tell cards apart, and a memory size in MiB where the name has one."""
    text = name.lower().replace("(r)", " ").replace("(tm)", " ")
    text = re.sub(r"[^a-z0-9.]+", " ", text)
    size = None
    for match in re.finditer(r"\b(\d{1,3})\s?(?:gib|gb|g)\b", text):
        size = float(match.group(1)) * 1024
    text = re.sub(r"\b\d{1,3}\s?(?:gib|gb|g)\b", " ", text)
    # "3080ti" and "rtx3060" are written so; "a100" and "8060s" are names.
    text = re.sub(r"\b(rtx|gtx|rx|pro)(\d)", r"\1 \2", text)
    text = re.sub(r"(\d)(ti|super|xtx|xt|gre)\b", r"\1 \2", text)
    text = re.sub(r"\b(sxm|hbm)\d\w*\b", r"\1", text)
    return set(text.split()) - NOISE, size


def _best(rows: Iterable[GpuRow], words: set[str]) -> list[GpuRow]:
    """Rows that hold all words, those with the fewest words besides."""
    if not words:
        return []
    scored = []
    for row in rows:
        extras = [
            len(own - words)
            for own in (_words(text)[0] for text in (row.name, *row.aliases))
            if words <= own
        ]
        if extras:
            scored.append((min(extras), row))
    fewest = min((extra for extra, _ in scored), default=0)
    return [row for extra, row in scored if extra == fewest]


def _near(row: GpuRow, vram_mib: float) -> bool:
    return row.vram_mib is not None and abs(row.vram_mib - vram_mib) <= SAME_SIZE * vram_mib


def complete(host: HostHardware, table: GpuTable) -> None:
    """Fill in place what no driver could tell, from the table; each value names its source.

    An unknown device id becomes an error entry that says how to add it.
    """
    for gpu in host.gpus:
        place = f"gpus[{gpu.pci_address or gpu.index}]"
        _share_memory(host, gpu, place)
        rows = table.find_pci(
            gpu.pci_id, gpu.pci_subsystem_id, gpu.pci_revision, gpu.vram_total_mib
        )
        if not rows and gpu.name:
            rows = _by_name(table, gpu)
        if not rows:
            _report_unknown(host, gpu, place)
            continue
        _fill(host, gpu, rows, place)
    host.gpus.sort(key=lambda gpu: (gpu.integrated, gpu.pci_address or "~", gpu.index))
    for index, gpu in enumerate(host.gpus):
        gpu.index = index


def _by_name(table: GpuTable, gpu: Gpu) -> list[GpuRow]:
    """A partner's device id is not in the table; the name that the driver printed may be."""
    try:
        return [table.find_gpu(gpu.name, gpu.vram_total_mib)]
    except BadInputError:
        return []


def _report_unknown(host: HostHardware, gpu: Gpu, place: str) -> None:
    label = gpu.pci_id or gpu.name or "a device without an id"
    if not gpu.name:
        gpu.name = f"unknown {gpu.vendor} GPU {gpu.pci_id}".strip()
        host.sources[f"{place}.name"] = "no driver, not in the GPU table"
    missing = [
        word
        for word, value in (
            ("memory", gpu.vram_total_mib),
            ("compute capability", gpu.compute_capability or gpu.gfx_target),
            ("speed", gpu.memory_bandwidth_gbs),
        )
        if value is None
    ]
    if not missing:
        return
    entry = {
        "part": place,
        "what": f"{label} is not in the GPU table: its {', '.join(missing)} not known",
        "hint": HOW_TO_ADD,
    }
    if entry not in host.errors:
        host.errors.append(entry)


def _share_memory(host: HostHardware, gpu: Gpu, place: str) -> None:
    """Memory that is the host's: NVML gives none, the RAM is the figure; AMD tells two parts."""
    both = "amdgpu sysfs: carve-out and GTT"
    if host.sources.get(f"{place}.vram_total_mib") == both:
        return
    if gpu.shared_memory_mib and not gpu.integrated and gpu.unified_memory:
        gpu.vram_total_mib = (gpu.vram_total_mib or 0) + gpu.shared_memory_mib
        gpu.vram_free_mib = None
        host.sources[f"{place}.vram_total_mib"] = both
    elif gpu.unified_memory and gpu.vram_total_mib is None and host.memory.total_mib:
        gpu.vram_total_mib = host.memory.total_mib
        host.sources[f"{place}.vram_total_mib"] = "unified with the RAM (/proc/meminfo)"


def _fill(host: HostHardware, gpu: Gpu, rows: list[GpuRow], place: str) -> None:
    first = rows[0]
    source = "GPU table"
    if len(rows) > 1:
        # Variants that share an id: the smaller memory is the safe one until a driver says.
        first = min(rows, key=lambda row: row.vram_mib or 0)
        source = "GPU table (assumed: variants share the device id)"
    before = gpu.unified_memory
    gpu.integrated = gpu.integrated or first.integrated
    gpu.unified_memory = gpu.unified_memory or first.unified_memory
    if first.unified_memory and not before:
        _share_memory(host, gpu, place)
    values: dict[str, Any] = {
        "name": first.name,
        "vram_total_mib": first.vram_mib,
        "compute_capability": first.compute_capability,
        "gfx_target": first.gfx_target,
        "memory_bandwidth_gbs": first.memory_bandwidth_gbs,
        "fp16_tflops": first.fp16_tflops,
        "architecture": first.architecture,
    }
    for name, value in values.items():
        if getattr(gpu, name) in (None, "") and value not in (None, ""):
            setattr(gpu, name, value)
            host.sources[f"{place}.{name}"] = source
