"""Which driver: source, branch, flavour, and under which conditions it can be built. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from infra_llm.core.stack.cuda import cuda_plan
from infra_llm.core.stack.model import CudaPlan, DriverPlan
from infra_llm.core.stack.needs import Needs
from infra_llm.core.stack.packages import fill, globs, header_packages, kernel_words
from infra_llm.core.stack.request import AUTO, RefusalError, Request, Trail, names
from infra_llm.core.stack.rules import Branch

OPEN_IS_DEFAULT_FROM = 560
"""Rule open-default-560."""


@dataclass
class Choice:
    """A driver to install, with the toolkit that goes with it."""

    driver: DriverPlan
    cuda: CudaPlan


def choose_driver(request: Request, needs: Needs, nvswitch: bool, trail: Trail) -> Choice:
    """The first source and branch that meets every need. Raises RefusalError where none does."""
    refusals: list[RefusalError] = []
    for source in _sources(request, trail):
        tried: list[RefusalError] = []
        for branch in _branches(request, source):
            attempt = Trail(request.rules)
            try:
                choice = _attempt(request, needs, source, branch, nvswitch, attempt)
            except RefusalError as refusal:
                tried.append(refusal)
                continue
            trail.add(attempt)
            return choice
        vendor = request.distribution.vendor.rules
        refusals.append(_furthest(tried, vendor) if tried else _nothing_there(request))
    raise _together(refusals)


def _furthest(refusals: list[RefusalError], vendor_rules: list[str]) -> RefusalError:
    """Of a source's branches the one that failed last says most: the others do not exist there."""

    def rank(refusal: RefusalError) -> int:
        if refusal.rule == "branch-knows-card":
            return 0
        return 1 if refusal.rule in vendor_rules else 2

    return max(refusals, key=rank)


def _sources(request: Request, trail: Trail) -> list[str]:
    wished, own = request.wishes.source, request.distribution.own
    if wished != AUTO:
        trail.fire("pinned-source", wished)
        return [wished]
    if request.host.driver.secure_boot and own is not None and own.signed:
        return ["distro", "vendor"]
    return ["vendor", "distro"] if own is not None else ["vendor"]


def _branches(request: Request, source: str) -> list[int]:
    """In the order in which they are tried."""
    pin, own = request.wishes.branch, request.distribution.own
    if source == "distro":
        found = [entry.branch for entry in own.drivers] if own is not None else []
        return [n for n in found if pin in (None, n)]
    if pin is not None:
        return [pin]
    return [branch.branch for branch in request.rules.branches if branch.auto]


def _attempt(
    request: Request, needs: Needs, source: str, number: int, nvswitch: bool, trail: Trail
) -> Choice:
    branch = request.rules.branch(number)
    if branch is None:
        raise _nothing_there(request)
    _check_branch(request, needs, source, branch)
    modules = _flavour(needs, branch, trail)
    _say_source(request, source, number, trail)
    cuda = cuda_plan(request, needs, number, source, trail)
    if nvswitch:
        _check_fabric(request, needs, source)
    driver = _plan(request, source, number, modules, trail)
    return Choice(driver, cuda)


def _check_branch(request: Request, needs: Needs, source: str, branch: Branch) -> None:
    number, vendor, label = branch.branch, request.distribution.vendor, request.distribution.label
    if number < needs.first or (needs.last is not None and number > needs.last):
        limits = f"{needs.first} or later" if needs.last is None else f"up to {needs.last}"
        whose = f"{label}'s own branch" if source == "distro" else "branch"
        raise RefusalError(
            "branch-knows-card",
            f"{whose} {number} does not know {names(needs.cards)} (they need {limits})",
            [*_other_source(source), "infra_llm_driver_branch: auto"],
        )
    if source == "vendor" and number < vendor.branch:
        rule = vendor.rules[0] if vendor.rules else "branch-knows-card"
        raise RefusalError(
            rule,
            f"NVIDIA's repository for {label} begins with branch {vendor.branch}, {number} is "
            f"needed for {names(needs.cards)}",
            [
                "infra_llm_driver_source: auto or distro",
                "another distribution: Debian 12, Ubuntu 22.04 or 24.04, EL 9 and 10 have it",
                "a site's mirror that has it (infra_llm_repositories)",
            ],
        )
    if number < needs.engine_branch:
        raise RefusalError(
            needs.engine_rule or "engine-driver",
            f"{', '.join(request.wishes.engines)} needs driver {needs.engine_branch} or later on "
            f"{names(needs.cards)}, this would be {number}",
            [
                *_other_source(source),
                "infra_llm_driver_branch: auto",
                "another engine: llama.cpp runs on older drivers",
            ],
        )


