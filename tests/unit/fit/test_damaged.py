"""GGUF headers that can't be a model of their architecture: refused by the tensor or the key."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import descriptor, profile, write_gguf
from tests.tiny_mmproj import SAMPLES, write

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.confirm import compare, corrections
from infra_llm.core.fit.llama_cpp.projector import encoder_memory
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.readers.gguf_file import read_gguf

TINY, MOE, HYBRID = "tinyllama-1.1b.Q4_0", "qwen3-30b-a3b.Q4_K_M", "qwen3.5-35b-a3b.Q4_K_M"
Change = Callable[[dict[str, Any]], None]


def machine(vram: int = 0) -> HostHardware:
    cards = [Gpu(index=0, vendor="nvidia", name="card", vram_total_mib=vram)] if vram else []
    cpu = Cpu(cores=8, threads=8, usable_threads=8)
    return HostHardware(gpus=cards, memory=Memory(total_mib=65536), cpu=cpu)


def without(*roles: str) -> Change:
    def change(data: dict[str, Any]) -> None:
        kept = [row for row in data["tensors"] if not row[0].endswith(roles)]
        assert len(kept) < len(data["tensors"])
        data["tensors"] = kept

    return change


def key(name: str, value: int) -> Change:
    def change(data: dict[str, Any]) -> None:
        data["gguf_metadata"][f"{data['arch']}.{name}"][1] = value

    return change


def shape(role: str, *wanted: int) -> Change:
    def change(data: dict[str, Any]) -> None:
        rows = [row for row in data["tensors"] if row[0].endswith(role)]
        assert rows
        for row in rows:
            row[1] = list(wanted)

    return change


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (TINY, without("attn_q.weight"), "there is no blk.0.attn_q.weight"),
        (TINY, without("attn_v.weight"), "there is no blk.0.attn_v.weight"),
        (TINY, without("ffn_down.weight"), "there is no blk.0.ffn_down.weight"),
        (TINY, without("output.weight", "token_embd.weight"), "there is no token_embd.weight"),
        (TINY, shape("attn_q.weight", 2048, 4096), "tensor blk.0.attn_q.weight gives"),
        (TINY, shape("attn_k.weight", 2048, 2048), "tensor blk.0.attn_k.weight gives"),
        (TINY, shape("attn_k.weight", 1024, 256), "tensor blk.0.attn_k.weight is"),
        (TINY, key("block_count", 100_000), "llama.block_count is 100000"),
        (TINY, key("block_count", 10), "tensors of layer 21, llama.block_count is 10"),
        (MOE, without("ffn_down_exps.weight"), "there is no blk.0.ffn_down_exps.weight"),
        (MOE, key("expert_used_count", 0), "expert_used_count is 0"),
        (MOE, key("expert_used_count", 129), "expert_used_count is 129"),
        (MOE, key("expert_used_count", 4294967295), "expert_used_count is 4294967295"),
        (MOE, key("expert_count", 4294967295), "expert_count is 4294967295"),
        (MOE, key("expert_count", 64), "tensor blk.0.ffn_gate_inp.weight gives"),
        (HYBRID, key("ssm.time_step_rank", 0), "ssm.time_step_rank is 0"),
        (HYBRID, key("full_attention_interval", 0xFFFFFFFF), "full_attention_interval is 4294967"),
        (HYBRID, key("full_attention_interval", 1000), "there is no blk.3.attn_qkv.weight"),
    ],
)
def test_a_header_that_makes_no_model_is_refused(
    tmp_path: Path, name: str, change: Change, words: str
) -> None:
    data = copy.deepcopy(descriptor(name))
    change(data)
    write_gguf(data, tmp_path / "model.gguf")
    model = read_gguf(tmp_path / "model.gguf")
    for host in (machine(), machine(24576)):
        with pytest.raises(BadInputError) as caught:
            plan_launch(host, model, FitWishes(context=4096))
        assert words in caught.value.what
        assert caught.value.hint
        assert caught.value.where


@pytest.mark.parametrize("value", ["x", 1.5, True, -1, [1], 1 << 31])
def test_a_key_of_another_kind_is_refused(tmp_path: Path, value: Any) -> None:
    model = profile(TINY, tmp_path)
    for name in ("attention.key_length", "attention.head_count", "nextn_predict_layers"):
        model.hyper[name] = value
        with pytest.raises(BadInputError, match=rf"llama\.{name} "):
            plan_launch(machine(), model, FitWishes(context=4096))
        del model.hyper[name]


def test_an_encoder_of_other_shapes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mmproj.gguf", SAMPLES["gemma3"])
    model = read_gguf(path)
    model.hyper["vision.embedding_length"] = 77
    with pytest.raises(BadInputError, match="make no gemma3 model") as caught:
        encoder_memory(model, {}, gpus=0, cuda=True)
    assert caught.value.hint


def test_a_correction_of_the_host_is_one_of_the_whole_buffer(tmp_path: Path) -> None:
    """What the engine's tool prints is laid out whole, with what no prompt writes."""
    model, wishes = profile(TINY, tmp_path), FitWishes(context=8192, ubatch=4096)
    plan = plan_launch(machine(), model, wishes)
    assert plan.host.untouched_mib > plan.host.compute_mib
    row = plan.engine_estimate[-1]
    names = ("model_mib", "context_mib", "compute_mib")
    printed = {name: int(getattr(row, name)) for name in names}
    printed["compute_mib"] += 200
    told = [{"name": "Host", **printed}]
    known = corrections(plan, compare(plan, told), machine(), {})
    again = plan_launch(machine(), model, wishes, "llama.cpp", known)
    assert again.engine_estimate[-1].compute_mib == pytest.approx(row.compute_mib + 200, abs=3)
    assert compare(again, told).agrees
