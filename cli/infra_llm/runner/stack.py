"""The stack's solver with this package's rules and catalogue, for commands and action plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_llm.core.catalogue import Artifact, cuda_wheels
from infra_llm.core.errors import BadInputError, RefusedError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack import StackPlan, StackWishes, solve
from infra_llm.core.stack.cuda import WHEELS
from infra_llm.core.stack.desired import needs_stack, role_parts, stack_inputs
from infra_llm.core.stack.present import SOURCES_OF_OURS, branch_of
from infra_llm.core.stack.rules import Distribution
from infra_llm.core.variables import AUTO
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.stack_rules import load_stack_rules

SETTINGS = ("reboot", "reboot_window", "reboot_timeout_seconds", "remove_foreign_driver")
"""Variables (without their prefix) that say how the roles may work, not what they install."""


def host_stack(
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    where: str,
    system: str | None = None,
    engines: Sequence[str] = (),
) -> StackPlan:
    """The StackPlan of one machine by its checked variables.

    `system` names another distribution than the probed one, `engines` others than wished.
    Raises BadInputError for a distribution or an engine that the rules do not know.
    """
    rules = load_stack_rules()
    for name in engines:
        rules.engine(name)
    return solve(
        hardware,
        _distribution(hardware, where, system),
        StackWishes.from_variables(wishes, tuple(engines)),
        rules,
        load_catalogue()["repositories"],
        wishes["infra_llm_repositories"],
    )


def _distribution(hardware: HostHardware, where: str, system: str | None) -> Distribution:
    rules, found = load_stack_rules(), hardware.system
    if system:
        return rules.distribution(system)
    distribution = rules.distribution_of(found.distribution, found.distribution_version)
    if distribution is None:
        name = f"{found.distribution} {found.distribution_version}".strip() or "unknown"
        known = ", ".join(entry.name for entry in rules.distributions)
        raise BadInputError(
            f"no rules for the distribution {name}", where=where, hint=f"known: {known}"
        )
    return distribution


def desired_stack(
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    where: str,
) -> dict[str, Any]:
    """The stack that a host should have, as Desired holds it; {} where it needs none.

    The applied one (`before`, the host's stack state) stands while its inputs are the same. Raises
    RefusedError with the ways out where nothing serves the cards, and BadInputError for a
    distribution without rules that has no driver either.
    """
    if not needs_stack(hardware, wishes):
        return {}
    inputs = stack_inputs(hardware, wishes)
    settings = {name: wishes[f"infra_llm_{name}"] for name in SETTINGS}
    if before is not None and before.get("inputs") == inputs:
        plan = dict(before["plan"])
    else:
        system = hardware.system
        found = load_stack_rules().distribution_of(system.distribution, system.distribution_version)
        if found is None and hardware.driver.module_loaded:
            return {}
        plan = _solved(hardware, wishes, before, where).to_dict()
    if plan["refused"]:
        raise RefusedError(
            plan["reason"], where=where, hint="ways out: " + "; ".join(plan["ways_out"])
        )
    roles = role_parts(plan, wishes, hardware.driver.container_runtimes)
    if "cuda" in roles:
        roles["cuda"]["wheels"] = _wheels(plan["cuda"], hardware.cpu.architecture)
    return {
        "inputs": inputs,
        "plan": plan,
        "roles": roles,
        "settings": settings,
    }


def _wheels(cuda: Mapping[str, Any], machine: str) -> list[Artifact]:
    """The artifacts of a toolkit out of wheels; none for one out of packages."""
    if cuda["source"] != WHEELS:
        return []
    return cuda_wheels(load_catalogue(), cuda["version"], machine)


def _solved(
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    where: str,
) -> StackPlan:
    """A driver that we installed is ours, not "present": it is planned for again as it was."""
    driver = ((before or {}).get("plan") or {}).get("driver") or {}
    loaded = branch_of(hardware.driver.module_version)
    ours = driver.get("source") in SOURCES_OF_OURS and loaded in (None, int(driver["branch"]))
    if ours:
        pins = {"infra_llm_driver_source": driver["source"]}
        if wishes["infra_llm_driver_branch"] == AUTO:
            pins["infra_llm_driver_branch"] = driver["branch"]
        wished = wishes["infra_llm_driver_source"]
        if wished in (AUTO, driver["source"]):
            bare = replace(hardware, driver=replace(hardware.driver, module_loaded=False))
            plan = host_stack(bare, {**wishes, **pins}, where)
            if not plan.refused:
                return plan
    return host_stack(hardware, wishes, where)
