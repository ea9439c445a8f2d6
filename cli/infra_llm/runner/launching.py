"""What a plan becomes on a host: the launch file, and what the service is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from infra_llm.core.catalogue import Artifact
from infra_llm.core.engines import Engine, Launch, LaunchContext
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.service import start_seconds, unit_settings

_MIB = 2**20


def service_unit(
    plan: LaunchPlan,
    model: Artifact,
    engine: Engine,
    hardware: HostHardware,
    layout: Mapping[str, str],
    way: Mapping[str, Any],
) -> dict[str, Any]:
    """What the service is allowed; one that runs a container says by which engine."""
    gpus = accelerators(hardware)
    found = unit_settings(plan, model["size"] / _MIB, engine.needs, gpus, layout)
    if way["method"] != "container":
        return found
    writable = sorted({*found["writable"], f"{layout['var']}/engine"})
    return {**found, "container": way["runtime"], "writable": writable}


def launch_context(
    plan: LaunchPlan,
    model: Artifact,
    wishes: Mapping[str, Any],
    layout: Mapping[str, str],
    way: Mapping[str, Any],
    unit: Mapping[str, Any],
) -> LaunchContext:
    """All that a launch file is made of; `way` is the method that installs the engine."""
    seconds, limit = unit["start_seconds"], unit["memory_max_mib"]
    return LaunchContext(plan, model, wishes, layout, way, seconds, limit)


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
            "seconds": start_seconds(context.model["size"] / _MIB, engine.needs),
        },
        **asdict(launch),
    }
