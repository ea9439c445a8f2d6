"""Confirm a host's plan by its installed engine; where it differs, plan anew with its figures.

The thin plugin in playbooks/action_plugins calls it; nothing here knows Ansible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit.calibration import Calibration, build_of, select
from infra_llm.core.fit.confirm import (
    TOOL,
    Comparison,
    compare,
    corrections,
    estimate_arguments,
)
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan
from infra_llm.runner.companions import HeaderReader
from infra_llm.runner.host import planned_anew

Ask = Callable[[str, list[str]], Mapping[str, Any]]
"""Release folder and arguments in, the answer of the module engine_estimate out."""
Planner = tuple[Mapping[str, Any], HeaderReader, Mapping[str, Calibration]]
"""Wishes, reader and calibrations of a new plan; None where the plan was given to be kept."""


@dataclass
class Confirmation:
    """What the engine said before the start."""

    desired: dict[str, Any]
    confirmed: bool
    text: str
    """For people, one line."""
    seconds: float = 0.0
    planned_anew: bool = False
    devices: list[dict[str, Any]] = field(default_factory=list)
    """The tool's rows for the plan that stands."""

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "desired"}


def confirm(
    desired: dict[str, Any], hardware: Mapping[str, Any], ask: Ask, planner: Planner | None
) -> Confirmation:
    """Ask the engine about the plan, once more about a corrected one, and about further models.

    Raises DoesNotFitError where the engine needs more than any plan that was found, or sees other
    devices: nothing of the service was touched then. An engine that can't be asked confirms
    nothing and stops nothing.
    """
    found = _confirm_first(desired, hardware, ask, planner)
    for entry in found.desired.get("more") or []:
        _confirm_further(entry, found, ask)
    return found


def _confirm_further(entry: Mapping[str, Any], found: Confirmation, ask: Ask) -> None:
    """Add what the engine says of a further model; raises DoesNotFitError where it needs more."""
    launch = {"model": entry["path"], "flags": entry["plan"]["flags"]}
    asked = {"plan": entry["plan"], "launch": {**found.desired["launch"], **launch}}
    answer, comparison, why = _question(asked, ask)
    name = entry["name"]
    if comparison is None:
        found.text += f"; {name} not confirmed: {why}"
        return
    if comparison.short:
        raise DoesNotFitError(
            f"the engine needs more for {name} than its share: {'; '.join(comparison.words)}",
            hint="wish a smaller infra_llm_context, or fewer infra_llm_more_models",
        )
    found.text += f"; {name} {_agreed(comparison)}"
    found.seconds += float(answer["seconds"])


def _confirm_first(
    desired: dict[str, Any], hardware: Mapping[str, Any], ask: Ask, planner: Planner | None
) -> Confirmation:
    answer, comparison, why = _question(desired, ask)
    if comparison is None:
        return Confirmation(desired, False, f"not confirmed: {why}")
    seconds = float(answer["seconds"])
    devices = list(answer["devices"])
    if comparison.agrees:
        return Confirmation(desired, True, _agreed(comparison), seconds, devices=devices)
    if planner is None:
        if comparison.short:
            raise DoesNotFitError(
                f"the engine needs more than the given plan: {'; '.join(comparison.words)}",
                hint="make a new plan: infra-llm plan --inventory FILE -o PLAN",
            )
        return Confirmation(desired, True, _agreed(comparison), seconds, devices=devices)
    first = "; ".join(comparison.words)
    desired = _replan(desired, hardware, comparison, planner)
    answer, comparison, why = _question(desired, ask)
    if comparison is None or comparison.short:
        words = why if comparison is None else "; ".join(comparison.words)
        raise DoesNotFitError(
            f"the engine disagrees with the plan, and with the corrected one: {words}",
            hint=f"first it was {first}; a pinned infra_llm_context that is smaller leaves room",
        )
    text = f"planned anew after {first}; {_agreed(comparison)}"
    seconds += float(answer["seconds"])
    return Confirmation(desired, True, text, seconds, True, list(answer["devices"]))


def _question(
    desired: Mapping[str, Any], ask: Ask
) -> tuple[Mapping[str, Any], Comparison | None, str]:
    """The tool's answer compared; None and why where there is nothing to compare."""
    plan = from_dict(LaunchPlan, desired["plan"], "plan")
    launch = desired["launch"]
    try:
        arguments = ["--model", launch["model"], *estimate_arguments(launch["flags"])]
    except BadInputError as error:
        return {}, None, str(error)
    answer = ask(launch["release"], arguments)
    if answer["why"] or not plan.engine_estimate:
        return answer, None, answer["why"] or "the plan is of an earlier version"
    return answer, compare(plan, answer["devices"]), ""


def _agreed(comparison: Comparison) -> str:
    return (
        f"confirmed by {TOOL}: {comparison.engine_mib:,.0f} MiB "
        f"against {comparison.planned_mib:,.0f}"
    )


def _replan(
    desired: dict[str, Any],
    hardware: Mapping[str, Any],
    comparison: Comparison,
    planner: Planner,
) -> dict[str, Any]:
    wishes, read_header, calibrations = planner
    plan = from_dict(LaunchPlan, desired["plan"], "plan")
    host = from_dict(HostHardware, dict(hardware))
    builds = [build_of(method["release"]) for method in desired["engine"]["methods"]]
    known = select(calibrations, plan.model.architecture, builds)
    corrected = corrections(plan, comparison, host, known)
    try:
        return planned_anew(desired, host, wishes, read_header, corrected)
    except DoesNotFitError as error:
        error.what = f"{error.what}, after {'; '.join(comparison.words)}"
        raise
