"""Plans for what an endpoint serves, one model or several that share the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infra_llm.core import router
from infra_llm.core.access import engine_wishes
from infra_llm.core.catalogue import Artifact, served_mib
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINES, Engine, LaunchContext
from infra_llm.core.engines.engine import model_path
from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.calibration import Calibration
from infra_llm.core.hardware import HostHardware
from infra_llm.core.layout import layout_of
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.variables import AUTO


def fit_wishes(wishes: Mapping[str, Any]) -> FitWishes:
    """The planner's wishes out of an inventory's variables; auto becomes None."""

    def solved(name: str) -> Any:
        return None if wishes[name] == AUTO else wishes[name]

    context, parallel = solved("infra_llm_context"), solved("infra_llm_parallel")
    engine = ENGINES[wishes["infra_llm_engine"]]
    if engine.one_at_a_time:
        parallel = 1
    if context is not None and engine.context_is_shared:
        parallel = parallel or 1
        context *= parallel
    return FitWishes(
        context=context,
        parallel=parallel,
        kv_type=solved("infra_llm_kv_cache_type"),
        gpu_layers=solved("infra_llm_gpu_layers"),
        threads=solved("infra_llm_threads"),
    )


def plans_of(
    hardware: HostHardware,
    served: Sequence[tuple[str, Artifact]],
    wishes: Mapping[str, Any],
    read: Callable[[Artifact], ModelProfile],
    known: Callable[[ModelProfile], Mapping[str, Calibration]],
) -> list[dict[str, Any]]:
    """A plan for every model that the endpoint serves, each within its share of the machine."""
    engine, wished = ENGINES[wishes["infra_llm_engine"]], fit_wishes(wishes)
    profiles = [read(model) for _, model in served]
    if len(served) == 1:
        (one,) = profiles
        return [plan_launch(hardware, one, wished, engine.planner, known(one)).to_dict()]
    plans = []
    parts = router.shares([profile.tensor_bytes for profile in profiles])
    for number, (part, profile) in enumerate(zip(parts, profiles, strict=True)):
        others = [name for place, (name, _) in enumerate(served) if place != number]
        share = router.share_of(hardware, part)
        plan = plan_launch(share, profile, wished, engine.planner, known(profile))
        plans.append(router.say_share(plan, part, others).to_dict())
    return plans


def more_of(
    names: Sequence[str],
    models: Sequence[Artifact],
    plans: Sequence[Mapping[str, Any]],
    layout: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Desired.more: all but the first model."""
    return [
        {
            "name": name,
            "model": model,
            "path": model_path(model, layout),
            "plan": dict(plan),
            "context_length": plan["flags"]["ctx_size"] // plan["flags"]["parallel"],
            "metrics": f"/metrics?model={name}",
        }
        for name, model, plan in list(zip(names, models, plans, strict=True))[1:]
    ]


def launch_context(
    plan: Mapping[str, Any],
    more: Sequence[Mapping[str, Any]],
    model: Artifact,
    wishes: Mapping[str, Any],
    layout: Mapping[str, str],
) -> LaunchContext:
    """What the engine's launch file is made of; `more` is Desired.more."""
    return LaunchContext(
        from_dict(LaunchPlan, dict(plan), "plan"),
        model,
        engine_wishes(wishes),
        layout,
        [(entry["name"], entry["model"], entry["plan"]["flags"]) for entry in more],
    )


def total_mib(models: Sequence[Artifact]) -> float:
    """What the engine loads of all of them."""
    return sum(map(served_mib, models))


def must_fit(plan: Mapping[str, Any], model: Artifact) -> None:
    """Raise DoesNotFitError with the reason and the nearest alternatives where it does not."""
    if plan["fits"]:
        return
    words = "; ".join(str(reason["text"]) for reason in plan["why"][:3])
    raise DoesNotFitError(
        f"{model['name']} does not fit: {plan['binding_constraint'] or words}",
        where="infra_llm_model",
        hint="; ".join(str(a["change"]) for a in plan["alternatives"][:3]),
    )


def is_launchable(
    engine: Engine, plan: Mapping[str, Any], model: Artifact, wishes: Mapping[str, Any]
) -> bool:
    """Whether a plan out of a host's state, which may be edited, still has the engine's flags."""
    try:
        applied = from_dict(LaunchPlan, plan, "state.desired.plan")
        engine.launch(LaunchContext(applied, model, wishes, layout_of()))
    except (BadInputError, KeyError, TypeError, ValueError):
        return False
    return True
