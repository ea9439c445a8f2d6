"""Embedding models: no cache, a text in one micro-batch, nothing that chats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests import samples
from tests.descriptors import profile

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, llama_server_arguments, plan_launch
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.memory import cache_options, placement_of
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.model import ModelProfile, group_tensors

MIB = 1 << 20
WIDTH, WIDE, WORDS, TEXT = 384, 1536, 30522, 512


def minilm(**changes: Any) -> ModelProfile:
    """The header of all-MiniLM-L6-v2 as tests/minilm_gguf.py writes it."""

    def row(name: str, *shape: int) -> tuple[str, tuple[int, ...], str, int]:
        small = len(shape) == 1 or name.startswith(("position", "token_types"))
        count = 1
        for length in shape:
            count *= length
        return name, shape, "F32" if small else "F16", count * (4 if small else 2)

    rows = [
        row("token_embd.weight", WIDTH, WORDS),
        row("position_embd.weight", WIDTH, TEXT),
        row("token_types.weight", WIDTH, 2),
    ]
    for layer in range(6):
        block = f"blk.{layer}"
        for name, rows_in, rows_out in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH, WIDTH), ("attn_v", WIDTH, WIDTH),
            ("attn_output", WIDTH, WIDTH), ("ffn_up", WIDTH, WIDE), ("ffn_down", WIDE, WIDTH),
        ):  # fmt: skip
            rows += [row(f"{block}.{name}.weight", rows_in, rows_out)]
            rows += [row(f"{block}.{name}.bias", rows_out)]
        for name in ("attn_output_norm", "layer_output_norm"):
            rows += [row(f"{block}.{name}.{kind}", WIDTH) for kind in ("weight", "bias")]
    rows += [row(f"token_embd_norm.{kind}", WIDTH) for kind in ("weight", "bias")]
    hyper = {
        "block_count": 6,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDE,
        "attention.head_count": 12,
        "attention.causal": False,
        "pooling_type": 1,
        **changes.pop("hyper", {}),
    }
    values = {
        "architecture": "bert",
        "context_length": TEXT,
        "vocab_size": WORDS,
        "tensors": group_tensors(rows),
        "parameters": 22_566_528,
    }
    return ModelProfile(**{**values, **changes}, hyper=hyper)


@pytest.mark.parametrize(("flash", "logged"), [("on", 7.26), ("off", 18.26)])
@pytest.mark.parametrize(("context", "slots"), [(512, 1), (2048, 4)])
def test_the_buffer_is_what_the_server_logged(
    flash: str, logged: float, context: int, slots: int
) -> None:
    """`sched_reserve: CPU compute buffer size` of build 11549, on a machine without a GPU."""
    model = minilm()
    hyper = read_hyper(model)
    flags = {
        "ctx_size": context, "parallel": slots, "ubatch_size": 512, "batch_size": 512,
        "flash_attn": flash, "embeddings": True, "n_gpu_layers": 0,
    }  # fmt: skip
    placement = placement_of(hyper, flags, 0)
    (found,) = compute_bytes(model, hyper, placement, cache_options(flags), Backend(0, cuda=False))
    assert found / MIB == pytest.approx(logged, rel=0.15 if flash == "on" else 0.005)


def test_the_plan_embeds_and_gives_each_slot_a_whole_text() -> None:
    plan = plan_launch(samples.hardware(), minilm(), FitWishes(parallel=2))
    assert plan.fits
    assert plan.flags["embeddings"] is True
    assert plan.flags["ctx_size"] == 2 * TEXT
    assert plan.flags["ubatch_size"] == plan.flags["batch_size"] == TEXT
    assert plan.host.kv_cache_mib == 0
    assert plan.host.weights_mib == pytest.approx(43.48, abs=0.01)  # as the server logs it
    assert plan.tokens_per_second.decode == 0
    assert plan.tokens_per_second.prefill > 0
    assert any("does not chat" in reason.text for reason in plan.why)
    assert "--embeddings" in llama_server_arguments(plan.flags)


def test_it_stands_on_a_gpu_without_a_second_copy_of_its_words() -> None:
    hardware = samples.hardware(gpus=[samples.nvidia()])
    plan = plan_launch(hardware, minilm(), FitWishes())
    words = 2 * WIDTH * WORDS / MIB
    assert plan.flags["n_gpu_layers"] >= 7
    assert plan.devices[0].weights_mib < 43.48 - words
    assert plan.host.weights_mib > words


def test_a_decoder_that_embeds_reads_no_more_than_it_must(tmp_path: Path) -> None:
    chats = profile("qwen3-8b.Q4_K_M", tmp_path)
    embeds = ModelProfile(**{**chats.__dict__, "hyper": {**chats.hyper, "pooling_type": 3}})
    plan = plan_launch(samples.hardware(), embeds, FitWishes())
    assert plan.flags["ctx_size"] == plan.flags["ubatch_size"] == 2048
    assert "embeddings" not in plan_launch(samples.hardware(), chats, FitWishes()).flags


@pytest.mark.parametrize(
    ("model", "wishes", "engine", "words"),
    [
        (minilm(hyper={"pooling_type": 4}), FitWishes(), "llama.cpp", "reranking"),
        (minilm(), FitWishes(context=2048, parallel=2), "llama.cpp", "the model reads 512"),
        (minilm(), FitWishes(), "ollama", "served by llama.cpp, not by ollama"),
        (minilm(), FitWishes(), "llama-cpp-python", "not by llama-cpp-python"),
        (
            ModelProfile("bert", format="safetensors", hyper={"architectures": ["BertModel"]}),
            FitWishes(),
            "vllm",
            "BertModel writes no text",
        ),
    ],
)
def test_what_is_not_served_is_refused_in_words(
    model: ModelProfile, wishes: FitWishes, engine: str, words: str
) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        plan_launch(samples.hardware(), model, wishes, engine)
    assert caught.value.hint
