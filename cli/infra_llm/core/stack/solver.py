"""One solver for driver, CUDA and container toolkit of one machine. Pure.

It joins what the cards, the distribution, the kernel, Secure Boot, the engines and the site's
pins ask for, by the rules of data/stack.yml, and gives a StackPlan, or a refusal with its reason
and its ways out. It never guesses: what is not in the rules is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack.around import (
    container_plan,
    fabric_packages,
    has_nvswitch,
    mig_layout,
    reboot_plan,
)
from infra_llm.core.stack.cards import nvidia_cards
from infra_llm.core.stack.cuda import cuda_plan
from infra_llm.core.stack.driver import Choice, choose_driver
from infra_llm.core.stack.model import CudaPlan, Repository, StackPlan
from infra_llm.core.stack.needs import Needs, needs_of
from infra_llm.core.stack.packages import own_components, repository
from infra_llm.core.stack.present import kept_platform, platform_driver, present_driver
from infra_llm.core.stack.request import AUTO, Card, RefusalError, Request, StackWishes, Trail
from infra_llm.core.stack.rules import Distribution, StackRules

Catalogue = Sequence[Mapping[str, Any]]
"""`repositories` of the catalogue."""
Site = Mapping[str, Mapping[str, str]]
"""A site's mirrors: repository name -> url, key_url, key_fingerprint (infra_llm_repositories)."""


def solve(
    host: HostHardware,
    distribution: Distribution,
    wishes: StackWishes,
    rules: StackRules,
    repositories: Catalogue,
    site: Site | None = None,
) -> StackPlan:
    """The stack of `host` under `distribution`.

    A host that runs another distribution, or was not probed at all, is planned for as freshly
    installed: its kernel and driver are left out of account. Raises BadInputError for an engine
    that does not exist.
    """
    system = host.system
    running = rules.distribution_of(system.distribution, system.distribution_version)
    request = Request(host, distribution, wishes, rules, probed=running is distribution)
    trail, plan = Trail(rules), StackPlan(os=distribution.name)
    if not request.probed:
        trail.fire("other-os" if system.distribution else "fresh", distribution.label)
    try:
        _fill(plan, request, repositories, site or {}, trail)
    except RefusalError as refusal:
        trail.fire(refusal.rule, refusal.why)
        plan = StackPlan(
            os=distribution.name,
            refused=True,
            reason=refusal.reason,
            ways_out=_open_ways(refusal.ways_out, wishes),
            architectures=plan.architectures,
        )
    plan.rules = trail.fired
    return plan


def _fill(
    plan: StackPlan, request: Request, repositories: Catalogue, site: Site, trail: Trail
) -> None:
    cards = nvidia_cards(request, trail)
    if not cards:
        if not request.host.gpus:
            trail.fire("no-gpu")
        return
    plan.architectures = architectures(cards)
    nvswitch = has_nvswitch(request, cards, trail)
    choice = _choice(request, cards, nvswitch, trail)
    plan.driver, plan.cuda = choice.driver, choice.cuda
    plan.fabric_manager = nvswitch and bool(choice.driver.branch)
    if plan.fabric_manager:
        fabric_packages(request, cards, choice.driver, trail)
    if choice.driver.persistence:
        trail.fire("persistence")
    plan.mig = mig_layout(request, cards, choice.driver.branch, trail)
    plan.container = container_plan(request, trail)
    plan.reboot = reboot_plan(request, choice.driver, trail)
    plan.repositories = _repositories(plan, request, choice, repositories, site)


def _open_ways(ways: list[str], wishes: StackWishes) -> list[str]:
    """What is auto already is no way out."""
    auto = {
        "infra_llm_driver_branch: auto": wishes.branch is None,
        "infra_llm_driver_modules: auto": wishes.modules == AUTO,
        "infra_llm_cuda_version: auto": wishes.cuda_version is None,
    }
    return [way for way in ways if not auto.get(way)] or ways


def architectures(cards: list[Card]) -> list[str]:
    """Compute capabilities of all cards without the dot, ascending: ["86", "120"]."""
    return [f"{major}{minor}" for major, minor in sorted({card.capability for card in cards})]


def _choice(request: Request, cards: list[Card], nvswitch: bool, trail: Trail) -> Choice:
    platform = kept_platform(request, cards, trail)
    if platform == "own-driver":
        return Choice(platform_driver(request, cards), CudaPlan("none"))
    needs = needs_of(request, cards, trail)
    if platform:
        driver = platform_driver(request, cards)
        return _with_cuda(request, needs, Choice(driver, CudaPlan("none")), trail)
    kept = present_driver(request, needs, trail)
    if kept is not None:
        attempt = Trail(request.rules)
        try:
            choice = _with_cuda(request, needs, Choice(kept, CudaPlan("none")), attempt)
        except RefusalError as refusal:
            if request.wishes.source == "present":
                raise
            trail.fired = [rule for rule in trail.fired if rule.id != "keep-present"]
            trail.fire("present-not-enough", refusal.reason)
        else:
            trail.add(attempt)
            return choice
    return choose_driver(request, needs, nvswitch, trail)


def _with_cuda(request: Request, needs: Needs, choice: Choice, trail: Trail) -> Choice:
    """The toolkit for a driver that is there; a kept one of unknown branch gets none."""
    if choice.driver.branch:
        branch = int(choice.driver.branch)
        choice.cuda = cuda_plan(request, needs, branch, "present", trail)
    return choice


def _repositories(
    plan: StackPlan, request: Request, choice: Choice, catalogue: Catalogue, site: Site
) -> list[Repository]:
    """Those that some package of the plan comes from, each once."""
    found, driver = [], choice.driver
    globs = request.rules.driver_globs[request.distribution.family]
    vendor_driver = driver.source == "vendor"
    from_vendor = vendor_driver or choice.cuda.source == "vendor" or bool(driver.pin)
    if "distro" in (driver.source, choice.cuda.source):
        found.append(own_components(request))
    if vendor_driver:
        for name in request.distribution.extra_repositories:
            if name == "distribution":
                found.append(own_components(request))
            else:
                found.append(repository(catalogue, site, request, name))
    if vendor_driver and request.distribution.suite in ("bookworm", "trixie"):
        # NVIDIA's guide asks for contrib on Debian (glx-alternative and the like).
        found.append(own_components(request))
    if from_vendor:
        kept_out = [] if vendor_driver else globs
        if not vendor_driver and plan.fabric_manager:
            kept_out = [g for g in globs if "fabricmanager" not in g]
        found.append(repository(catalogue, site, request, "nvidia-cuda", kept_out))
    if plan.container is not None:
        found.append(repository(catalogue, site, request, "nvidia-container-toolkit"))
    return list({entry.name: entry for entry in found}.values())
