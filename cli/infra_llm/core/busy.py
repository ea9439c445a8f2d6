"""GPUs that somebody else uses: what they hold is not planned with. Pure.

Only a new plan looks at it: one that is applied stands, whatever happens to run beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from infra_llm.core.errors import RefusedError
from infra_llm.core.hardware import Gpu, GpuProcess, HostHardware, accelerators

SHARE, REFUSE = "share", "refuse"
LEAST_MIB = 256
"""Less is a display's or a monitor's, and within what a plan leaves free."""


def foreign(gpu: Gpu, own: Collection[int]) -> list[GpuProcess]:
    """The processes that hold memory of the card and are not the service's."""
    return [p for p in gpu.processes if p.pid not in own and (p.used_mib or 0) >= LEAST_MIB]


def free_for_us(
    hardware: HostHardware, own: Collection[int], policy: str, where: str
) -> HostHardware:
    """The machine as it is to be planned for: what others hold counts as reserved.

    Raises RefusedError where the policy is "refuse" and a card is in use.
    """
    busy = {gpu.index: foreign(gpu, own) for gpu in accelerators(hardware)}
    if not any(busy.values()):
        return hardware
    if policy == REFUSE:
        raise RefusedError(
            "; ".join(in_words(hardware, own)),
            where=where,
            hint="end it, or set infra_llm_busy_gpus: share to plan with what it leaves free",
        )
    gpus = [
        dataclasses.replace(
            gpu,
            vram_reserved_mib=(gpu.vram_reserved_mib or 0)
            + sum(process.used_mib or 0 for process in busy.get(gpu.index, [])),
        )
        for gpu in hardware.gpus
    ]
    return dataclasses.replace(hardware, gpus=gpus)


def in_words(hardware: HostHardware, own: Collection[int]) -> list[str]:
    """Who holds how much of which card."""
    return [
        f"GPU {gpu.index} {gpu.name}: {process.used_mib:,} MiB are held by "
        f"{process.name or 'a process'} (pid {process.pid})"
        for gpu in accelerators(hardware)
        for process in foreign(gpu, own)
    ]


def is_planned_for(state: Mapping[str, Any] | None, hardware: HostHardware) -> bool:
    """Whether the host already runs a plan for this hardware."""
    inputs = ((state or {}).get("desired") or {}).get("inputs") or {}
    return bool(inputs.get("fingerprint") == hardware.fingerprint)
