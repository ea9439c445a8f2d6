"""The stack's solver with this package's rules and catalogue, for commands and action plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack import StackPlan, StackWishes, solve
from infra_llm.core.stack.rules import Distribution
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.stack_rules import load_stack_rules


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
