"""Drivers that are not ours to install: a good one, and machines that bring their own. Pure."""

from __future__ import annotations

import re

from infra_llm.core.stack.cards import is_own_driver
from infra_llm.core.stack.model import DriverPlan
from infra_llm.core.stack.needs import Needs
from infra_llm.core.stack.request import AUTO, Card, RefusalError, Request, Trail, names

SOURCES_OF_OURS = ("vendor", "distro")


def branch_of(version: str | None) -> int | None:
    """580 of "580.95.05"."""
    match = re.match(r"(\d{3})\.", version or "")
    return int(match[1]) if match else None


def kept_platform(request: Request, cards: list[Card], trail: Trail) -> str:
    """The rule by which this machine's driver is never installed; empty for an ordinary machine.

    Raises RefusalError where such a machine has no driver, or the site pins a source all the same.
    """
    rule, owner, why = _platform(request, cards)
    if not rule:
        return ""
    pinned = request.wishes.source in SOURCES_OF_OURS
    if rule == "container-guest" and pinned:
        trail.fire("container-pinned", request.host.system.virtualization)
        return ""
    if pinned:
        raise RefusalError(
            rule,
            f"infra_llm_driver_source is {request.wishes.source}, and {why}: the driver belongs "
            f"to {owner}",
            ["infra_llm_driver_source: auto or present"],
        )
    if request.probed and not request.host.driver.module_loaded:
        raise RefusalError(
            rule,
            f"{why}, and no NVIDIA driver is there: it belongs to {owner}",
            [f"install or hand in the driver with {owner}, then run again"],
        )
    trail.fire(rule, why)
    return rule


def _platform(request: Request, cards: list[Card]) -> tuple[str, str, str]:
    """(rule, whose the driver is, what was found)."""
    for card in cards:
        system = is_own_driver(card.gpu, request.rules)
        if system:
            return "own-driver", system, f"{card.gpu.name} runs {system}"
    if request.probed and request.host.system.virtualization == "wsl":
        return "wsl", "Windows", "this is WSL"
    if request.container:
        what = f"this is a container ({request.container})"
        return "container-guest", "the host of the container", what
    for card in cards:
        if re.search(request.rules.vgpu, card.gpu.name):
            return "vgpu", "the vGPU manager's release", f"{card.gpu.name} is a vGPU"
    return "", "", ""


def platform_driver(request: Request, cards: list[Card]) -> DriverPlan:
    """What is there, kept; its branch is empty where nothing was probed."""
    driver = request.host.driver
    flavours = set.intersection(*(set(card.modules) for card in cards))
    modules = driver.module_flavour or ("open" if "open" in flavours else "proprietary")
    return DriverPlan(
        source="present",
        branch=str(branch_of(driver.module_version) or "") if request.probed else "",
        modules=modules,
        blacklist_nouveau=False,
        persistence=False,
    )


def present_driver(request: Request, needs: Needs, trail: Trail) -> DriverPlan | None:
    """The driver that is there when it meets every need, else None with the reasons in the trail.

    Raises RefusalError where the site wants it kept and it does not do.
    """
    wished = request.wishes.source
    if wished not in (AUTO, "present") or not request.probed:
        if wished == "present":
            raise _not_there()
        return None
    driver = request.host.driver
    if not driver.module_loaded or driver.module_version is None:
        if wished == "present":
            raise _not_there()
        return None
    wrong = _wrong_with(request, needs)
    if wrong and wished == "present":
        raise RefusalError(
            "present-not-enough",
            f"the driver that is there ({driver.module_version}) does not do: {'; '.join(wrong)}",
            ["infra_llm_driver_source: auto", "the engine or the card that it does not serve"],
        )
    if wrong:
        trail.fire("present-not-enough", f"{driver.module_version}: {'; '.join(wrong)}")
        return None
    number = branch_of(driver.module_version)
    trail.fire("keep-present", f"{driver.module_version} {driver.module_flavour or ''}".strip())
    branch = request.rules.branch(number or 0)
    if branch is not None and branch.ended:
        trail.fire("present-end-of-life", str(number))
    return DriverPlan(
        source="present",
        branch=str(number),
        modules=driver.module_flavour or sorted(needs.modules)[0],
        blacklist_nouveau=False,
    )


def _not_there() -> RefusalError:
    return RefusalError(
        "present-not-enough",
        "infra_llm_driver_source is present, and no driver is loaded",
        ["infra_llm_driver_source: auto", "load the driver that is installed, then run again"],
    )


def _wrong_with(request: Request, needs: Needs) -> list[str]:
    """Every reason why the loaded driver does not do; [] for a good one."""
    driver, wishes, rules = request.host.driver, request.wishes, request.rules
    number = branch_of(driver.module_version)
    branch = rules.branch(number) if number is not None else None
    if number is None or branch is None:
        return [f"its branch {number or driver.module_version} is not in the table"]
    wrong = []
    if wishes.branch not in (None, number):
        wrong.append(f"branch {wishes.branch} is pinned")
    if driver.module_flavour and driver.module_flavour not in needs.modules:
        wrong.append(f"the {driver.module_flavour} modules do not serve {names(needs.cards)}")
    if number < needs.first or (needs.last is not None and number > needs.last):
        wrong.append(f"branch {number} does not know {names(needs.cards)}")
    if number < needs.engine_branch:
        wrong.append(f"{', '.join(wishes.engines)} needs {needs.engine_branch} or later")
    needs_cuda = needs.cuda != "none" and wishes.cuda_source != "none"
    pinned = wishes.cuda_version is not None
    if needs_cuda and not needs.release_for(number, rules.cuda_majors, pinned):
        oldest = needs.releases[0].version
        wrong.append(f"it runs CUDA {branch.cuda}, {oldest} or later is needed")
    return wrong
