"""What verified runs measured corrects the next plans. Pure.

What differs from the plan is told apart by cause:

- Overhead (driver on a GPU, server process on the host) is a constant of the build and the
  device, so it is kept as MiB beside the plan's own figure; the part of the process that grows
  with the vocabulary thus stays with the formula.
- Compute buffers are sums of terms that scale with the micro-batch, the context and the width of
  the model, so the ratio is kept: MiB would be wrong for the next model of the architecture. Flash
  attention leaves out the largest of those terms, so each ratio holds for one setting of it.
- Decode speed is kept as a ratio for a GPU that did all the work alone or with its like. "cpu
  x86_64" says nothing about the bandwidth of its memory, so hosts get none.

Weights and caches are exact and never corrected.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.plan import DeviceMemory, LaunchPlan

ABSURD_FACTOR = 2.0
"""Beyond so many times the plan's bounds, something else than the plan was measured."""
MOST_OVERHEAD_MIB = 1024.0
"""More than any driver context or server process has outside of its buffers."""
LEAST_COMPUTE_MIB = 1.0
"""Ratios of smaller buffers would be those of two rounded numbers."""
LEAST_SHARE = 1 / 3
"""Of the plan's own doubt, what no number of runs takes away: drivers and prompts change."""
KEPT_APART = 5
_ON_GPU = re.compile(r"[A-Za-z]+(\d+)")
_OLLAMA_FLASH = "OLLAMA_FLASH_ATTENTION"
_ON_HOST = re.compile(r"CPU|AMX|\w+_Host")


@dataclass(frozen=True)
class Figure:
    """A correction over `count` runs: the mean and the range that was seen."""

    count: int
    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.mean, self.low, self.high)))
        if not finite or self.count < 1 or not self.low <= self.mean <= self.high:
            raise BadInputError(f"{self} is no figure", where="calibration")


@dataclass(frozen=True)
class Part:
    """One part of a device's memory, MiB, and how far it may be off."""

    value: float
    below: float
    above: float
    correction: float = 0.0
    """What `value` has of earlier runs."""

    def shifted(self, figure: Figure | None) -> Part:
        """With the mean of a figure in MiB added."""
        if figure is None:
            return self
        return self._doubted(max(0.0, self.value + figure.mean), figure, 1.0)

    def scaled(self, figure: Figure | None) -> Part:
        """Times the mean of a figure that is a ratio."""
        return self._doubted(self.value * figure.mean, figure, self.value) if figure else self

    def _doubted(self, value: float, figure: Figure, unit: float) -> Part:
        """Every run takes from the plan's own doubt; what the runs differed by stays."""
        share = max(LEAST_SHARE, 1 / (figure.count + 1))
        below = max((figure.mean - figure.low) * unit, self.below * share)
        above = max((figure.high - figure.mean) * unit, self.above * share)
        return Part(value, below, above, value - self.value)


@dataclass(frozen=True)
class Calibration:
    """Corrections for one (architecture, engine build, device class)."""

    overhead: Figure | None = None
    """Measured minus predicted, MiB."""
    compute: dict[str, Figure] = field(default_factory=dict)
    """Measured over predicted buffers by flash attention, "on" or "off"."""
    decode: Figure | None = None
    """Measured over predicted tokens/s."""
    apart: tuple[str, ...] = ()
    """Absurd observations in words, the last ones; never applied."""

    @property
    def runs(self) -> int:
        """Runs that any of the figures comes from; each card of a host counts."""
        figures = (self.overhead, self.decode, *self.compute.values())
        return max((figure.count for figure in figures if figure), default=0)


def key_of(architecture: str, build: str, device: str) -> str:
    """The name under which a Calibration is kept."""
    return f"{architecture}|{build}|{device}"


def build_of(release: str) -> str:
    """Engine build of a release's folder: "wheel-2026.10.11549-1a2b3c4d" without the hash."""
    return release.rpartition("-")[0] or release


def host_class(hardware: HostHardware, gpus: Sequence[Any]) -> str:
    """Device class of the host's RAM: a GPU's driver adds its own to the server process."""
    vendors = sorted({gpu.vendor for gpu in gpus})
    return " with ".join([f"cpu {hardware.cpu.architecture}", *vendors])


def select(
    calibrations: Mapping[str, Calibration], architecture: str, builds: Iterable[str]
) -> dict[str, Calibration]:
    """Calibrations by device class, of the first of the builds that has any."""
    for build in builds:
        start = key_of(architecture, build, "")
        own = {k[len(start) :]: v for k, v in sorted(calibrations.items()) if k.startswith(start)}
        if own:
            return own
    return {}


def merge(old: Calibration, new: Calibration) -> Calibration:
    """Both together, as running means with the range that was seen."""
    names = sorted({*old.compute, *new.compute})
    compute = {name: _both(old.compute.get(name), new.compute.get(name)) for name in names}
    return Calibration(
        overhead=_both(old.overhead, new.overhead),
        compute={name: figure for name, figure in compute.items() if figure},
        decode=_both(old.decode, new.decode),
        apart=(*old.apart, *new.apart)[-KEPT_APART:],
    )


def merge_all(old: Mapping[str, Calibration], new: Mapping[str, Calibration]) -> dict[str, Any]:
    """`merge` under every key."""
    return {**old, **{key: merge(old.get(key, Calibration()), new[key]) for key in new}}


