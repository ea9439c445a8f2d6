"""The search: what fits, what is pinned, and that nothing better was left."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.descriptors import profile

from infra_llm.core.errors import InfraLlmError
from infra_llm.core.fit import FitWishes, choose_quant, llama_server_arguments, plan_launch
from infra_llm.core.fit.calibration import Calibration, Figure
from infra_llm.core.fit.llama_cpp.arguments import parse_arguments
from infra_llm.core.fit.llama_cpp.estimate import Machine, estimate
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.split import split_layers
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory, NumaNode
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan

FOLDER = Path(mkdtemp())
SMALL = "llama-2-7b.Q4_0"


@cache
def model(name: str) -> ModelProfile:
    return profile(name, FOLDER)


def machine(vram: list[int], ram: int = 65536, bandwidth: float = 500.0) -> HostHardware:
    return HostHardware(
        cpu=Cpu(cores=8, threads=16, usable_threads=16),
        memory=Memory(total_mib=ram),
        gpus=[
            Gpu(
                index=n,
                vendor="nvidia",
                name=f"card {n}",
                vram_total_mib=size,
                memory_bandwidth_gbs=bandwidth,
                compute_capability="8.6",
            )
            for n, size in enumerate(vram)
        ],
    )


quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(st.lists(st.integers(2000, 26000), max_size=3), st.integers(4000, 64000))
def test_a_plan_that_fits_never_exceeds_capacity(vram: list[int], ram: int) -> None:
    plan = plan_launch(machine(vram, ram), model(SMALL), FitWishes())
    entries = [*plan.devices, plan.host]
    assert plan.fits == all(entry.high_mib <= entry.capacity_mib for entry in entries)
    for entry in entries:
        parts = entry.weights_mib + entry.kv_cache_mib + entry.compute_mib + entry.overhead_mib
        assert entry.total_mib == pytest.approx(parts)
        assert entry.low_mib <= entry.total_mib <= entry.high_mib


@quick
@given(st.integers(2500, 20000), st.integers(0, 8000))
def test_more_memory_never_gives_a_worse_plan(size: int, more: int) -> None:
    less = plan_launch(machine([size]), model(SMALL), FitWishes(context=4096))
    larger = plan_launch(machine([size + more]), model(SMALL), FitWishes(context=4096))
    assert larger.fits >= less.fits
    # A finer cache type is worth up to 15 % of speed.
    finer = less.flags["cache_type_k"] == "q8_0" and larger.flags["cache_type_k"] == "f16"
    least = less.tokens_per_second.decode * (1 / 1.15 if finer else 0.999)
    assert larger.tokens_per_second.decode >= least
    assert larger.max_context >= less.max_context or larger.flags != less.flags


@quick
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "context": st.sampled_from([512, 4096, 12345]),
            "parallel": st.integers(1, 4),
            "kv_type": st.sampled_from(["f16", "q8_0", "q4_0"]),
            "gpu_layers": st.integers(0, 40),
            "threads": st.integers(1, 64),
            "ubatch": st.sampled_from([64, 512, 1024]),
            "flash_attention": st.booleans(),
        },
    )
)
def test_pinned_wishes_are_kept(wishes: dict[str, Any]) -> None:
    if wishes.get("flash_attention") is False and "kv_type" in wishes:
        wishes = {**wishes, "kv_type": "f16"}  # the engine wants flash attention for the others
    plan = plan_launch(machine([12000]), model(SMALL), FitWishes(**wishes))
    names = {
        "context": "ctx_size", "parallel": "parallel", "kv_type": "cache_type_k",
        "gpu_layers": "n_gpu_layers", "threads": "threads", "ubatch": "ubatch_size",
    }  # fmt: skip
    for wish, value in wishes.items():
        if wish == "flash_attention":
            assert plan.flags["flash_attn"] == ("on" if value else "off")
        else:
            assert plan.flags[names[wish]] == value


@pytest.mark.parametrize("size", [6000, 9000, 14000, 20000, 30000])
def test_no_layer_that_fits_is_left_on_the_host(size: int) -> None:
    large = model("qwen3-32b.Q4_K_M")
    host = machine([size])
    plan = plan_launch(host, large, FitWishes(kv_type="f16"))
    hyper = read_hyper(large)
    place = Machine(host, tuple(host.gpus))
    fitting = [
        layers
        for layers in range(hyper.layers_all + 2)
        if estimate(place, large, hyper, {**plan.flags, "n_gpu_layers": layers}).fits
    ]
    assert plan.flags["n_gpu_layers"] == max(fitting)


@quick
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=7),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), min_size=1, max_size=3),
)
def test_split_equals_brute_force(sizes: list[int], cards: list[tuple[int, int]]) -> None:
    capacity = [room for room, _ in cards]
    seconds = [[size * slowness / 100 for size in sizes] for _, slowness in cards]
    found = split_layers(sizes, seconds, capacity)
    best = None
    count, devices = len(sizes), len(cards)
    for cuts in combinations(range(count + devices - 1), devices - 1):
        edges = [-1, *cuts, count + devices - 1]
        counts = [edges[n + 1] - edges[n] - 1 for n in range(devices)]
        start, time, fits = 0, 0.0, True
        for device, number in enumerate(counts):
            fits &= sum(sizes[start : start + number]) <= capacity[device]
            time += sum(seconds[device][start : start + number])
            start += number
        if fits and (best is None or time < best):
            best = time
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        start, time = 0, 0.0
        for device, number in enumerate(found):
            time += sum(seconds[device][start : start + number])
            start += number
        assert start == count
        assert time == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(
    ("host_with", "pinned"),
    [
        (lambda ram: machine([], ram), {}),
        (lambda ram: machine([24576], ram), {"gpu_layers": 0}),
        (lambda vram: machine([vram]), {"gpu_layers": 20}),
    ],
    ids=["no GPU", "no layer on the GPU", "20 layers on the GPU"],
)
def test_a_smaller_cache_is_taken_where_the_wished_context_fits_no_other_way(
    host_with: Callable[[int], HostHardware], pinned: dict[str, Any]
) -> None:
    def plan_with(room: int, kind: str | None) -> LaunchPlan:
        wishes = FitWishes(context=4096, kv_type=kind, **pinned)
        return plan_launch(host_with(room), model(SMALL), wishes)

    def least(kind: str) -> int:
        return next(room for room in range(3072, 24576, 128) if plan_with(room, kind).fits)

    enough, tight = least("f16"), least("q8_0")
    assert tight + 256 < enough
    assert plan_with(enough, None).flags["cache_type_k"] == "f16"
    found = plan_with((enough + tight) // 2, None)
    assert found.fits
    assert (found.flags["cache_type_k"], found.flags["ctx_size"]) == ("q8_0", 4096)


def test_experts_stay_on_the_host_before_layers_do() -> None:
    plan = plan_launch(machine([12288]), model("qwen3-30b-a3b.Q4_K_M"), FitWishes())
    assert plan.fits
    assert plan.flags["n_gpu_layers"] == 49
    assert 0 < plan.flags["n_cpu_moe"] < 48


def test_the_honest_no_names_what_is_missing_and_what_would_fit() -> None:
    plan = plan_launch(machine([12288], ram=65536), model("llama-2-70b.F16"), FitWishes())
    assert not plan.fits
    assert "missing on the host" in plan.binding_constraint
    words = " ".join(alternative.change for alternative in plan.alternatives)
    assert "more memory on the host" in words
    assert "a smaller quant" in words
    assert 0 < plan.tokens_per_second.decode < 1


def test_a_minimum_speed_can_refuse() -> None:
    plan = plan_launch(machine([]), model("qwen3-32b.Q4_K_M"), FitWishes(minimum_decode=50.0))
    assert not plan.fits
    assert "tokens/s" in plan.binding_constraint


def test_the_plan_does_not_depend_on_what_is_free_now() -> None:
    one, other = machine([12288]), machine([12288])
    other.memory.available_mib = 100
    other.gpus[0].vram_free_mib = 3
    plans = [plan_launch(host, model(SMALL), FitWishes()) for host in (one, other)]
    assert plans[0].flags == plans[1].flags
    assert plans[1].warnings


def test_flags_come_back_from_their_arguments() -> None:
    plan = plan_launch(machine([9000, 7000]), model("qwen3-14b.Q4_K_M"), FitWishes(users=2))
    read = parse_arguments(llama_server_arguments(plan.flags))
    for name, value in plan.flags.items():
        if value is not False or name in {"mmap", "kv_unified"}:
            assert str(read[name]).replace(".0", "") == str(value).replace(".0", "")


@pytest.mark.parametrize(
    ("wishes", "word"),
    [
        (FitWishes(context=0), "context is 0"),
        (FitWishes(kv_type="q9"), "unknown cache type"),
        (FitWishes(kv_type="q8_0", flash_attention=False), "needs flash attention"),
        (FitWishes(engine_flags=("hello",)), "no engine flag"),
        (FitWishes(engine_flags=("-ot", "([=CPU")), "override"),
        (FitWishes(engine_flags=("--load-mode", "dio")), "load mode 'dio' is not planned for"),
        (FitWishes(engine_flags=("-lm",)), "needs a value"),
        (FitWishes(tensor_split=(1.0, 2.0)), "tensor split"),
    ],
)
def test_wishes_that_can_not_be_meant_are_refused(wishes: FitWishes, word: str) -> None:
    with pytest.raises(InfraLlmError, match=word):
        plan_launch(machine([12288]), model(SMALL), wishes)


def test_engine_flags_win_and_are_kept() -> None:
    flags = ("-ot", r"blk\.([0-9])\.ffn_.*_exps=CPU", "-b", "1024", "--no-mmap", "-c", "4096")
    plan = plan_launch(
        machine([24576]), model("mixtral-8x7b.Q4_K_M"), FitWishes(engine_flags=flags)
    )
    assert plan.flags["override_tensor"] == [r"blk\.([0-9])\.ffn_.*_exps=CPU"]
    assert (plan.flags["batch_size"], plan.flags["mmap"], plan.flags["ctx_size"]) == (
        1024,
        False,
        4096,
    )


@pytest.mark.parametrize(
    ("vram", "speed", "chosen"),
    [(24576, 45, "Q8_0"), (9000, 45, "Q8_0"), (7200, 45, "Q4_K_M"), (4800, 75, "Q4_0")],
)
def test_the_ladder_takes_the_best_quant_that_fits(vram: int, speed: float, chosen: str) -> None:
    files = [model(f"llama-2-7b.{quant}") for quant in ("Q4_0", "Q4_K_M", "Q8_0")]
    wishes = FitWishes(context=2048, minimum_decode=speed)
    place, plan = choose_quant(machine([vram]), files, wishes)
    assert (files[place].quant, plan.model.quant) == (chosen, chosen)
    assert len([a for a in plan.alternatives if a.change.startswith("quant")]) == 2


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ({"mmap": True, "mlock": False}, "mmap"),
        ({"mmap": True, "mlock": True}, "mmap+mlock"),
        ({"mmap": False, "mlock": True}, "mlock"),
        ({"mmap": False, "mlock": False}, "none"),
        ({"mlock": True}, "mmap+mlock"),
    ],
)
def test_the_load_mode_is_one_option_as_the_engine_spells_it(
    flags: dict[str, bool], mode: str
) -> None:
    arguments = llama_server_arguments(flags)
    assert arguments == ["--load-mode", mode]
    assert parse_arguments(arguments).items() >= flags.items()


def test_no_argument_of_a_plan_is_one_that_the_pinned_engine_does_not_know() -> None:
    plan = plan_launch(machine([9000, 7000]), model("qwen3-14b.Q4_K_M"), FitWishes())
    gone = {"--mmap", "--no-mmap", "--mlock", "--direct-io", "-dio"}
    assert not gone & set(llama_server_arguments(plan.flags))


NODES = [NumaNode(0, "0-7", 32768), NumaNode(1, "8-15", 32768)]


@pytest.mark.parametrize(
    ("vram", "nodes", "numa"),
    [
        ([], NODES, "distribute"),
        ([], NODES[:1], None),
        ([], [NODES[0], NumaNode(1, "", 65536)], None),  # memory without processors
        ([24576], NODES, None),  # the processor reads no weights
        ([4096], NODES, "distribute"),
    ],
)
def test_several_numa_nodes_matter_where_the_processor_reads_weights(
    vram: list[int], nodes: list[NumaNode], numa: str | None
) -> None:
    host = machine(vram)
    host.numa = nodes
    plan = plan_launch(host, model(SMALL), FitWishes())
    assert plan.flags.get("numa") == numa
    assert any("NUMA nodes" in reason.text for reason in plan.why) is bool(numa)
    pinned = plan_launch(host, model(SMALL), FitWishes(engine_flags=("--numa", "isolate")))
    assert pinned.flags["numa"] == "isolate"


def test_layers_go_where_measured_speed_says() -> None:
    """Two alike cards, one of which was measured to decode at half the speed."""
    host = machine([16384, 16384])
    slow = {"card 0": Calibration(decode=Figure(4, 0.5, 0.5, 0.5))}
    plans = [
        plan_launch(host, model("qwen3-14b.Q4_K_M"), FitWishes(context=8192), "llama.cpp", known)
        for known in ({}, slow)
    ]
    even, moved = (plan.flags["tensor_split"] for plan in plans)
    assert moved[0] < even[0]
