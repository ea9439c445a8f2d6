"""Speculative decoding: what its types add to a launch, and what is refused.

Figures of public logs (ground truth): gt045, Qwen3.6 27B with its draft head at 131,072 tokens in
four slots: 4,352.00 MiB of cache, 598.50 of states, 272.00 of the draft's cache. gt055, Qwen3.5 4B:
states of 50.25 MiB become 201.00 with three tokens drafted.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.llama_cpp.arguments import llama_server_arguments, parse_arguments
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.memory import Footprint, footprint
from infra_llm.core.fit.llama_cpp.speculation import speculation
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile, group_tensors

MIB = 1 << 20
FLAGS = {
    "ctx_size": 131072, "parallel": 4, "kv_unified": True, "cache_type_k": "q8_0",
    "cache_type_v": "q8_0", "n_gpu_layers": 999, "flash_attn": "on",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> ModelProfile:
    return profile("qwen3.6-27b-mtp.Q4_K_M", folder)


def used(model: ModelProfile, **flags: object) -> Footprint:
    return footprint(model, read_hyper(model), {**FLAGS, **flags}, 1)


def test_without_speculation_the_draft_layers_are_not_loaded(model: ModelProfile) -> None:
    plain, drafting = used(model), used(model, spec_type="draft-mtp")
    last = sum(tensor.bytes for tensor in model.all_tensors if tensor.layer == 64)
    assert drafting.weights[0] - plain.weights[0] == last
    assert drafting.work == plain.work, "speed is given without speculation"


def test_the_draft_heads_cache_and_the_states_to_go_back_to(model: ModelProfile) -> None:
    plain = used(model)
    assert plain.cache[0] / MIB == pytest.approx(4352.00 + 598.50)
    q8 = {"cache_type_k_draft": "q8_0", "cache_type_v_draft": "q8_0"}
    drafting = used(model, spec_type="draft-mtp", **q8)
    assert drafting.beside[0] / MIB == pytest.approx(272.00)
    states = drafting.cache[0] / MIB - 4352.00 - 272.00
    assert states == pytest.approx(598.50 * 201.00 / 50.25)
    half = used(model, spec_type="draft-mtp")
    assert half.beside[0] / MIB == pytest.approx(272.00 * 32 / 17), "f16 where it is not told"


def test_logits_of_all_drafted_tokens_are_reserved(folder: Path) -> None:
    """Build 11549 logs n_outputs_max = 8 for two slots and three drafted tokens."""
    small = profile("tinyllama-1.1b.Q4_K_M", folder)
    flags = {"ctx_size": 2048, "parallel": 2, "n_gpu_layers": 0, "ubatch_size": 16}
    plain = footprint(small, read_hyper(small), flags, 0)
    drafting = footprint(small, read_hyper(small), {**flags, "spec_type": "ngram-cache"}, 0)
    assert drafting.output == 9 * plain.output
    assert drafting.compute[-1] > plain.compute[-1]


def small_hybrid() -> ModelProfile:
    """Three delta layers, one of attention and a draft layer, in f16, 49,152 tokens."""
    width, hidden, inner, state, groups, rank = 512, 1024, 256, 64, 2, 4
    mixed = inner + 2 * groups * state
    common = {"ffn_gate": (width, hidden), "ffn_up": (width, hidden), "ffn_down": (hidden, width)}
    delta = {
        "attn_qkv": (width, mixed), "attn_gate": (width, inner), "ssm_conv1d": (4, mixed),
        "ssm_dt.bias": (rank,), "ssm_a": (rank,), "ssm_beta": (width, rank),
        "ssm_alpha": (width, rank), "ssm_norm": (state,), "ssm_out": (inner, width),
    }  # fmt: skip
    plain = {
        "attn_q": (width, 512), "attn_k": (width, 128), "attn_v": (width, 128),
        "attn_output": (256, width), "attn_q_norm": (64,), "attn_k_norm": (64,),
    }  # fmt: skip
    norms = {"attn_norm": (width,), "post_attention_norm": (width,)}
    draft = {
        "nextn.eh_proj": (2 * width, width), "nextn.enorm": (width,), "nextn.hnorm": (width,),
        "nextn.shared_head_norm": (width,),
    }  # fmt: skip
    rows = [
        (f"blk.{layer}.{name}", shape)
        for layer in range(5)
        for name, shape in {
            **norms, **common, **(plain if layer in (3, 4) else delta),
            **(draft if layer == 4 else {}),
        }.items()
    ]  # fmt: skip
    rows += [("token_embd", (width, 49152)), ("output_norm", (width,)), ("output", (width, 49152))]
    hyper = {
        "block_count": 5, "embedding_length": width, "feed_forward_length": hidden,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 64,
        "attention.value_length": 64, "ssm.conv_kernel": 4, "ssm.state_size": state,
        "ssm.group_count": groups, "ssm.time_step_rank": rank, "ssm.inner_size": inner,
        "rope.dimension_count": 32, "rope.dimension_sections": [6, 5, 5, 0],
        "full_attention_interval": 4, "nextn_predict_layers": 1,
    }  # fmt: skip
    return ModelProfile(
        "qwen35", vocab_size=49152, context_length=32768, hyper=hyper,
        tensors=group_tensors(_typed(name, shape) for name, shape in rows),
    )  # fmt: skip


def _typed(name: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], str, int]:
    whole = len(shape) == 1 or "conv1d" in name
    elements = shape[0] * (shape[1] if len(shape) > 1 else 1)
    full = name if name.endswith((".bias", "ssm_a")) else f"{name}.weight"
    return full, shape, "F32" if whole else "F16", elements * (4 if whole else 2)


@pytest.mark.parametrize(
    ("slots", "kind", "weights", "cache", "compute"),
    [
        (1, "none", 112.07, 2.00 + 0.21, 15.02),
        (2, "none", 112.07, 2.00 + 0.41, 13.02),
        (1, "draft-mtp", 117.08, 2.00 + 0.82 + 2.00, 15.02),
        (2, "draft-mtp", 117.08, 2.00 + 1.64 + 2.00, 13.02),
    ],
)
def test_a_small_hybrid_is_what_the_wheels_server_logs(
    slots: int, kind: str, weights: float, cache: float, compute: float
) -> None:
    """Lines of build 11549 for a random model of this shape, 4,096 tokens, on the CPU."""
    model = small_hybrid()
    flags = {"ctx_size": 4096, "parallel": slots, "n_gpu_layers": 0, "spec_type": kind}
    found = footprint(model, read_hyper(model), flags, 0)
    assert found.weights[-1] / MIB == pytest.approx(weights, abs=0.006)
    assert found.cache[-1] / MIB == pytest.approx(cache, abs=0.011)
    head = found.beside_compute[-1] / MIB if found.beside_compute else 0.0
    assert found.compute[-1] / MIB - head == pytest.approx(compute, abs=0.006)
    if kind == "draft-mtp":
        assert head == pytest.approx(9.02, abs=0.006)


def machine() -> HostHardware:
    gpus = [Gpu(index=0, vendor="nvidia", name="card", vram_total_mib=49152)]
    cpu = Cpu(cores=8, threads=8, usable_threads=8)
    return HostHardware(gpus=gpus, memory=Memory(total_mib=65536), cpu=cpu)


def test_the_launch_says_what_drafts(model: ModelProfile, folder: Path) -> None:
    main, small = profile("llama-2-13b.Q4_K_M", folder), profile("tinyllama-1.1b.Q4_K_M", folder)
    plan = plan_launch(machine(), dataclasses.replace(main, draft=small), FitWishes(context=4096))
    words = " ".join(llama_server_arguments(plan.flags))
    assert "--spec-type draft-simple --spec-draft-n-max 3 --n-gpu-layers-draft 999" in words
    asked = FitWishes(context=4096, engine_flags=("--spec-type", "draft-mtp"))
    plan = plan_launch(machine(), model, asked)
    assert plan.fits and plan.flags["spec_draft_n_max"] == 3
    assert any("layers of the model draft 3 tokens" in reason.text for reason in plan.why)
    assert any("draft head" in text for text in plan.warnings)


def test_what_can_not_draft_is_refused(model: ModelProfile, folder: Path) -> None:
    small = profile("tinyllama-1.1b.Q4_K_M", folder)
    with pytest.raises(BadInputError, match="would serve without speculation"):
        plan_launch(machine(), dataclasses.replace(model, draft=small), FitWishes(context=4096))
    asked = FitWishes(context=4096, engine_flags=("--spec-type", "draft-mtp"))
    with pytest.raises(BadInputError, match="no layers of multi-token prediction"):
        plan_launch(machine(), small, asked)
    with pytest.raises(BadInputError, match="'draft-eagle3' is not known"):
        speculation({"spec_type": "draft-eagle3"})


def test_options_of_a_draft_are_read_in_every_spelling() -> None:
    words = ["--spec-draft-model", "d.gguf", "--spec-draft-ngl", "all", "-ctkd", "q8_0"]
    found = parse_arguments([*words, "--no-mmproj-offload", "--image-max-tokens", "256"])
    assert found == {
        "model_draft": "d.gguf", "n_gpu_layers_draft": 999, "cache_type_k_draft": "q8_0",
        "mmproj_offload": False, "image_max_tokens": 256,
    }  # fmt: skip
