"""The golden table, rows of it by hand, and what no plan may ever be.

The figures here are written from the sources that data/stack.yml names, not taken from it.
"""

from __future__ import annotations

import pytest
from tests.unit.stack.golden import TABLE, planned, table

from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack import StackPlan, StackWishes
from infra_llm.core.stack.rules import version_of

SYSTEMS = ["debian12", "debian13", "ubuntu22.04", "ubuntu24.04", "rocky9", "rocky10"]
CUDA_DRIVER = {
    "11.8": 520,
    "12.0": 525,
    "12.2": 535,
    "12.3": 545,
    "12.4": 550,
    "12.5": 555,
    "12.6": 560,
    "12.8": 570,
    "12.9": 575,
    "13.0": 580,
    "13.1": 590,
    "13.2": 595,
    "13.3": 610,
    "13.4": 615,
}
"""The driver that each release came with (CUDA release notes)."""

Machines = dict[str, HostHardware]


def test_the_table_is_what_the_solver_plans(machines: Machines) -> None:
    assert table(machines) == TABLE.read_text(), "python -m tests.unit.stack.golden; read the diff"


# (machine, distribution, branch, modules, source, CUDA): Turing and later get the open modules of
# the long-term branch 580 with its CUDA 13.0; older cards the proprietary ones with CUDA 12.9.
# Debian 13 has no 580 from NVIDIA: 595 with CUDA 13.2, or Debian's own 550 with 12.4.
BY_HAND = [
    ("rtx3060", "debian12", "580", "open", "vendor", "13.0 toolkit"),
    ("rtx3060", "debian13", "595", "open", "vendor", "13.2 toolkit"),
    ("rtx3060", "ubuntu24.04", "580", "open", "present", "13.0 toolkit"),
    ("nouveau", "debian12", "580", "proprietary", "vendor", "12.9 toolkit"),
    ("nouveau", "debian13", "550", "proprietary", "distro", "12.4 toolkit"),
    ("nouveau", "rocky9", "580", "proprietary", "vendor", "12.9 toolkit"),
    ("p100x4", "ubuntu22.04", "580", "proprietary", "present", "12.9 toolkit"),
    ("dgx1-v100", "ubuntu22.04", "535", "proprietary", "present", "12.2 toolkit"),
    ("dgx1-v100", "ubuntu24.04", "580", "proprietary", "vendor", "12.9 toolkit"),
    ("rtx3080-v100", "rocky9", "580", "proprietary", "vendor", "12.9 toolkit"),
    ("no-driver-rtx5060ti", "ubuntu24.04", "580", "open", "vendor", "13.0 toolkit"),
    ("rtx5090", "rocky9", "580", "open", "vendor", "13.0 toolkit"),
    ("b200x8", "debian13", "595", "open", "vendor", "13.2 toolkit"),
    ("h100x8", "ubuntu22.04", "570", "open", "present", "12.8 toolkit"),
    ("gh200", "debian12", "580", "open", "vendor", "13.0 toolkit"),
    ("secure-boot", "ubuntu24.04", "580", "open", "distro", "12.0 toolkit"),
    ("intel-igpu-rtx3060", "debian12", "535", "proprietary", "present", "11.8 toolkit"),
    ("gb10", "ubuntu24.04", "580", "open", "present", "none"),
]


@pytest.mark.parametrize(("name", "system", "branch", "modules", "source", "cuda"), BY_HAND)
def test_well_known_machines(
    machines: Machines, name: str, system: str, branch: str, modules: str, source: str, cuda: str
) -> None:
    plan = planned(machines[name], system)
    assert plan.driver is not None
    found = (plan.driver.branch, plan.driver.modules, plan.driver.source)
    assert found == (branch, modules, source)
    assert f"{plan.cuda.version} {plan.cuda.kind}".strip() == cuda


def test_nothing_compiles_for_old_cards_on_el_10(machines: Machines) -> None:
    """NVIDIA's repository for it begins with CUDA 13, and no index has CUDA 12's compiler."""
    for name in ("nouveau", "p100x4", "dgx1-v100"):
        plan = planned(machines[name], "rocky10")
        assert (plan.refused, plan.rules[-1].id) == (True, "no-toolkit"), name
        assert any("ollama" in way for way in plan.ways_out)
        assert any("EL 9" in way for way in plan.ways_out)


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_nvidia_card_no_stack(machines: Machines, system: str) -> None:
    for name in ("cpu-only", "mi300x8", "arc-b580", "strix-halo", "host-vfio"):
        plan = planned(machines[name], system)
        assert (plan.refused, plan.driver, plan.cuda.kind) == (False, None, "none"), name
        assert plan.repositories == [], name


