"""What stands around the driver: Fabric Manager, MIG, containers, the reboot. Pure."""

from __future__ import annotations

import re

from infra_llm.core.stack.model import ContainerPlan, DriverPlan, RebootPlan
from infra_llm.core.stack.packages import fill
from infra_llm.core.stack.request import Card, RefusalError, Request, Trail, names
from infra_llm.core.value_checks import MIG_PROFILE

EVERY_CARD = "all"


def has_nvswitch(request: Request, cards: list[Card], trail: Trail) -> bool:
    """Whether the board has NVSwitches: as probed, or assumed of the cards.

    Blackwell's switches (NVLink 5) are not PCI devices that the probe knows, so eight of those
    cards are taken for a board with switches even where it was probed.
    """
    if request.host.driver.nvswitch:
        trail.fire("fabric-manager", "NVSwitches found")
        return True
    rules = request.rules.nvswitch
    board = [c for c in cards if any(re.search(name, c.gpu.name) for name in rules.boards)]
    blackwell = all(card.capability >= (10, 0) for card in board)
    if len(board) < rules.cards or (request.probed and not blackwell):
        return False
    trail.fire("fabric-manager", names(board))
    trail.fire("fabric-manager-assumed", names(board))
    return True


def fabric_packages(request: Request, cards: list[Card], driver: DriverPlan, trail: Trail) -> None:
    """Add Fabric Manager to the driver's packages: same source, same version.

    A driver that is kept gets one of its very version, from NVIDIA's repository.
    """
    rules, own = request.rules, request.distribution.own
    if driver.source == "distro" and own is not None:
        driver.packages += fill([own.fabric_manager], request, int(driver.branch))
        return
    templates = rules.vendor_packages[request.distribution.family]
    number = int(driver.branch)
    template = templates.fabric_manager[number >= rules.unversioned_from]
    if driver.source == "present":
        if request.host.driver.fabric_manager:
            return
        driver.pin = f"{request.host.driver.module_version}*"
        driver.pinned = ["nvidia-fabricmanager*"]
    driver.packages.append(template.format(branch=number))
    if any(card.capability >= (10, 0) for card in cards):
        trail.fire("nvlink5", names([card for card in cards if card.capability >= (10, 0)]))
        driver.packages += templates.nvlink5


def mig_layout(
    request: Request, cards: list[Card], branch: str, trail: Trail
) -> dict[str, list[str]]:
    """The wished layout by PCI address (index where nothing was probed). Raises RefusalError."""
    layout: dict[str, list[str]] = {}
    for place, profiles in request.wishes.mig.items():
        for card in _wished(place, cards):
            _check_mig(request, card, profiles, branch)
            layout[card.gpu.pci_address or str(card.gpu.index)] = list(profiles)
    if layout:
        trail.fire("mig", ", ".join(layout))
    return layout


def _wished(place: str, cards: list[Card]) -> list[Card]:
    if place == EVERY_CARD:
        return cards
    found = [
        card
        for card in cards
        if place in (str(card.gpu.index), card.gpu.uuid)
        or (card.gpu.pci_address and place.lower() == card.gpu.pci_address.lower())
    ]
    if not found:
        known = ", ".join(card.gpu.pci_address or str(card.gpu.index) for card in cards)
        raise RefusalError(
            "mig",
            f"infra_llm_mig names {place}, and there is no such NVIDIA card",
            [f"one of {known}, or {EVERY_CARD}"],
        )
    return found


def _check_mig(request: Request, card: Card, profiles: list[str], branch: str) -> None:
    words = card.gpu.name.replace("-", " ").split()
    known = [
        entry
        for entry in request.rules.mig
        if (" " in entry.name and entry.name in card.gpu.name) or entry.name in words
    ]
    if not known:
        raise RefusalError(
            "mig",
            f"MIG is wished on {card.text}, which has none",
            ["leave the card out of infra_llm_mig", "use a card with MIG (docs/stack.md)"],
        )
    entry = known[0]
    if branch and int(branch) < entry.branch:
        raise RefusalError(
            "mig",
            f"MIG on {card.text} begins with driver {entry.branch}, this would be {branch}",
            [f"infra_llm_driver_branch: {entry.branch} or later"],
        )
    wrong = [profile for profile in profiles if not MIG_PROFILE.fullmatch(profile)]
    if wrong or len(profiles) > entry.instances:
        what = f"{wrong[0]!r} is no profile" if wrong else f"{len(profiles)} instances are wished"
        raise RefusalError(
            "mig",
            f"{what} of {card.text} (at most {entry.instances})",
            ["profiles are written as 1g.10gb; `nvidia-smi mig -lgip` lists a card's"],
        )


def container_plan(request: Request, trail: Trail) -> ContainerPlan | None:
    """The toolkit where the site runs containers."""
    if request.wishes.container_engine == "none":
        return None
    trail.fire("container-cdi", request.wishes.container_engine)
    trail.fire("container-daemon-reload")
    toolkit = request.rules.container_toolkit
    return ContainerPlan(version=toolkit.version, packages=list(toolkit.packages), cdi="service")


def reboot_plan(request: Request, driver: DriverPlan, trail: Trail) -> RebootPlan:
    """Whether the machine must start anew before the cards can be used, and why."""
    found, why = request.host.driver, []
    if driver.source == "present":
        if _mismatch(request):
            why.append(
                f"module {found.module_version} is loaded, the libraries are "
                f"{found.library_version} (none where the module can be reloaded)"
            )
    elif not request.probed:
        why.append("nouveau drives the card on a fresh system (assumed)")
    else:
        if found.nouveau_bound:
            why.append("nouveau drives the card")
        if found.module_loaded:
            why.append(f"module {found.module_version} is loaded (none where it can be unloaded)")
    if driver.mok:
        why.append("the machine owner key is enrolled at the console during the reboot")
    if why:
        trail.fire("reboot", "; ".join(why))
    return RebootPlan(needed=bool(why), why=why)


def _mismatch(request: Request) -> bool:
    driver = request.host.driver
    versions = {driver.module_version, driver.library_version}
    return request.probed and None not in versions and len(versions) > 1
