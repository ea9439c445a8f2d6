"""Limits of a service come from its plan: enough for the high bound, never unlimited by mistake."""

from __future__ import annotations

import pytest
from tests import samples

from infra_llm.core.engines import ENGINES, ServiceNeeds
from infra_llm.core.layout import LAYOUT
from infra_llm.core.plan import DeviceMemory, LaunchPlan
from infra_llm.core.service import memory_limits, start_seconds, unit_settings


def plan(host_mib: float = 1000.0, devices: int = 0, **flags: object) -> LaunchPlan:
    return LaunchPlan(
        engine="llama.cpp",
        fits=True,
        flags=dict(flags),
        host=DeviceMemory("host", total_mib=host_mib * 0.9, high_mib=host_mib),
        devices=[DeviceMemory(f"GPU {n}", high_mib=5000.0) for n in range(devices)],
    )


def settings(planned: LaunchPlan, gpus: list[str], **needs: object) -> dict[str, object]:
    wanted = ServiceNeeds(**needs)  # type: ignore[arg-type]
    cards = [samples.nvidia(vendor=vendor) for vendor in gpus]
    return unit_settings(planned, 100.0, wanted, cards, LAYOUT)


def test_memory_is_the_high_bound_a_tenth_and_the_margin() -> None:
    limits = memory_limits(plan(1000.0), ServiceNeeds(margin_mib=500))
    assert limits == {"memory_high_mib": 1350, "memory_max_mib": 1600}


def test_a_plan_without_figures_sets_no_limit() -> None:
    assert set(memory_limits(plan(0.0), ServiceNeeds()).values()) == {None}


def test_what_gpus_take_of_unified_memory_counts() -> None:
    apart = memory_limits(plan(devices=1), ServiceNeeds())["memory_max_mib"]
    shared = memory_limits(plan(devices=1), ServiceNeeds(), unified=True)["memory_max_mib"]
    assert apart is not None and shared is not None
    assert shared - apart == pytest.approx(5500, abs=1)


def test_a_start_is_given_the_time_of_its_model() -> None:
    assert start_seconds(100, ServiceNeeds()) == 64
    # 140 GB from a disk that reads 25 MiB/s takes an hour and a half.
    assert start_seconds(140_000, ServiceNeeds()) > 5400
    assert start_seconds(100, ServiceNeeds(start_seconds=300)) == 364


def test_a_host_without_gpus_gets_no_device() -> None:
    found = settings(plan(), [])
    assert (found["devices"], found["groups"], found["exec_memory"]) == ([], [], False)
    # Cards that the plan does not use stay closed, too.
    assert settings(plan(), ["nvidia"])["devices"] == []


@pytest.mark.parametrize(
    ("vendor", "device", "group"),
    [
        ("nvidia", "char-nvidia*", None),
        ("amd", "char-kfd", "render"),
        ("intel", "char-drm", "video"),
    ],
)
def test_gpus_open_their_own_devices(vendor: str, device: str, group: str | None) -> None:
    found = settings(plan(devices=1), [vendor])
    assert device in found["devices"]  # type: ignore[operator]
    assert group is None or group in found["groups"]  # type: ignore[operator]
    assert found["exec_memory"] is True


def test_folders_to_write_are_those_of_the_layout() -> None:
    assert settings(plan(), [], writable=("models",))["writable"] == ["/var/lib/infra-llm/models"]


def test_locked_memory_is_allowed_where_the_plan_locks() -> None:
    assert settings(plan(mlock=True), [])["lock_memory"] is True
    assert settings(plan(mlock=False), [])["lock_memory"] is False


@pytest.mark.parametrize("engine", list(ENGINES.values()), ids=list(ENGINES))
def test_every_engine_writes_only_to_folders_of_the_layout(engine: object) -> None:
    assert set(engine.needs.writable) <= set(LAYOUT)  # type: ignore[attr-defined]
