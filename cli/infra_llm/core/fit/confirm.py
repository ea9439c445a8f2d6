"""The plan against the engine's own estimate, before anything is started. Pure.

llama-fit-params of the installed release lays out the launch without allocating it and prints MiB
of model, context and compute for each device. The plan holds what it expects to be printed
(`LaunchPlan.engine_estimate`); both come from the same flags, so they differ by what the planner
does not know of this build or these devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit.calibration import Calibration, Figure, host_class
from infra_llm.core.fit.llama_cpp.arguments import llama_server_arguments
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.plan import EngineEstimate, LaunchPlan

TOOL = "llama-fit-params"
_SERVER_ONLY = """kv_unified cache_ram ctx_checkpoints warmup cont_batching metrics jinja mmproj
    model_draft n_gpu_layers_draft spec_type spec_draft_n_max cache_type_k_draft
    cache_type_v_draft mmproj_offload image_min_tokens image_max_tokens mtmd_batch_max_tokens"""
SERVER_ONLY = frozenset(_SERVER_ONLY.split())
"""Flags that the tool does not take; what they need is outside of the rows that are compared."""
PRINTED_MIB = 1.0
"""The tool cuts each figure to whole MiB."""
LEAST_COMPUTE_MIB = 1.0
"""A smaller compute buffer can't carry a correction."""


@dataclass(frozen=True)
class Comparison:
    """What the engine says of a plan, device by device."""

    engine_mib: float
    planned_mib: float
    """Sums over all devices of what both know."""
    differences: dict[int, float] = field(default_factory=dict)
    """Engine minus plan in MiB where it is beyond the bound; place in `engine_estimate`."""
    words: tuple[str, ...] = ()
    """The differences for people."""

    @property
    def agrees(self) -> bool:
        return not self.differences

    @property
    def short(self) -> bool:
        """The engine needs more than was planned for."""
        return any(difference > 0 for difference in self.differences.values())


def estimate_arguments(flags: Mapping[str, Any]) -> list[str]:
    """A plan's flags for llama-fit-params.

    Raises BadInputError where the tool can't be told what the server will do.
    """
    if flags.get("kv_unified") and int(flags.get("parallel") or 1) > 1:
        raise BadInputError(f"{TOOL} knows no unified cache of several slots")
    known = {name: value for name, value in flags.items() if name not in SERVER_ONLY}
    return [*llama_server_arguments(known), "--fit-print", "on", "--offline"]


def compare(plan: LaunchPlan, rows: Sequence[Mapping[str, Any]]) -> Comparison:
    """Hold the tool's rows (name, model_mib, context_mib, compute_mib; the host last) against it.

    The bound of a device: 1 MiB for each of the three figures, as they are cut to whole MiB, and
    the plan's own doubt of the compute buffer (1 %, 15 % for families that the oracle met in
    part). Weights and cache are exact. The host's model may only be less: copies that the CPU's
    kernels reorder are in no row of the tool.

    Raises DoesNotFitError where the engine sees other devices than the plan.
    """
    expected = plan.engine_estimate
    if not expected:
        raise BadInputError("the plan holds no figures to compare")
    answers = _matched(expected, rows)
    differences: dict[int, float] = {}
    words, engine, planned = [], 0.0, 0.0
    for place, (wanted, found) in enumerate(zip(expected, answers, strict=True)):
        model = wanted.model_mib
        if place == len(expected) - 1:
            model = min(model, found["model_mib"] + PRINTED_MIB / 2)
        sums = model + wanted.context_mib + wanted.compute_mib
        printed = sum(float(found[key]) for key in ("model_mib", "context_mib", "compute_mib"))
        engine, planned = engine + printed, planned + sums
        # What was cut away is half a MiB on the average.
        difference = printed + 3 * PRINTED_MIB / 2 - sums
        if abs(difference) > 3 * PRINTED_MIB / 2 + wanted.bound_mib:
            differences[place] = difference
            words.append(
                f"{wanted.name}: {printed:,.0f} MiB by {TOOL}, {sums:,.0f} planned "
                f"(bound {3 * PRINTED_MIB / 2 + wanted.bound_mib:,.1f})"
            )
    return Comparison(engine, planned, differences, tuple(words))


def _matched(
    expected: Sequence[EngineEstimate], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Rows in the plan's order; GPUs that the plan leaves empty need not be seen."""
    if not rows:
        raise BadInputError(f"{TOOL} printed no device")
    *gpus, host = rows
    if len(gpus) == len(expected) - 1:
        return [*gpus, host]
    planned = [row.name for row in expected[:-1] if row.model_mib + row.context_mib]
    used = [str(row["name"]) for row in gpus if row["model_mib"] or row["context_mib"]]
    if planned or used:
        raise DoesNotFitError(
            f"the plan uses {', '.join(planned) or 'no GPU'}, "
            f"the engine sees {', '.join(str(row['name']) for row in gpus) or 'no GPU'}",
            hint="the installed release may be built without this GPU's backend, or the driver "
            "does not work",
        )
    empty = {"model_mib": 0, "context_mib": 0, "compute_mib": 0}
    return [*({**empty, "name": row.name} for row in expected[:-1]), host]


def corrections(
    plan: LaunchPlan,
    comparison: Comparison,
    hardware: HostHardware,
    known: Mapping[str, Calibration],
) -> dict[str, Calibration]:
    """`known` with the engine's figures in it, so that a new plan reckons with them.

    The whole difference is laid to the compute buffer, as a ratio: weights and caches are sums
    over the header. Where the engine says less, the upper bound stays as it was.
    """
    gpus = [gpu for gpu in accelerators(hardware) if gpu.vram_total_mib]
    flash = "off" if plan.flags.get("flash_attn") in ("off", "0", False) else "on"
    found = dict(known)
    ratios: dict[str, list[tuple[float, float]]] = {}
    rows = [*plan.devices, plan.host]
    for place, difference in comparison.differences.items():
        row = rows[place]
        laid_out = row.compute_mib + row.untouched_mib
        predicted = laid_out - row.compute_correction_mib
        if predicted >= LEAST_COMPUTE_MIB:
            name = row.name if place < len(plan.devices) else host_class(hardware, gpus)
            now = laid_out / predicted
            ratios.setdefault(name, []).append((max(0.0, now + difference / predicted), now))
    for name, pairs in ratios.items():
        ratio, now = max(pairs)
        old = found.get(name, Calibration())
        figure = old.compute.get(flash) or Figure(1, now, now, now)
        own = Figure(figure.count, ratio, min(ratio, now, figure.low), max(ratio, now, figure.high))
        found[name] = dataclasses.replace(old, compute={**old.compute, flash: own})
    return found
