"""Another card is named old and new; two plans stand side by side."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from tests import samples

from infra_llm.core.decide import Change
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import DeviceMemory, LaunchPlan, PlannedModel, TokensPerSecond
from infra_llm.core.swap import card_changes, named_cards, plan_rows
from infra_llm.report.plan_table import print_comparison

RTX4090: dict[str, Any] = {"name": "NVIDIA GeForce RTX 4090", "vram_total_mib": 24564}


def machine(*cards: dict[str, Any]) -> HostHardware:
    return samples.hardware(gpus=[samples.nvidia(**card) for card in cards])


def test_a_card_is_named_old_and_new() -> None:
    assert card_changes(machine({}), machine(RTX4090)) == {
        "0000:01:00.0": "NVIDIA GeForce RTX 3060 12 GiB -> NVIDIA GeForce RTX 4090 24 GiB"
    }
    assert card_changes(machine({}), machine()) == {
        "0000:01:00.0": "NVIDIA GeForce RTX 3060 12 GiB -> none"
    }
    second = {"pci_address": "0000:02:00.0"}
    assert list(card_changes(machine({}), machine({}, second))) == ["0000:02:00.0"]
    assert card_changes(machine({}), machine({})) == {}


def test_a_display_in_the_processor_is_no_card() -> None:
    assert card_changes(machine(), machine({"integrated": True})) == {}


def test_changes_say_names_in_place_of_ids_and_once() -> None:
    changes = [
        Change("llm_service", "hardware: gpu:0000:01:00.0 10de:2504 1458:4096 -> 10de:2684"),
        Change("llm_verify", "hardware: gpu_identity:0000:01:00.0 GPU-1 x -> GPU-2 y"),
        Change("llm_service", "hardware: memory 64 GiB -> 128 GiB"),
        Change("llm_service", "flags.n_gpu_layers 20 -> 33"),
    ]
    named = named_cards(changes, machine({}), machine(RTX4090))
    assert [change.text for change in named] == [
        "hardware: GPU 0000:01:00.0: NVIDIA GeForce RTX 3060 12 GiB -> "
        "NVIDIA GeForce RTX 4090 24 GiB",
        "hardware: memory 64 GiB -> 128 GiB",
        "flags.n_gpu_layers 20 -> 33",
    ]
    assert named[0].role == "llm_service"


def test_another_card_of_the_same_kind_keeps_its_own_words() -> None:
    changes = [Change("llm_verify", "hardware: gpu_identity:0000:01:00.0 GPU-1 -> GPU-2")]
    assert named_cards(changes, machine({}), machine({})) == changes


def plan(layers: int, card: str, speed: float) -> LaunchPlan:
    return LaunchPlan(
        engine="llama.cpp",
        fits=True,
        model=PlannedModel(name="Llama 3 8B"),
        flags={"n_gpu_layers": layers, "ctx_size": 8192},
        devices=[DeviceMemory(card, total_mib=5000, capacity_mib=12000)],
        host=DeviceMemory("host", total_mib=900, capacity_mib=64000),
        tokens_per_second=TokensPerSecond(decode=speed),
        max_context=8192,
    )


def test_plans_are_compared_by_what_differs() -> None:
    rows = plan_rows(plan(20, "RTX 3060", 31.0), plan(33, "RTX 4090", 99.5))
    assert ("n-gpu-layers", "20", "33") in rows
    assert ("decode", "31.0 tokens/s", "99.5 tokens/s") in rows
    assert not any(row[0] == "ctx-size" for row in rows)
    memory = next(row for row in rows if row[0] == "memory")
    assert memory[1].startswith("RTX 3060 5,000 of 12,000 MiB; host")


def test_they_stand_side_by_side() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_comparison(plan(20, "RTX 3060", 31.0), plan(33, "RTX 4090", 99.5), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = [line for line in text.splitlines() if "n-gpu-layers" in line]
    assert line.split() == ["n-gpu-layers", "20", "33"]
    assert "before" in text.splitlines()[0]
