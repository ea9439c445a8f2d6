"""What verified runs measured corrects the next plan."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.descriptors import profile

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.calibration import (
    Calibration,
    Figure,
    build_of,
    merge,
    merge_all,
    observe,
    select,
)
from infra_llm.core.fit.llama_cpp.estimate import Estimate, Machine, estimate
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import DeviceMemory, LaunchPlan

FOLDER = Path(mkdtemp())
BUILD = "wheel-2026.10.11549"
HOST = "cpu x86_64 with nvidia"
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def model(name: str = "llama-2-7b.Q4_0") -> ModelProfile:
    return profile(name, FOLDER)


def machine(*names: str, vram: int = 12288) -> HostHardware:
    return HostHardware(
        gpus=[
            Gpu(
                index=number,
                vendor="nvidia",
                name=name,
                pci_address=f"0000:0{number}:00.0",
                vram_total_mib=vram,
                memory_bandwidth_gbs=500,
                compute_capability="8.6",
            )
            for number, name in enumerate(names)
        ],
        memory=Memory(total_mib=65536),
        cpu=Cpu(architecture="x86_64", cores=8, threads=8, usable_threads=8),
    )


def again(
    host: HostHardware, plan: LaunchPlan, known: dict[str, Calibration], **flags: Any
) -> Estimate:
    """The same launch, estimated with what is known."""
    place = Machine(host, tuple(host.gpus), known)
    return estimate(place, model(), read_hyper(model()), {**plan.flags, **flags})


def run_of(
    host: HostHardware, plan: LaunchPlan, *, driver: float, process: float, ratio: float
) -> dict[str, Any]:
    """What verify_endpoint answers where so much lies outside of the buffers (MiB)."""

    def buffers(row: DeviceMemory) -> float:
        """As the engine logs them, laid out for the largest graph."""
        return (row.compute_mib + row.untouched_mib - row.compute_correction_mib) * ratio

    def used(row: DeviceMemory) -> float:
        return row.weights_mib + row.kv_cache_mib + buffers(row) - row.untouched_mib

    devices = {f"CUDA{n}": {"compute": buffers(row)} for n, row in enumerate(plan.devices)}
    name = "CUDA_Host" if plan.devices else "CPU"
    held = [
        {"name": gpu.name, "pci_address": gpu.pci_address, "used_mib": used(row) + driver}
        for gpu, row in zip(host.gpus, plan.devices, strict=True)
    ]
    return {
        "memory": {"rss_mib": used(plan.host) + process},
        # The driver may list them in any order.
        "gpu_memory": held[::-1],
        "engine": {
            "devices": {**devices, name: {"compute": buffers(plan.host)}, "CPU_Mapped": {}},
            "layers_offloaded": 33,
            "layers_total": 33,
        },
        "speed": None,
    }


def learn(host: HostHardware, plan: LaunchPlan, measured: dict[str, Any]) -> dict[str, Calibration]:
    return select(observe(plan, measured, host, BUILD), "llama", [BUILD])


# -- one run and the next plan ---------------------------------------------------


@quick
@given(
    st.lists(st.sampled_from(["one", "other"]), max_size=3, unique=True),
    st.floats(60, 900),
    st.floats(25, 130),
    st.floats(0.6, 1.6),
)
def test_the_same_launch_is_then_predicted_as_it_was_measured(
    names: list[str], driver: float, process: float, ratio: float
) -> None:
    host = machine(*names)
    plan = plan_launch(host, model(), FitWishes(context=4096))
    measured = run_of(host, plan, driver=driver, process=process, ratio=ratio)
    known = learn(host, plan, measured)
    found = again(host, plan, known)
    assert found.host.total_mib == pytest.approx(measured["memory"]["rss_mib"], abs=1)
    held = {gpu["name"]: gpu["used_mib"] for gpu in measured["gpu_memory"]}
    for row in found.devices:
        if row.total_mib:
            assert row.total_mib == pytest.approx(held[row.name], abs=1)
    # A run under the corrected plan teaches the same: corrections don't add up.
    corrected = LaunchPlan("llama.cpp", True, plan.model, plan.flags, found.devices, found.host)
    for name, second in learn(host, corrected, measured).items():
        assert second.overhead and known[name].overhead
        assert second.overhead.mean == pytest.approx(known[name].overhead.mean, abs=0.01)
        assert second.compute["on"].mean == pytest.approx(known[name].compute["on"].mean)


figures = st.builds(
    lambda count, values: Figure(count, sorted(values)[1], min(values), max(values)),
    st.integers(1, 50),
    st.tuples(*[st.floats(-300, 900)] * 3),
)
ratios = st.builds(
    lambda count, values: Figure(count, sorted(values)[1], min(values), max(values)),
    st.integers(1, 50),
    st.tuples(*[st.floats(0.5, 2)] * 3),
)
calibrations = st.builds(
    Calibration,
    overhead=st.none() | figures,
    compute=st.dictionaries(st.sampled_from(["on", "off"]), ratios),
    decode=st.none() | ratios,
)


@quick
@given(
    st.dictionaries(st.sampled_from(["one", "other", HOST]), calibrations),
    st.integers(3000, 12000),
)
def test_bounds_hold_and_no_plan_exceeds_capacity(known: dict[str, Calibration], vram: int) -> None:
    plan = plan_launch(machine("one", "other", vram=vram), model(), FitWishes(), "llama.cpp", known)
    rows = [*plan.devices, plan.host]
    assert plan.fits == all(row.high_mib <= row.capacity_mib for row in rows)
    for row in rows:
        parts = row.weights_mib + row.kv_cache_mib + row.compute_mib + row.overhead_mib
        assert row.total_mib == pytest.approx(parts)
        assert row.low_mib <= row.total_mib <= row.high_mib
        assert row.overhead_mib >= 0
    speed = plan.tokens_per_second
    assert speed.low <= speed.decode <= speed.high


def test_runs_that_agree_narrow_the_bounds_and_those_that_differ_keep_them_open() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    widths = []
    known: dict[str, Calibration] = {}
    for _ in range(3):
        row = again(host, plan, known).devices[0]
        widths.append(row.high_mib - row.low_mib)
        seen = learn(host, plan, run_of(host, plan, driver=400, process=40, ratio=1))
        known = merge_all(known, seen)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[1] > widths[2]
    low = learn(host, plan, run_of(host, plan, driver=100, process=40, ratio=1))
    row = again(host, plan, merge_all(known, low)).devices[0]
    assert row.low_mib <= row.total_mib - row.overhead_mib + 100
    assert row.high_mib >= row.total_mib - row.overhead_mib + 400


def test_a_larger_driver_leaves_fewer_layers_on_a_full_card() -> None:
    host = machine("one", vram=4096)
    before = plan_launch(host, model(), FitWishes(context=4096))
    known = {"one": Calibration(overhead=Figure(9, 600, 600, 600))}
    after = plan_launch(host, model(), FitWishes(context=4096), "llama.cpp", known)
    assert after.fits
    assert after.flags["n_gpu_layers"] < before.flags["n_gpu_layers"]


def test_plans_with_and_without_are_not_mistaken_for_each_other() -> None:
    host, wishes = machine("one"), FitWishes(context=4096)
    plain = plan_launch(host, model(), wishes)
    known = {"one": Calibration(overhead=Figure(2, 151, 140, 162))}
    corrected = plan_launch(host, model(), wishes, "llama.cpp", known)
    assert corrected.devices[0].overhead_mib == plain.devices[0].overhead_mib + 151
    assert plan_launch(host, model(), wishes) == plain
    assert plan_launch(host, model(), wishes, "llama.cpp", known) == corrected
    words = [(reason.text, reason.source) for reason in corrected.why]
    assert any(t.startswith("calibrated: 2 runs on one:") and s == "calibrated" for t, s in words)
    assert not any(text.startswith("driver:") for text, _ in words)
    assert not any(reason.text.startswith("calibrated:") for reason in plain.why)


def test_a_ratio_without_flash_attention_says_nothing_about_plans_with_it() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    known = {"one": Calibration(compute={"off": Figure(1, 1.5, 1.5, 1.5)})}
    plain, corrected = again(host, plan, {}), again(host, plan, known)
    assert corrected.devices[0] == plain.devices[0]
    off = {"flash_attn": "off"}
    plain, corrected = again(host, plan, {}, **off), again(host, plan, known, **off)
    expected = plain.devices[0].compute_mib * 1.5
    assert corrected.devices[0].compute_mib == pytest.approx(expected)


def test_measured_speed_scales_the_prediction_and_narrows_it() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    before = plan.tokens_per_second
    measured = run_of(host, plan, driver=300, process=40, ratio=1)
    measured["speed"] = {"decode_tokens_per_second": before.decode * 0.9}
    known = learn(host, plan, measured)
    after = again(host, plan, known).speed
    assert after.decode == pytest.approx(before.decode * 0.9, rel=0.01)
    assert after.high - after.low < before.high - before.low
    measured["engine"]["layers_offloaded"] = 20  # the host did a part
    assert learn(host, plan, measured)["one"].decode is None


# -- what is not applied ---------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"driver": 9000}, {"driver": -200}, {"ratio": 2.5}, {"ratio": 0.3}]
)
def test_the_absurd_is_kept_apart(changes: dict[str, float]) -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    usual = {"driver": 300.0, "process": 40.0, "ratio": 1.0}
    known = learn(host, plan, run_of(host, plan, **(usual | changes)))
    assert known["one"].runs == 0
    assert len(known["one"].apart) == 1
    assert again(host, plan, known).devices == plan.devices


def test_only_the_last_absurd_ones_are_kept() -> None:
    known = Calibration()
    for number in range(20):
        known = merge(known, Calibration(apart=(f"run {number}",)))
    assert known.apart[-1] == "run 19"
    assert len(known.apart) < 10


@pytest.mark.parametrize(
    ("architecture", "builds", "found"),
    [
        ("llama", [BUILD], 1),
        ("llama", ["release-b11194", BUILD], 1),
        ("llama", ["release-b11194"], 0),
        ("lla", [BUILD], 0),
        ("qwen3", [BUILD], 0),
    ],
)
def test_only_the_same_architecture_and_build_count(
    architecture: str, builds: list[str], found: int
) -> None:
    kept = {f"llama|{BUILD}|one": Calibration(overhead=Figure(1, 5, 5, 5))}
    assert len(select(kept, architecture, builds)) == found


def test_another_card_is_not_corrected() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    known = {"other": Calibration(overhead=Figure(1, 151, 151, 151))}
    assert again(host, plan, known).devices == plan.devices


@pytest.mark.parametrize(
    "measured",
    [{}, {"memory": None, "gpu_memory": None, "engine": None, "speed": None}, {"engine": {}}],
)
def test_nothing_measured_teaches_nothing(measured: dict[str, Any]) -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    assert observe(plan, measured, host, BUILD) == {}
    run = run_of(host, plan, driver=300, process=40, ratio=1)
    assert observe(plan, run, machine(), BUILD) == {}
    plan.engine = "vllm"
    assert observe(plan, run, host, BUILD) == {}


def test_a_prompt_cache_is_no_overhead_of_the_process() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(engine_flags=("--cache-ram", "512")))
    run = run_of(host, plan, driver=300, process=90, ratio=1)
    known = learn(host, plan, run)
    assert known[HOST].overhead is None
    assert known["one"].overhead is not None


def test_a_gpu_that_the_driver_says_nothing_about_teaches_its_buffers_alone() -> None:
    host = machine("one")
    plan = plan_launch(host, model(), FitWishes(context=4096))
    measured = run_of(host, plan, driver=300, process=40, ratio=1.2)
    measured["gpu_memory"][0]["used_mib"] = None
    known = learn(host, plan, measured)["one"]
    assert known.overhead is None
    assert known.compute["on"].mean == pytest.approx(1.2)


# -- figures ---------------------------------------------------------------------


def test_figures_run_on_as_means_with_their_range() -> None:
    runs = [Calibration(overhead=Figure(1, value, value, value)) for value in (1.0, 2.0, 6.0)]
    one, two, three = runs
    assert merge(merge(one, two), three).overhead == Figure(3, 3.0, 1.0, 6.0)
    assert merge(three, merge(two, one)) == merge(merge(one, two), three)
    assert merge(Calibration(), one) == one


@pytest.mark.parametrize(
    "values", [(0, 1, 1, 1), (1, 2, 3, 4), (1, 5, 3, 4), (1, float("nan"), 0, 1), (1, 1, 0, 1e999)]
)
def test_impossible_figures_are_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(BadInputError):
        Figure(*values)


def test_a_build_is_its_release_without_the_hash() -> None:
    assert build_of("wheel-2026.10.11549-1a2b3c4d") == BUILD
    assert build_of("") == ""
