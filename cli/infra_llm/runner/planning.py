"""Plans for what an endpoint serves, one model or several that share the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra_llm.core import decide, router
from infra_llm.core.catalogue import Artifact, companions, model_candidates
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINES, Engine, LaunchContext
from infra_llm.core.engines.engine import model_path
from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit import FitWishes, choose_quant
from infra_llm.core.fit.calibration import Calibration, build_of, select
from infra_llm.core.hardware import HostHardware
from infra_llm.core.layout import layout_of
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.quantize import with_quantization
from infra_llm.core.variables import AUTO
from infra_llm.runner.companions import HeaderReader, refuse_companions, with_companions
from infra_llm.runner.index import site_settings


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
        users=wishes["infra_llm_users"],
        minimum_decode=wishes["infra_llm_minimum_speed"] or None,
        kv_type=solved("infra_llm_kv_cache_type"),
        gpu_layers=solved("infra_llm_gpu_layers"),
        threads=solved("infra_llm_threads"),
    )


@dataclass(frozen=True)
class Planned:
    """What an endpoint serves: names, artifacts and plans in the same order."""

    inputs: dict[str, Any]
    names: list[str]
    models: list[Artifact]
    plans: list[dict[str, Any]]
    beside: dict[str, Artifact]
    """What is loaded beside the first model, by the keys of COMPANIONS."""


def planned(
    hardware: HostHardware,
    audit: Mapping[str, Any],
    wishes: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration],
) -> Planned:
    """The plans that the host runs, where they were made from the same; else new ones.

    `methods` are the ways to install the engine, what is installed first. Raises BadInputError and
    DoesNotFitError.
    """
    site, state = site_settings(wishes), audit["state"]
    engine = ENGINES[wishes["infra_llm_engine"]]
    refuse_companions(engine, wishes)
    names = router.check_names(wishes)
    own = wishes["infra_llm_models"]
    offers = [model_candidates(catalogue, own, name) for name in names]
    offers[0] = [
        with_quantization(model, wishes, state, lambda m: read_header(m, site))
        for model in offers[0]
    ]
    beside = companions(catalogue, wishes, [model for offer in offers for model in offer])
    content = " + ".join(map(decide.offered_content, offers))
    inputs = decide.plan_inputs(hardware.fingerprint, wishes, content, beside)
    found = decide.applied_plans(state, inputs, offers)
    if not found or not is_launchable(engine, found[0][1], found[0][0], wishes, methods[0]):
        builds = [build_of(method["release"]) for method in methods]
        found = plans_of(
            hardware,
            list(zip(names, offers, strict=True)),
            wishes,
            lambda model: with_companions(model, beside, site, read_header),
            lambda profile: select(calibrations, profile.architecture, builds),
        )
    for model, plan in found:
        must_fit(plan, model)
    return Planned(inputs, names, [m for m, _ in found], [p for _, p in found], beside)


def plans_of(
    hardware: HostHardware,
    served: Sequence[tuple[str, Sequence[Artifact]]],
    wishes: Mapping[str, Any],
    read: Callable[[Artifact], ModelProfile],
    known: Callable[[ModelProfile], Mapping[str, Calibration]],
) -> list[tuple[Artifact, dict[str, Any]]]:
    """The artifact and the plan of every model that the endpoint serves.

    Each stays within its share of the machine; of a model's quants the best one is taken.
    """
    engine, wished = ENGINES[wishes["infra_llm_engine"]], fit_wishes(wishes)
    profiles = [[read(model) for model in offer] for _, offer in served]
    parts = [1.0]
    if len(served) > 1:
        largest = [max(profile.tensor_bytes for profile in offer) for offer in profiles]
        parts = router.shares(largest)
    found = []
    for number, (part, offer) in enumerate(zip(parts, profiles, strict=True)):
        machine = hardware if len(served) == 1 else router.share_of(hardware, part)
        best, plan = choose_quant(machine, offer, wished, engine.planner, known(offer[0]))
        if len(served) > 1:
            others = [name for place, (name, _) in enumerate(served) if place != number]
            plan = router.say_share(plan, part, others)
        found.append((served[number][1][best], plan.to_dict()))
    return found


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
    engine: Engine,
    plan: Mapping[str, Any],
    model: Artifact,
    wishes: Mapping[str, Any],
    way: Mapping[str, Any],
) -> bool:
    """Whether a plan out of a host's state, which may be edited, still has the engine's flags."""
    try:
        applied = from_dict(LaunchPlan, plan, "state.desired.plan")
        engine.launch(LaunchContext(applied, model, wishes, layout_of(), method=way))
    except (BadInputError, KeyError, TypeError, ValueError):
        return False
    return True
