"""The next smaller plan after a start that ended out of memory. Pure.

What a person pinned stays as it is: only what was left to auto is made smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.variables import AUTO

MOST_STEPS = 3
LEAST_CONTEXT = 1024
"""Tokens of one request; below it few answers are of use."""


@dataclass(frozen=True)
class Step:
    wishes: dict[str, Any]
    """The wishes with one of them pinned to less."""
    text: str


def next_step(
    plan: Mapping[str, Any], wishes: Mapping[str, Any], stepped: Mapping[str, Any] | None = None
) -> Step | None:
    """The plan's own alternative that saves memory first, then half the context, then fewer layers
    on the GPUs; None where everything is pinned or at its least.

    `stepped` are the wishes of the step before, which pin what `wishes` leave to auto.
    """
    now = stepped or wishes
    flags = plan["flags"]
    slots = int(flags.get("parallel") or 1)
    for option in plan.get("alternatives") or []:
        wished = (option.get("flags") or {}).get("cache_type_k")
        if wished and option.get("total_mib", 0) < 0 and wishes["infra_llm_kv_cache_type"] == AUTO:
            return Step({**now, "infra_llm_kv_cache_type": wished}, str(option["change"]))
    context = int(flags.get("ctx_size") or flags.get("max_model_len") or 0) // slots
    if wishes["infra_llm_context"] == AUTO and context // 2 >= LEAST_CONTEXT:
        less = {"infra_llm_context": context // 2, "infra_llm_parallel": slots}
        return Step({**now, **less}, f"context {context} -> {context // 2}")
    layers = int(flags.get("n_gpu_layers") or 0)
    if wishes["infra_llm_gpu_layers"] == AUTO and layers > 0:
        fewer = layers - max(1, layers // 8)
        return Step(
            {**now, "infra_llm_gpu_layers": fewer}, f"{layers} -> {fewer} layers on the GPUs"
        )
    return None