def _flavour(needs: Needs, branch: Branch, trail: Trail) -> str:
    possible = needs.modules & set(branch.modules)
    if not possible:
        raise RefusalError(
            "proprietary-gone-620" if branch.branch >= 620 else "open-only-blackwell",
            f"branch {branch.branch} has no {' or '.join(sorted(needs.modules))} modules",
            ["infra_llm_driver_branch: auto", "infra_llm_driver_modules: auto"],
        )
    if len(possible) == 1:
        return next(iter(possible))
    trail.fire("open-default-560", str(branch.branch))
    return "open" if branch.branch >= OPEN_IS_DEFAULT_FROM else "proprietary"


def _say_source(request: Request, source: str, number: int, trail: Trail) -> None:
    distribution = request.distribution
    if source == "distro" and distribution.own is not None:
        trail.fire(distribution.own.rule, f"driver {number}")
        if request.wishes.source == AUTO and distribution.vendor.rules:
            trail.fire(distribution.vendor.rules[0])
    elif request.wishes.source == AUTO:
        trail.fire("vendor-first")
    if request.wishes.branch is not None:
        trail.fire("pinned-branch", str(number))
    elif source == "vendor":
        trail.fire("long-term-first", str(number))
    if source == "vendor":
        for rule in distribution.vendor.rules:
            trail.fire(rule)


def _check_fabric(request: Request, needs: Needs, source: str) -> None:
    """NVSwitch boards need a Fabric Manager from the driver's source, NVLink 5 NVIDIA's nvlsm."""
    own = request.distribution.own
    blackwell = any(card.capability >= (10, 0) for card in needs.cards)
    if source == "distro" and (blackwell or own is None or not own.fabric_manager):
        raise RefusalError(
            "nvlink5" if blackwell else "no-fabric-manager",
            f"{request.distribution.label} itself has no "
            f"{'nvlsm' if blackwell else 'Fabric Manager'} for this NVSwitch board",
            ["infra_llm_driver_source: vendor"],
        )


_KERNEL_METAS = ("linux-{meta}", "linux-image-{meta}", "linux-headers-{meta}")


def _plan(request: Request, source: str, number: int, modules: str, trail: Trail) -> DriverPlan:
    rules, distribution = request.rules, request.distribution
    mok, builds = _secure_boot(request, source, trail)
    headers = _headers(request, builds, trail)
    pinned = list(rules.driver_globs[distribution.family])
    conflicts = list(rules.conflicts[distribution.family].get(source, {}).get(modules, []))
    hold, excluded = True, []
    if source == "distro" and distribution.own is not None:
        own = next(entry for entry in distribution.own.drivers if entry.branch == number)
        packages, pin = fill(own.packages[modules], request, number), own.pins.get(modules, "")
        pinned = [name for name in pinned if not pin or name not in own.apart]
        for kind in ("both", modules):
            conflicts += globs(distribution.own.conflicts.get(kind, []), request, number)
        if modules in own.rules:
            trail.fire(own.rules[modules], request.kernel)
        if distribution.own.signed and kernel_words(request):
            hold, excluded = False, [*pinned, *fill(_KERNEL_METAS, request, number)]
    else:
        vendor = rules.vendor_packages[distribution.family]
        packages = list(vendor.open if modules == "open" else vendor.proprietary)
        pin = f"{number}.*"
    trail.fire("hold" if hold else "signed-together")
    trail.fire("nouveau")
    stream = ""
    if distribution.streams and source == "vendor":
        stream = f"nvidia-driver:{number}-{'open' if modules == 'open' else 'dkms'}"
    return DriverPlan(
        source=source,
        branch=str(number),
        modules=modules,
        packages=packages,
        pin=pin,
        pinned=pinned,
        hold=hold,
        excluded=excluded,
        headers=headers,
        conflicts=conflicts,
        module_stream=stream,
        mok=mok,
    )


