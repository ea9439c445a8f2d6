"""What a host should be once its model was quantized there; the thin plugin quantized calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.fit.calibration import Calibration, build_of, select
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.quantize import after_quantization
from infra_llm.runner.companions import HeaderReader
from infra_llm.runner.host import planned_anew

Planner = tuple[Mapping[str, Any], Mapping[str, Calibration]]
"""Wishes and calibrations of a new plan; None where the plan was given to be kept."""


def desired_after(
    desired: dict[str, Any],
    result: Mapping[str, Any],
    hardware: Mapping[str, Any],
    read_header: HeaderReader,
    planner: Planner | None,
) -> dict[str, Any]:
    """`desired` with the result's hash, and a new plan where its tensors are not as predicted.

    `result` is the answer of the module quantized_model. Raises BadInputError where it is not of
    this model, DoesNotFitError where the result does not fit.
    """
    before = desired["model"]
    model = after_quantization(before, result, lambda m: read_header(m, desired["site"]))
    desired = {**desired, "model": model}
    if planner is None or model["quantize"]["differing"] == before["quantize"]["differing"]:
        return desired
    wishes, calibrations = planner
    plan = from_dict(LaunchPlan, desired["plan"], "plan")
    builds = [build_of(method["release"]) for method in desired["engine"]["methods"]]
    known = select(calibrations, plan.model.architecture, builds)
    host = from_dict(HostHardware, dict(hardware))
    return planned_anew(desired, host, wishes, read_header, known)
