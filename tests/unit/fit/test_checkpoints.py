"""Context checkpoints: what a slot copies to the heap to go back to, by the engine's own log."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.llama_cpp.cache import CacheOptions, checkpoint_bytes
from infra_llm.core.fit.llama_cpp.hyper import Hyper, read_hyper
from infra_llm.core.hardware import Cpu, HostHardware, Memory

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def gemma_270m() -> Hyper:
    """The shape of Gemma 3 270M: 15 window layers of 18, one head of 256 for K and V."""
    windowed = tuple(layer % 6 != 5 for layer in range(18))
    return Hyper(
        architecture="gemma3",
        layers=18,
        layers_all=18,
        embedding=640,
        vocab=262144,
        context=32768,
        heads=(4,) * 18,
        heads_kv=(1,) * 18,
        head_k=256,
        head_v=256,
        k_width=(256,) * 18,
        v_width=(256,) * 18,
        caches=(True,) * 18,
        windowed=windowed,
        window=512,
        recurrent=(False,) * 18,
        state_r=0,
        state_s=0,
        mla=False,
        experts=0,
        experts_used=0,
        feed_forward=2048,
        expert_feed_forward=0,
    )


@pytest.mark.parametrize(("tokens", "mib"), [(1, 0.015), (26, 0.382)])
def test_the_size_is_the_one_that_the_server_logs(tokens: int, mib: float) -> None:
    """The wheel's server: checkpoint 2 of 32 (pos_min = 0, pos_max = 25, size = 0.382 MiB)."""
    options = CacheOptions(context=8192, sequences=1)
    found = checkpoint_bytes(gemma_270m(), options, tokens) / MIB
    assert found == pytest.approx(mib, abs=0.002)
    assert checkpoint_bytes(gemma_270m(), options) / MIB == 15.0, "all 1,024 cells of the window"


def test_a_model_that_can_roll_back_makes_none(folder: Path) -> None:
    hyper = read_hyper(profile("llama-3.1-8b.Q4_K_M", folder))
    assert checkpoint_bytes(hyper, CacheOptions(context=8192, sequences=1)) == 0


def test_states_of_a_hybrid_model_are_whole_and_their_number_is_held_to_the_ram(
    folder: Path,
) -> None:
    model = profile("qwen3.5-35b-a3b.Q4_K_M", folder)
    hyper = read_hyper(model)
    each = checkpoint_bytes(hyper, CacheOptions(context=8192, sequences=1))
    state = 4 * (hyper.state_r + hyper.state_s) * sum(hyper.recurrent)
    assert each == state == checkpoint_bytes(hyper, CacheOptions(context=8192, sequences=1), 10)
    large, small = (
        plan_launch(
            HostHardware(memory=Memory(total_mib=ram), cpu=Cpu(cores=8, usable_threads=8)),
            model,
            FitWishes(context=8192),
        )
        for ram in (131072, 32768)
    )
    assert large.flags["ctx_checkpoints"] == 32
    assert small.flags["ctx_checkpoints"] == int(0.05 * (32768 - 512) * MIB // each)
    for plan in (large, small):
        assert plan.host.high_mib - plan.host.total_mib > plan.flags["ctx_checkpoints"] * each / MIB
    pinned = FitWishes(context=8192, engine_flags=("--ctx-checkpoints", "3"))
    host = HostHardware(memory=Memory(total_mib=65536), cpu=Cpu(cores=8, usable_threads=8))
    assert plan_launch(host, model, pinned).flags["ctx_checkpoints"] == 3