def test_only_a_branch_without_fixes_is_said_to_have_ended(machines: Machines) -> None:
    ended = {
        name: "present-end-of-life"
        in {rule.id for rule in planned(machines[name], "ubuntu22.04").rules}
        for name in ("p100x4", "rtx4090x8", "h100x8", "a40x2")
    }
    assert ended == {"p100x4": False, "rtx4090x8": True, "h100x8": True, "a40x2": True}


def cards(host: HostHardware) -> list[tuple[int, int]]:
    return [
        version_of(gpu.compute_capability)
        for gpu in host.gpus
        if gpu.vendor == "nvidia" and gpu.kernel_driver != "vfio-pci" and gpu.compute_capability
    ]


def check_invariants(host: HostHardware, plan: StackPlan) -> None:
    """What holds for every plan, whatever the rules say."""
    sources = [rule.source for rule in plan.rules]
    assert all(sources) and all(rule.date and rule.text for rule in plan.rules)
    if plan.refused:
        assert plan.reason and plan.ways_out and plan.rules
        assert plan.driver is None and plan.cuda.kind == "none" and not plan.repositories
        return
    found = cards(host)
    if plan.driver is None:
        assert not found
        return
    driver = plan.driver
    assert plan.architectures == [f"{a}{b}" for a, b in sorted(set(found))]
    if min(found) < (7, 5):
        assert driver.modules == "proprietary"
        assert not plan.cuda.version.startswith("13")
        assert not driver.branch or int(driver.branch) <= 580
    if max(found) >= (10, 0):
        assert driver.modules == "open"
        assert not driver.branch or int(driver.branch) >= 570
        assert plan.cuda.kind == "none" or version_of(plan.cuda.version) >= (12, 8)
    if plan.cuda.version and "cuda-minor" not in {rule.id for rule in plan.rules}:
        assert int(driver.branch) >= CUDA_DRIVER[plan.cuda.version]
    if driver.source != "present":
        assert driver.packages and driver.pinned
        assert driver.conflicts or plan.os.startswith("rocky")
        assert all("{" not in name for name in [*driver.packages, *driver.headers])
    for repository in plan.repositories:
        if repository.url and repository.name != "nvidia-cuda":
            assert len(repository.key_fingerprint) == 40
    assert len({r.name for r in plan.repositories}) == len(plan.repositories)


@pytest.mark.parametrize("system", SYSTEMS)
def test_invariants_of_every_machine_and_engine(machines: Machines, system: str) -> None:
    for engine in ("llama.cpp", "vllm", "ollama"):
        for container in ("none", "docker"):
            wishes = StackWishes(engines=(engine,), container_engine=container)
            for name, host in machines.items():
                plan = planned(host, system, wishes)
                check_invariants(host, plan)
                assert (plan.container is not None) == (
                    container == "docker" and plan.driver is not None
                ), name
                if engine != "llama.cpp":
                    assert plan.cuda.kind == "none", name


def test_fabric_manager_exactly_on_boards_with_nvswitches(machines: Machines) -> None:
    boards = {"a100x8", "h100x8", "h200x8", "b200x8"}
    for name, host in machines.items():
        for system in SYSTEMS:
            assert planned(host, system).fabric_manager == (name in boards), (name, system)


def test_fabric_manager_has_the_drivers_version(machines: Machines) -> None:
    kept = planned(machines["a100x8"], "ubuntu22.04").driver
    assert kept is not None
    assert (kept.packages, kept.pin) == (["nvidia-fabricmanager-550"], "550.54.15*")
    assert planned(machines["h100x8"], "ubuntu22.04").driver.packages == []  # type: ignore[union-attr]
    fresh = planned(machines["h100x8"], "debian13").driver
    assert fresh is not None
    assert "nvidia-fabricmanager" in fresh.packages and fresh.pin == "595.*"
    blackwell = planned(machines["b200x8"], "ubuntu24.04").driver
    assert blackwell is not None
    assert {"nvidia-fabricmanager-580", "nvlsm"} <= set(blackwell.packages)
