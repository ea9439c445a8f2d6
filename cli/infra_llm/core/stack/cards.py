"""Which cards count, and what all of them have in common. Pure."""

from __future__ import annotations

import re

from infra_llm.core.hardware import Gpu
from infra_llm.core.stack.request import Card, RefusalError, Request, Trail, names
from infra_llm.core.stack.rules import StackRules, capability_of


def nvidia_cards(request: Request, trail: Trail) -> list[Card]:
    """The NVIDIA cards that this machine's driver must serve.

    Left out, each with its rule: other vendors' cards, display GPUs, cards of virtual machines.
    Raises RefusalError for a card whose compute capability is not known.
    """
    found = []
    for gpu in request.host.gpus:
        if gpu.kernel_driver == "vfio-pci":
            trail.fire("vfio", gpu.name)
        elif gpu.integrated and gpu.vendor != "nvidia":
            trail.fire("integrated", gpu.name)
        elif gpu.vendor in ("amd", "intel"):
            trail.fire(gpu.vendor, gpu.name)
        elif gpu.vendor == "nvidia":
            found.append(_card(gpu, request.rules))
    return found


def _card(gpu: Gpu, rules: StackRules) -> Card:
    capability = capability_of(gpu.compute_capability or "")
    generation = rules.generation(capability)
    if capability is None or generation is None:
        known = gpu.compute_capability or "unknown"
        raise RefusalError(
            "unknown-card",
            f"{gpu.name or gpu.pci_id}: compute capability {known} is not in the rules",
            [
                "add a row for the card to cli/infra_llm/data/gpus.json (docs/probe.md)",
                "add its generation to cli/infra_llm/data/stack.yml",
            ],
        )
    only_open = any(name in gpu.name for name in rules.open_only)
    modules = frozenset({"open"}) if only_open else frozenset(generation.modules)
    return Card(gpu, capability, generation, modules)


def common_modules(cards: list[Card], trail: Trail) -> set[str]:
    """The flavours that serve every card. Raises RefusalError where there is none."""
    proprietary = [card for card in cards if card.modules == {"proprietary"}]
    only_open = [card for card in cards if card.modules == {"open"}]
    if proprietary:
        trail.fire("open-from-turing", names(proprietary))
    if only_open:
        trail.fire("open-only-blackwell", names(only_open))
    if proprietary and only_open:
        raise RefusalError(
            "no-common-driver",
            f"no kernel modules serve both {names(proprietary)} and {names(only_open)}",
            _part_with(proprietary, only_open),
        )
    return set.intersection(*(set(card.modules) for card in cards))


def common_branches(cards: list[Card], trail: Trail) -> tuple[int, int | None]:
    """(first, last) branch that knows every card, None for no last one. Raises RefusalError."""
    for card in cards:
        trail.fire(card.generation.rule, card.text)
    newest = max(cards, key=lambda card: card.generation.first)
    ending = [card for card in cards if card.generation.last is not None]
    if not ending:
        return newest.generation.first, None
    oldest = min(ending, key=lambda card: card.generation.last or 0)
    first, last = newest.generation.first, oldest.generation.last or 0
    if first > last:
        raise RefusalError(
            "no-common-driver",
            f"no driver branch knows both {oldest.text} (last: {last}) and "
            f"{newest.text} (first: {first})",
            _part_with([oldest], [newest]),
        )
    return first, last


def _part_with(some: list[Card], others: list[Card]) -> list[str]:
    return [
        f"take {names(some)} out, or give it to a virtual machine (vfio-pci)",
        f"take {names(others)} out, or give it to a virtual machine (vfio-pci)",
        "put them into two machines",
    ]


def by_modules(gpus: list[Gpu], rules: StackRules) -> tuple[list[Gpu], list[Gpu]]:
    """(cards with proprietary modules only, cards with open modules only), for the findings."""
    proprietary, only_open = [], []
    for gpu in gpus:
        generation = rules.generation(capability_of(gpu.compute_capability or ""))
        if generation is None:
            continue
        if generation.modules == ["proprietary"]:
            proprietary.append(gpu)
        elif generation.modules == ["open"] or any(name in gpu.name for name in rules.open_only):
            only_open.append(gpu)
    return proprietary, only_open


def is_own_driver(gpu: Gpu, rules: StackRules) -> str:
    """The system that brings this machine's driver (JetPack, DGX OS); empty for none."""
    if not gpu.unified_memory:
        return ""
    found = (m.system for m in rules.own_driver if re.search(m.name, gpu.name))
    return next(found, "")