def _secure_boot(request: Request, source: str, trail: Trail) -> tuple[bool, bool]:
    """(to be signed with a machine owner key, built here)."""
    own, label = request.distribution.own, request.distribution.label
    if request.host.driver.secure_boot and request.wishes.secure_boot == "refuse":
        raise RefusalError(
            "secure-boot",
            "Secure Boot is on, and infra_llm_secure_boot is refuse",
            [
                "infra_llm_secure_boot: auto (signed modules) or mok (a key of this machine)",
                "install the driver yourself, then infra_llm_driver_source: present",
            ],
        )
    signed = source == "distro" and own is not None and own.signed
    if signed:
        if request.host.driver.secure_boot:
            trail.fire("secure-boot-signed", label)
        return False, False
    if not request.host.driver.secure_boot:
        return False, True
    if request.wishes.secure_boot == "mok":
        trail.fire("secure-boot-mok")
        return True, True
    has_signed = own is not None and own.signed
    raise RefusalError(
        "secure-boot",
        f"Secure Boot is on, and {label} has no signed modules for this driver",
        [
            *(["infra_llm_driver_source: auto or distro"] if has_signed else []),
            "infra_llm_secure_boot: mok (a key of this machine, enrolled at its console)",
            "switch Secure Boot off in the firmware",
            *([] if has_signed else ["Ubuntu, which has signed modules of its own"]),
        ],
    )


def _headers(request: Request, builds: bool, trail: Trail) -> list[str]:
    """Header packages; [] for signed modules, headers of a foreign kernel that are there, and in
    a container, whose modules are the host's."""
    if request.container:
        return []
    known = kernel_words(request) is not None
    if known:
        if not builds:
            return []
        trail.fire("headers", request.kernel)
        return header_packages(request)
    if builds and request.host.driver.kernel_headers:
        trail.fire("headers", f"{request.kernel}: installed by hand")
        return []
    what = "headers" if builds else "prebuilt modules"
    raise RefusalError(
        "no-headers",
        f"{request.distribution.label} has no {what} for the running kernel {request.kernel}",
        [
            "boot a kernel of the distribution",
            f"install the headers of {request.kernel} yourself, then run again",
            "install the driver yourself, then infra_llm_driver_source: present",
        ],
    )


def _other_source(source: str) -> list[str]:
    return ["infra_llm_driver_source: vendor"] if source == "distro" else []


def _nothing_there(request: Request) -> RefusalError:
    own, label, pin = request.distribution.own, request.distribution.label, request.wishes.branch
    if own is None:
        return RefusalError(
            "el-no-driver",
            f"{label} has no NVIDIA driver of its own",
            ["infra_llm_driver_source: auto or vendor"],
        )
    has = ", ".join(str(entry.branch) for entry in own.drivers)
    return RefusalError(
        own.rule,
        f"branch {pin} is pinned, and {label} itself has {has}",
        ["infra_llm_driver_source: auto or vendor", f"infra_llm_driver_branch: auto, or {has}"],
    )


def _together(refusals: list[RefusalError]) -> RefusalError:
    """One refusal out of those of all sources: the first says the rule, all say their reason."""
    reasons = list(dict.fromkeys(refusal.reason for refusal in refusals))
    ways = list(dict.fromkeys(way for refusal in refusals for way in refusal.ways_out))
    if len(refusals) > 1:
        # What was tried already is no way out.
        tried = ("infra_llm_driver_source: vendor", "infra_llm_driver_source: auto or distro")
        ways = [way for way in ways if way not in tried] or ways
    return RefusalError(refusals[0].rule, "; ".join(reasons), ways, refusals[0].why)
