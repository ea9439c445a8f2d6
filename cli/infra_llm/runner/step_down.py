"""Plan smaller after a start that ended out of memory; the thin plugin step_down calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import HostFailedError
from infra_llm.core.fit.calibration import Calibration, build_of, select
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.stepping import MOST_STEPS, next_step
from infra_llm.runner.companions import HeaderReader
from infra_llm.runner.host import planned_anew

Planner = tuple[HeaderReader, Mapping[str, Calibration]]


def step_down(
    desired: dict[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    failure: Mapping[str, Any],
    steps: Sequence[str],
    planner: Planner | None,
    stepped: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """{"desired", "wishes", "steps"} of the next try.

    `failure` is the result of the module that started the service (msg, out_of_memory); `stepped`
    are the wishes that the step before handed on. Raises HostFailedError with that failure where it
    was for another reason, after MOST_STEPS, where nothing smaller is left, or where the plan was
    given and is to be kept.
    """
    said = str(failure.get("msg") or "the service did not start")
    why = str(failure.get("out_of_memory") or "")
    if not why or planner is None:
        raise HostFailedError(said)
    step = next_step(desired["plan"], wishes, stepped) if len(steps) < MOST_STEPS else None
    if step is None:
        tried = "; ".join(steps) or "nothing"
        raise HostFailedError(
            f"{said}\n  out of memory; tried smaller plans: {tried}",
            hint="wish a smaller infra_llm_context or model, or free the GPUs",
        )
    plan = from_dict(LaunchPlan, desired["plan"], "plan")
    builds = [build_of(method["release"]) for method in desired["engine"]["methods"]]
    read_header, calibrations = planner
    known = select(calibrations, plan.model.architecture, builds)
    smaller = planned_anew(desired, hardware, step.wishes, read_header, known)
    return {
        "desired": smaller,
        "wishes": step.wishes,
        "steps": [*steps, f"{step.text}, because: {why}"],
    }
