"""What the launcher compares before it starts an engine says the same as the probe does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.standins import machine as standin
from tests.unit.probe.conftest import Prober

from infra_llm.target.probe import identity as module
from infra_llm.target.probe.identity import differences, identity

PLANNED = {
    "cpu": "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz 2x16/64 x86_64",
    "memory": "64 GiB",
    "gpu:0000:01:00.0": "10de:2504 1458:4096",
    "gpu_identity:0000:01:00.0": "GPU-1 NVIDIA GeForce RTX 3060 12 GiB",
    "system": "debian 12",
    "all": "aaaa",
}
FOUND = {
    "cpu": "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz",
    "memory": "64 GiB",
    "gpu:0000:01:00.0": "10de:2504 1458:4096",
}


@pytest.mark.parametrize("name", standin.names())
def test_a_machine_is_the_one_that_the_probe_saw(
    name: str, probe_machine: Prober, tmp_path: Path
) -> None:
    machine = standin.load(name)
    hangs = "hang" in machine.get("faults", {})
    planned = probe_machine(machine, timeout_s=1.0 if hangs else 20.0).fingerprint
    (root,) = (path for path in tmp_path.iterdir() if path.name.startswith("root"))
    assert differences(planned, identity(str(root))) == []


def test_other_cards_are_named_old_and_new(probe_machine: Prober, tmp_path: Path) -> None:
    planned = probe_machine("rtx3060").fingerprint
    probe_machine("rtx4090")
    roots = sorted(path for path in tmp_path.iterdir() if path.name.startswith("root"))
    (text,) = (t for t in differences(planned, identity(str(roots[-1]))) if t.startswith("gpu:"))
    assert "10de:2504" in text or "10de:2487" in text
    assert "10de:2684" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": "32 GiB"}, ["memory 64 GiB -> 32 GiB"]),
        ({"cpu": "AMD EPYC 7543"}, [f"cpu {PLANNED['cpu']} -> AMD EPYC 7543"]),
        (
            {"gpu:0000:01:00.0": "10de:2684 1458:40bf"},
            ["gpu:0000:01:00.0 10de:2504 1458:4096 -> 10de:2684 1458:40bf"],
        ),
        (
            {"gpu:0000:02:00.0": "10de:2684"},
            ["gpu:0000:02:00.0 none -> 10de:2684"],
        ),
        ({}, []),
    ],
)
def test_what_differs_is_said(change: dict[str, str], words: list[str]) -> None:
    assert differences(PLANNED, FOUND | change) == words


def test_a_card_that_is_gone_is_missed_unless_sysfs_is_masked() -> None:
    found = {name: text for name, text in FOUND.items() if not name.startswith("gpu")}
    assert differences(PLANNED, found) == []
    assert differences(PLANNED, found | {"gpus": "none"}) == [
        "gpu:0000:01:00.0 10de:2504 1458:4096 -> none"
    ]


@pytest.mark.parametrize("planned", [{}, {"cpu": ""}, {"gpu:GPU-uuid-of-a-jetson": "Orin"}])
def test_what_a_plan_does_not_know_is_not_compared(planned: dict[str, str]) -> None:
    assert differences(planned, {"cpu": "any", "memory": "8 GiB"}) == []


def test_it_is_whole_in_itself() -> None:
    """The role copies this one file."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert all(node.level == 0 for node in imports)
    assert {node.module for node in imports} <= {"__future__", "typing"}
