"""What a plan becomes on a host: the launch file, and what the service is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra_llm.core import podman, router
from infra_llm.core.access import engine_wishes
from infra_llm.core.catalogue import served_mib
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINES, Engine, Launch, LaunchContext
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.service import unit_settings
from infra_llm.runner.planning import Planned, more_of


@dataclass(frozen=True)
class Prepared:
    """Plans on their way to a launch file."""

    context: LaunchContext
    unit: dict[str, Any]
    """What the service is allowed."""
    more: list[dict[str, Any]]
    """Desired.more."""


def prepare(
    found: Planned,
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    layout: Mapping[str, str],
    way: Mapping[str, Any],
) -> Prepared:
    """All that the launch file and the unit are made of; `way` is how the engine is installed."""
    engine = ENGINES[wishes["infra_llm_engine"]]
    more = more_of(found.names, found.models, found.plans, layout)
    loaded_mib = sum(map(served_mib, [*found.models, *found.beside.values()]))
    gpus, whole = accelerators(hardware), router.together(found.plans)
    unit = unit_settings(whole, loaded_mib, engine.needs, gpus, layout)
    if way["method"] == "container":
        writable = {*unit["writable"], f"{layout['var']}/engine"}
        if way["runtime"] == "podman":
            writable.add(f"{layout['containers']}/{podman.STORAGE}")
        unit = {**unit, "container": way["runtime"], "writable": sorted(writable)}
    context = LaunchContext(
        from_dict(LaunchPlan, found.plans[0], "plan"),
        found.models[0],
        engine_wishes(wishes),
        layout,
        more=[(entry["name"], entry["model"], entry["plan"]["flags"]) for entry in more],
        companions=found.beside,
        method=way,
        start_seconds=unit["start_seconds"],
        memory_max_mib=unit["memory_max_mib"],
    )
    return Prepared(context, unit, more)


def launch_file(engine: Engine, context: LaunchContext, launch: Launch) -> dict[str, Any]:
    """The launch file: what every engine has, then the engine's own part."""
    wishes, layout = context.wishes, context.layout
    return {
        "engine": engine.name,
        "release": f"{layout['engine']}/current",
        "model": context.model_path,
        "alias": wishes["infra_llm_model"],
        "host": wishes["infra_llm_bind"],
        "port": wishes["infra_llm_port"],
        "flags": context.plan.flags,
        "ready": {
            "health": engine.health,
            "answer": not engine.needs.told_after_start,
            **({"embeds": True} if context.plan.flags.get("embeddings") else {}),
            "seconds": context.start_seconds,
        },
        **({"companions": context.companion_paths} if context.companions else {}),
        **asdict(launch),
    }
