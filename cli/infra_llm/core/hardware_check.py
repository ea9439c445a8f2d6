"""Whether a HostHardware that somebody hands in can be true: sizes, rates, vendors. Pure.

A probe's own document can; one that was written or edited by hand need not.
"""

from __future__ import annotations

import difflib

from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu, HostHardware

VENDORS = ("nvidia", "amd", "intel", "apple")
_PROBE = "probe the machine again: infra-llm probe -i INVENTORY --json"
_MOST_MIB = 1 << 34
"""16 PiB; what is larger is no machine's but a mistake."""
_MOST_RATE = 1e7
"""GB/s or TFLOPS, likewise."""


def check_hardware(host: HostHardware, where: str) -> None:
    """Raises BadInputError that names the first value that no machine can have."""
    if host.memory.total_mib <= 0:
        raise BadInputError(
            f"must be more than 0, found {host.memory.total_mib}",
            where=f"{where}.memory.total_mib",
            hint=_PROBE,
        )
    _check_sizes(host.memory, ("total_mib", "available_mib", "limit_mib"), f"{where}.memory")
    _check_rates(host.cpu, ("memory_bandwidth_gbs",), f"{where}.cpu")
    for name in ("cores", "threads", "usable_threads"):
        if getattr(host.cpu, name) < 1:
            raise BadInputError("must be at least 1", where=f"{where}.cpu.{name}", hint=_PROBE)
    for number, gpu in enumerate(host.gpus):
        _check_gpu(gpu, f"{where}.gpus[{number}]")


def _check_gpu(gpu: Gpu, where: str) -> None:
    if gpu.vendor not in VENDORS:
        close = difflib.get_close_matches(gpu.vendor.lower(), VENDORS, n=1)
        raise BadInputError(
            f"is {gpu.vendor!r}{f'; did you mean {close[0]}?' if close else ''}",
            where=f"{where}.vendor",
            hint=f"one of {', '.join(VENDORS)}",
        )
    names = ("vram_total_mib", "vram_free_mib", "vram_reserved_mib", "shared_memory_mib")
    _check_sizes(gpu, names, where)
    _check_rates(
        gpu, ("memory_bandwidth_gbs", "memory_bandwidth_measured_gbs", "fp16_tflops"), where
    )
    for number, instance in enumerate(gpu.mig_instances):
        _check_sizes(instance, ("memory_mib",), f"{where}.mig_instances[{number}]")
    for name in ("vram_free_mib", "vram_reserved_mib"):
        size, total = getattr(gpu, name), gpu.vram_total_mib
        if size is not None and total is not None and size > total:
            raise BadInputError(
                f"is {size}, more than vram_total_mib, {total}",
                where=f"{where}.{name}",
                hint=_PROBE,
            )


def _check_sizes(part: object, names: tuple[str, ...], where: str) -> None:
    for name in names:
        value = getattr(part, name)
        if value is not None and not 0 <= value <= _MOST_MIB:
            raise BadInputError(
                f"must be from 0 to {_MOST_MIB} MiB, found {value}",
                where=f"{where}.{name}",
                hint=_PROBE,
            )


def _check_rates(part: object, names: tuple[str, ...], where: str) -> None:
    for name in names:
        value = getattr(part, name)
        if value is not None and not 0 < value <= _MOST_RATE:
            raise BadInputError(
                f"must be more than 0, and at most {_MOST_RATE:.0f}, found {value}",
                where=f"{where}.{name}",
                hint=_PROBE,
            )
