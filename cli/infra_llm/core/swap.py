"""Another GPU in a host that was planned before: which card became which. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.decide import Change
from infra_llm.core.errors import DoesNotFitError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import DeviceMemory, LaunchPlan

_MIB = 1024
NONE = "none"


def card_changes(before: HostHardware, after: HostHardware) -> dict[str, str]:
    """PCI address -> "RTX 3060 12 GiB -> RTX 4090 24 GiB", of the cards that are others now."""
    old, new = _cards(before), _cards(after)
    found = {}
    for address in sorted({*old, *new}):
        one, other = old.get(address, NONE), new.get(address, NONE)
        if one != other:
            found[address] = f"{one} -> {other}"
    return found


def named_cards(
    changes: Sequence[Change], before: HostHardware, after: HostHardware
) -> list[Change]:
    """The changes with cards by their names in place of their PCI ids."""
    cards = card_changes(before, after)
    named: list[Change] = []
    for change in changes:
        kind, _, rest = change.text.removeprefix("hardware: ").partition(":")
        address = rest.split(" ")[0]
        if not change.text.startswith("hardware: gpu") or address not in cards:
            named.append(change)
        elif kind == "gpu":
            named.append(replace(change, text=f"hardware: GPU {address}: {cards[address]}"))
    return named


def does_not_fit_after(
    error: DoesNotFitError, state: Mapping[str, Any], hardware: HostHardware
) -> DoesNotFitError:
    """The same, with the cards that are others than `state` knows, and what becomes of the host."""
    if not state.get("hardware"):
        return error
    cards = card_changes(from_dict(HostHardware, state["hardware"]), hardware)
    if not cards:
        return error
    words = "; ".join(f"GPU {address}: {text}" for address, text in cards.items())
    return DoesNotFitError(
        f"{words}. {error.what}. The host keeps what it has, and does not start on this hardware",
        where=error.where,
        hint=error.hint,
    )


def plan_rows(before: LaunchPlan, after: LaunchPlan) -> list[tuple[str, str, str]]:
    """(what, before, after) of every figure of two plans that a person compares."""
    rows = [("model", before.model.name, after.model.name)]
    rows += [("memory", _memory(before), _memory(after))]
    names = [name for name in after.flags if name in before.flags or after.flags[name]]
    names += [name for name in before.flags if name not in after.flags]
    for name in names:
        pair = tuple(_shown(plan.flags.get(name)) for plan in (before, after))
        if pair[0] != pair[1]:
            rows.append((name.replace("_", "-"), pair[0], pair[1]))
    speeds = [f"{plan.tokens_per_second.decode:.1f} tokens/s" for plan in (before, after)]
    rows.append(("decode", speeds[0], speeds[1]))
    rows.append(("largest context", f"{before.max_context:,}", f"{after.max_context:,}"))
    return [row for row in rows if row[1] or row[2]]


def _cards(host: HostHardware) -> dict[str, str]:
    found = {}
    for gpu in host.gpus:
        if gpu.pci_address and not gpu.integrated:
            size = f" {round(gpu.vram_total_mib / _MIB)} GiB" if gpu.vram_total_mib else ""
            found[gpu.pci_address] = f"{gpu.name or gpu.pci_id}{size}"
    return found


def _memory(plan: LaunchPlan) -> str:
    return "; ".join(_row(entry) for entry in [*plan.devices, plan.host])


def _row(entry: DeviceMemory) -> str:
    return f"{entry.name} {entry.total_mib:,.0f} of {entry.capacity_mib:,.0f} MiB"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return ", ".join(str(item) for item in value)
    return "-" if value is None else str(value)
