"""What was measured comes back: engine logs and driver figures correct the next plan.

Pure. A measurement belongs to (architecture, build, GPU); the host's state keeps them, and
`plan_launch(..., measured=...)` uses those of the plan's GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

BUFFER = re.compile(
    r"(?P<device>[A-Za-z_]+\d*(?:_Mapped|_Host|_REPACK)?)\s+"
    r"(?P<part>model|KV|RS|compute|output)\s+buffer size\s*=\s*(?P<mib>[\d.]+) MiB"
)
OVERHEAD_SPREAD_MIB = 64.0
"""How far the driver's part of one card and build moves from start to start."""
SPEED_SPREAD = 0.08


@dataclass(frozen=True)
class Measurement:
    """Figures of one launch on one host."""

    gpu: str
    """The card's name; empty for the host's RAM."""
    architecture: str = ""
    build: int | None = None
    overhead_mib: float | None = None
    """Memory of the process on the card that is in none of the engine's buffers."""
    decode_ratio: float | None = None
    """Measured over predicted tokens/s."""


@dataclass
class Buffers:
    """Sums of the engine's buffer lines for one device, MiB."""

    model: float = 0.0
    cache: float = 0.0
    compute: float = 0.0
    output: float = 0.0
    lines: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        return self.model + self.cache + self.compute + self.output


def parse_buffers(log: str) -> dict[str, Buffers]:
    """Buffer lines of a llama.cpp log by device (CUDA0, CPU_Mapped, CUDA_Host ...)."""
    found: dict[str, Buffers] = {}
    for line in log.splitlines():
        match = BUFFER.search(line)
        if not match:
            continue
        entry = found.setdefault(match["device"], Buffers())
        part = {"KV": "cache", "RS": "cache"}.get(match["part"], match["part"])
        setattr(entry, part, getattr(entry, part) + float(match["mib"]))
        entry.lines.append(line.strip())
    return found


def overhead_of(
    measured: Sequence[Measurement], gpu: str, build: int | None
) -> tuple[float, float, float] | None:
    """(low, usual, high) MiB of the driver on this card, or None where nothing was measured."""
    own = [
        entry.overhead_mib
        for entry in measured
        if entry.overhead_mib is not None
        and entry.gpu == gpu
        and (build is None or entry.build in {None, build})
    ]
    if not own:
        return None
    usual = sorted(own)[len(own) // 2]
    return max(0.0, min(own) - OVERHEAD_SPREAD_MIB), usual, max(own) + OVERHEAD_SPREAD_MIB


def decode_ratio(
    measured: Sequence[Measurement], architecture: str, gpus: Sequence[str]
) -> float | None:
    """Measured over predicted speed of this architecture on these cards, the median."""
    own = sorted(
        entry.decode_ratio
        for entry in measured
        if entry.decode_ratio and entry.architecture == architecture and entry.gpu in gpus
    )
    return own[len(own) // 2] if own else None
