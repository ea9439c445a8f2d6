"""One model in several quants: which file to take.

Hard constraints first (it fits, it is fast enough), then the published loss of quality, then speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.calibration import Calibration
from infra_llm.core.fit.planner import NO_CALIBRATIONS, plan_launch
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import Alternative, LaunchPlan, Reason

PERPLEXITY_LOSS = {
    "F32": 0.0,
    "BF16": 0.0,
    "F16": 0.002,
    "Q8_0": 0.0026,
    "Q6_K": 0.0217,
    "Q5_K_M": 0.0569,
    "Q5_K_S": 0.1049,
    "Q5_1": 0.1062,
    "Q5_0": 0.1316,
    "Q4_K_M": 0.1754,
    "Q4_K_S": 0.2689,
    "Q4_1": 0.4511,
    "Q4_0": 0.4685,
    "Q3_K_L": 0.5562,
    "Q3_K_M": 0.6569,
    "Q3_K_S": 1.6321,
    "Q2_K_S": 3.1836,
    "Q2_K": 3.5199,
}
"""Perplexity added to Llama 3 8B (F16: Mistral 7B), as llama-quantize prints it
(tools/quantize/quantize.cpp of llama.cpp, build 11434)."""
LOSS_BY_BITS = ((8.0, 0.003), (6.5, 0.022), (5.5, 0.08), (4.8, 0.2), (4.2, 0.4), (3.6, 0.8))
UNKNOWN_LOSS = 3.0
EQUAL_LOSS = 0.05
"""Losses this near count as equal: speed decides."""


def quality_loss(model: ModelProfile) -> tuple[float, str]:
    """Perplexity lost and where the figure is from; quants without one go by bits a weight."""
    if model.quant in PERPLEXITY_LOSS:
        return PERPLEXITY_LOSS[model.quant], "calibrated"
    bits = 8 * model.tensor_bytes / max(1, model.parameters)
    return next((loss for least, loss in LOSS_BY_BITS if bits >= least), UNKNOWN_LOSS), "assumed"


def choose_quant(
    hardware: HostHardware,
    models: Sequence[ModelProfile],
    wishes: FitWishes,
    engine: str = "llama.cpp",
    calibrations: Mapping[str, Calibration] = NO_CALIBRATIONS,
) -> tuple[int, LaunchPlan]:
    """Place of the best file in `models`, and its plan with the other rungs as alternatives.

    Of a single model its plan. Raises BadInputError where no model is given.
    """
    if not models:
        raise BadInputError("no model given")
    plans = [plan_launch(hardware, model, wishes, engine, calibrations) for model in models]
    if len(models) == 1:
        return 0, plans[0]
    losses = [quality_loss(model) for model in models]
    rungs = sorted(range(len(models)), key=lambda n: losses[n][0])
    fitting = [n for n in rungs if plans[n].fits]
    fitting = [n for n in fitting if not _crippled(plans[n], plans)] or fitting or rungs[-1:]
    near = [n for n in fitting if losses[n][0] <= losses[fitting[0]][0] + EQUAL_LOSS]
    best = max(near, key=lambda n: plans[n].tokens_per_second.decode)
    chosen, (loss, source) = plans[best], losses[best]
    words = "the least loss" if chosen.fits else "the smallest"
    which = "that fits" if chosen.fits else "and none fits"
    text = (
        f"{chosen.model.quant or 'the file'}: {loss:+.3f} perplexity, "
        f"{words} of {len(models)} files {which}"
    )
    chosen.why.insert(0, Reason(text, source))
    chosen.alternatives += [_rung(losses[n][0], plans[n]) for n in rungs if n != best]
    return best, chosen


def _crippled(plan: LaunchPlan, plans: Sequence[LaunchPlan]) -> bool:
    """A file that spills to the host while a smaller one runs five times as fast."""
    fastest = max((other.tokens_per_second.decode for other in plans if other.fits), default=0.0)
    return plan.tokens_per_second.decode * 5 < fastest


def _rung(loss: float, plan: LaunchPlan) -> Alternative:
    total = sum(entry.total_mib for entry in [*plan.devices, plan.host])
    speed = plan.tokens_per_second.decode
    note = f"{loss:+.3f} perplexity, {speed:.1f} tokens/s"
    return Alternative(
        change=f"quant {plan.model.quant}",
        fits=plan.fits,
        context=int(plan.flags.get("ctx_size") or 0),
        decode=speed,
        total_mib=total,
        note=note if plan.fits else f"{note}; {plan.binding_constraint}",
    )
