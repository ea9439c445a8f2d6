"""A draft model beside the main one: a second launch with the same context and an f16 cache.

Build 11434's server with one model as both (4,096 tokens, two slots, q8_0) logged 22.31 and then
42.00 MiB of cache, 21.30 and 20.77 MiB of compute buffers: the two launches' own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.memory import footprint
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile

FLAGS = {"ctx_size": 8192, "parallel": 2, "n_gpu_layers": 20, "cache_type_k": "q8_0",
         "cache_type_v": "q8_0", "tensor_split": [1, 1]}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelProfile, ModelProfile]:
    folder: Path = tmp_path_factory.mktemp("models")
    return profile("llama-2-13b.Q4_K_M", folder), profile("tinyllama-1.1b.Q4_K_M", folder)


def test_it_is_the_sum_of_two_launches(models: tuple[ModelProfile, ModelProfile]) -> None:
    main, small = models
    both = dataclasses.replace(main, draft=small)
    own = footprint(main, read_hyper(main), FLAGS, 2)
    alone = {**FLAGS, "n_gpu_layers": 999, "cache_type_k": "f16", "cache_type_v": "f16"}
    other = footprint(small, read_hyper(small), alone, 2)
    found = footprint(both, read_hyper(main), FLAGS, 2)
    for part in ("weights", "cache", "compute"):
        pairs = zip(getattr(own, part), getattr(other, part), strict=True)
        assert getattr(found, part) == tuple(a + b for a, b in pairs)
    assert found.beside == tuple(map(sum, zip(other.weights, other.cache, strict=True)))
    assert found.work == own.work
    hinted = footprint(both, read_hyper(main), FLAGS, 2, compute=found.compute)
    assert hinted.compute == found.compute, "a hint has the draft's buffers in it"


def test_layers_of_the_main_model_make_room(models: tuple[ModelProfile, ModelProfile]) -> None:
    main, small = models
    host = HostHardware(
        gpus=[Gpu(index=0, vendor="nvidia", name="card", vram_total_mib=8192)],
        memory=Memory(total_mib=65536),
        cpu=Cpu(cores=8, threads=8, usable_threads=8),
    )
    wishes = FitWishes(context=4096)
    plain = plan_launch(host, main, wishes)
    drafted = plan_launch(host, dataclasses.replace(main, draft=small), wishes)
    assert drafted.fits
    assert 0 < drafted.flags["n_gpu_layers"] < plain.flags["n_gpu_layers"]
    assert any(reason.text.startswith("draft model TinyLlama") for reason in drafted.why)
