"""What the service of a plan is allowed: memory, devices, time to start. Pure.

The unit is the same for every engine; what differs is data of the engine (`ServiceNeeds`) and of
the plan. Without systemd (supervisor) none of these limits holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.engines import ServiceNeeds
from infra_llm.core.hardware import Gpu
from infra_llm.core.plan import LaunchPlan

_SLOWEST_LOAD_MIB_S = 25.0
"""A cold disk at its worst; a healthy start is never waited for longer than its size explains."""
_MOST_AT_ONCE = 8
_GPU_MARGIN_MIB = 2048
"""The libraries of CUDA and ROCm map and touch more of the host's memory than plans count."""
_DEVICES = {
    "nvidia": ("char-nvidia*",),
    "amd": ("char-drm", "char-kfd"),
    "intel": ("char-drm",),
}
"""Names of /proc/devices, as DeviceAllow= of systemd.resource-control(5) takes them."""
_GROUPS = {"nvidia": (), "amd": ("render", "video"), "intel": ("render", "video")}


def start_seconds(model_mib: float, needs: ServiceNeeds) -> int:
    """How long a start may take until the first answer: 60 s and the slowest load of the model."""
    return math.ceil(60.0 + model_mib / _SLOWEST_LOAD_MIB_S + needs.start_seconds)


def at_once(plan: LaunchPlan) -> int:
    """Requests at the same time that are worth measuring: the slots, but no crowd of them."""
    slots = plan.flags.get("parallel") or plan.flags.get("max_num_seqs") or 1
    return min(int(slots), _MOST_AT_ONCE)


def memory_limits(
    plan: LaunchPlan, needs: ServiceNeeds, *, unified: bool = False
) -> dict[str, int | None]:
    """{"memory_high_mib", "memory_max_mib"}: where the kernel reclaims, and where it ends it.

    The plan's high bound, a tenth and a margin; None for a plan that does not know its memory.
    What GPUs take of `unified` memory is the host's.
    """
    held = max(plan.host.high_mib, plan.host.total_mib) * 1.1
    if held <= 0:
        return {"memory_high_mib": None, "memory_max_mib": None}
    if unified:
        held += sum(device.high_mib for device in plan.devices) * 1.1
    margin = max(needs.margin_mib, _GPU_MARGIN_MIB if plan.devices else 0)
    return {
        "memory_high_mib": math.ceil(held + margin / 2),
        "memory_max_mib": math.ceil(held + margin),
    }


def unit_settings(
    plan: LaunchPlan,
    model_mib: float,
    needs: ServiceNeeds,
    gpus: Sequence[Gpu],
    layout: Mapping[str, str],
) -> dict[str, Any]:
    """The `unit` of the desired service, as the role llm_service takes it."""
    vendors = sorted({gpu.vendor for gpu in gpus}) if plan.devices else []
    mlock = plan.flags.get("mlock") is True
    return {
        **memory_limits(plan, needs, unified=any(gpu.unified_memory for gpu in gpus)),
        "start_seconds": start_seconds(model_mib, needs),
        "devices": sorted({name for vendor in vendors for name in _DEVICES.get(vendor, ())}),
        "groups": sorted({name for vendor in vendors for name in _GROUPS.get(vendor, ())}),
        # The drivers' own compilers (PTX, HIP) may make code for the CPU side, too.
        "exec_memory": needs.exec_memory or bool(vendors),
        "lock_memory": mlock or bool(vendors),
        "writable": sorted(layout[name] for name in needs.writable),
        "address_families": list(needs.address_families),
    }