def _both(old: Figure | None, new: Figure | None) -> Figure | None:
    if old is None or new is None:
        return old or new
    count = old.count + new.count
    low, high = min(old.low, new.low), max(old.high, new.high)
    mean = (old.mean * old.count + new.mean * new.count) / count
    return Figure(count, min(max(mean, low), high), low, high)


def _once(value: float) -> Figure:
    return Figure(1, value, value, value)


def observe(
    plan: LaunchPlan, measured: Mapping[str, Any], hardware: HostHardware, build: str
) -> dict[str, Calibration]:
    """What a verified run of `plan` teaches, by `key_of`: the GPUs' classes and the host's.

    Parameters
    ----------
    measured: what `verify_endpoint` answers (memory.rss_mib, gpu_memory, engine.devices, speed).
    build: as of `build_of`.

    """
    gpus = [gpu for gpu in accelerators(hardware) if gpu.vram_total_mib]
    if plan.engine not in ("llama.cpp", "ollama") or len(gpus) != len(plan.devices):
        return {}
    told = plan.flags.get("environment") or {}
    off = plan.flags.get("flash_attn") in ("off", "0", False) or told.get(_OLLAMA_FLASH) == 0
    flash = "off" if off else "on"
    buffers = (measured.get("engine") or {}).get("devices") or {}
    held = {g["pci_address"]: g["used_mib"] for g in measured.get("gpu_memory") or []}
    found: dict[str, Calibration] = {}
    for number, (row, gpu) in enumerate(zip(plan.devices, gpus, strict=True)):
        own = [size for name, size in buffers.items() if _gpu_number(name) == number]
        seen = _observe_row(row, held.get(gpu.pci_address), _compute(own), flash)
        found[row.name] = merge(found.get(row.name, Calibration()), seen)
    own = [sizes for name, sizes in buffers.items() if _ON_HOST.match(name)]
    # A prompt cache grows with what was served: its memory is no constant.
    rss = None if plan.flags.get("cache_ram") else (measured.get("memory") or {}).get("rss_mib")
    found[host_class(hardware, gpus)] = _observe_row(plan.host, rss, _compute(own), flash)
    busy = {row.name for row in plan.devices if row.total_mib}
    ratio = _decode_ratio(plan, measured)
    if len(busy) == 1 and ratio:
        name = busy.pop()
        found[name] = dataclasses.replace(found[name], decode=_once(ratio))
    architecture = plan.model.architecture
    return {key_of(architecture, build, k): v for k, v in found.items() if v != Calibration()}


def _gpu_number(name: str) -> int | None:
    match = _ON_GPU.fullmatch(name)
    return int(match[1]) if match else None


def _compute(buffers: Sequence[Mapping[str, float]]) -> float | None:
    """Compute and output buffers together, as the plan counts them; None without a line."""
    if not any("compute" in sizes for sizes in buffers):
        return None
    return sum(sizes.get("compute", 0.0) + sizes.get("output", 0.0) for sizes in buffers)


def _observe_row(
    row: DeviceMemory, used: float | None, compute: float | None, flash: str
) -> Calibration:
    """What one device teaches; all of it is kept apart when a part is absurd."""
    if not row.total_mib:
        return Calibration()
    absurd: list[str] = []
    ratios: dict[str, Figure] = {}
    overhead, basis = None, row.compute_mib
    predicted = row.compute_mib + row.untouched_mib - row.compute_correction_mib
    if compute is not None and predicted >= LEAST_COMPUTE_MIB:
        basis, ratio = compute - row.untouched_mib, compute / predicted
        ratios[flash] = _once(ratio)
        if not 1 / ABSURD_FACTOR <= ratio <= ABSURD_FACTOR:
            absurd.append(f"compute {compute:.0f} MiB, {predicted:.0f} predicted")
    if used is not None:
        outside = used - row.weights_mib - row.kv_cache_mib - basis
        overhead = _once(outside - (row.overhead_mib - row.overhead_correction_mib))
        inside = row.low_mib / ABSURD_FACTOR <= used <= row.high_mib * ABSURD_FACTOR
        if not inside or not 0 <= outside <= MOST_OVERHEAD_MIB:
            absurd.append(f"{used:.0f} MiB in use, {row.total_mib:.0f} predicted")
    if absurd:
        return Calibration(apart=("; ".join(absurd),))
    return Calibration(overhead, ratios)


def _decode_ratio(plan: LaunchPlan, measured: Mapping[str, Any]) -> float | None:
    """Measured over uncorrected decode speed where the GPUs did all the work."""
    log, speed = measured.get("engine") or {}, measured.get("speed") or {}
    layers, decode = log.get("layers_total"), speed.get("decode_tokens_per_second")
    predicted = plan.tokens_per_second.decode / (plan.tokens_per_second.correction or 1.0)
    moved = any(plan.flags.get(name) for name in ("n_cpu_moe", "cpu_moe", "override_tensor"))
    if moved or not layers or log.get("layers_offloaded") != layers or not decode or not predicted:
        return None
    ratio = float(decode) / predicted
    return ratio if 1 / ABSURD_FACTOR <= ratio <= ABSURD_FACTOR else None
