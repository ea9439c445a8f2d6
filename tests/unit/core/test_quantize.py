"""What llama-quantize will make of a model, against what it made of real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, samples

from infra_llm.core.decide import model_content
from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile, group_tensors
from infra_llm.core.quantize import (
    TYPES,
    after_quantization,
    differing_types,
    predicted_types,
    quantized,
    with_quantization,
)

SIXTEEN = samples.MODEL_SHA256


def of_real_runs() -> list[str]:
    """Tensor tables that llama-quantize --dry-run of a real release named."""
    return [
        name
        for name in descriptors.names()
        if name.rpartition(".")[2] in TYPES
        and descriptors.descriptor(name)["type_source"].startswith("llama-quantize")
    ]


def in_sixteen_bits(profile: ModelProfile) -> ModelProfile:
    """The model that such a table was made from: every matrix in F16."""
    rows = []
    for tensor in profile.all_tensors:
        elements = 1
        for dim in tensor.shape:
            elements *= dim
        kind = "F32" if tensor.type == "F32" else "F16"
        rows.append((tensor.name, tensor.shape, kind, elements * (4 if kind == "F32" else 2)))
    return replace(profile, tensors=group_tensors(rows))


def test_there_are_enough_real_runs() -> None:
    kinds = {name.rpartition(".")[2] for name in of_real_runs()}
    assert len(of_real_runs()) > 40
    assert kinds >= {"Q4_0", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"}


@pytest.mark.parametrize("name", of_real_runs())
def test_the_prediction_is_what_the_program_did(name: str, tmp_path: Path) -> None:
    real = descriptors.profile(name, tmp_path)
    made = quantized(in_sixteen_bits(real), {"type": name.rpartition(".")[2]})
    assert {t.name: (t.type, t.bytes) for t in made.all_tensors} == {
        t.name: (t.type, t.bytes) for t in real.all_tensors
    }


@pytest.fixture
def model(tmp_path: Path) -> ModelProfile:
    return in_sixteen_bits(descriptors.profile("tinyllama-1.1b.Q4_K_M", tmp_path))


def test_what_the_run_did_otherwise_is_kept_and_planned_with(model: ModelProfile) -> None:
    types = {**predicted_types(model, "Q4_K_M"), "blk.0.ffn_up.weight": "Q8_0"}
    found = differing_types(model, "Q4_K_M", types)
    assert found == {"blk.0.ffn_up.weight": "Q8_0"}
    exact = quantized(model, {"type": "Q4_K_M", "differing": found})
    assert exact.by_layer[0, "ffn_up.weight"].type == "Q8_0"
    predicted = quantized(model, {"type": "Q4_K_M"})
    assert exact.file_bytes > predicted.file_bytes


def test_a_result_of_another_model_is_none(model: ModelProfile) -> None:
    types = predicted_types(model, "Q4_K_M")
    types.pop("blk.0.ffn_up.weight")
    with pytest.raises(BadInputError, match=r"other tensors than the model \(blk.0.ffn_up"):
        differing_types(model, "Q4_K_M", types)


def test_rows_that_no_block_divides_get_a_smaller_block_or_stay_f16() -> None:
    rows = [
        ("blk.0.attn_q.weight", (96, 8), "F16", 2 * 96 * 8),
        ("blk.0.attn_k.weight", (80, 8), "F16", 2 * 80 * 8),
        ("output.weight", (96, 8), "F16", 2 * 96 * 8),
    ]
    odd = ModelProfile("llama", hyper={"block_count": 1}, tensors=group_tensors(rows))
    assert predicted_types(odd, "Q4_K_M") == {
        "blk.0.attn_q.weight": "Q5_0",
        "blk.0.attn_k.weight": "F16",
        "output.weight": "Q8_0",
    }


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    real = descriptors.profile("tinyllama-1.1b.Q4_0", tmp_path)
    with pytest.raises(BadInputError, match="quantized already") as caught:
        quantized(real, {"type": "Q4_K_M"})
    assert caught.value.where == "infra_llm_quantize"


def test_safetensors_are_refused(model: ModelProfile) -> None:
    with pytest.raises(BadInputError, match="only a GGUF file"):
        quantized(replace(model, format="safetensors"), {"type": "Q8_0"})


def artifact(**more: Any) -> dict[str, Any]:
    return {"name": "tiny", "filename": "tiny.F16.gguf", "sha256": SIXTEEN, "size": 2**31, **more}


def wished(model: ModelProfile, state: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    values = samples.wishes(infra_llm_quantize="Q4_K_M", **more)
    return with_quantization(artifact(), values, state, lambda _: model)


def test_the_wish_names_the_result_and_its_size(model: ModelProfile) -> None:
    found = wished(model)["quantize"]
    assert found["filename"] == "tiny.F16.Q4_K_M.gguf"
    assert found["source"] == "tiny.F16.gguf"
    assert found["size"] == quantized(model, {"type": "Q4_K_M"}).file_bytes
    plain = with_quantization(artifact(), samples.wishes(), None, lambda _: model)
    assert plain == artifact()
    assert model_content(plain) == SIXTEEN
    assert model_content(wished(model)) == f"{SIXTEEN} Q4_K_M"


def test_a_model_in_parts_starts_from_the_first(model: ModelProfile) -> None:
    parts = [{"filename": f"m-0000{n}-of-00002.gguf"} for n in (2, 1)]
    found = with_quantization(
        artifact(filename="m-2222", files=parts),
        samples.wishes(infra_llm_quantize="Q8_0"),
        None,
        lambda _: model,
    )
    assert found["quantize"]["source"] == "m-2222/m-00001-of-00002.gguf"
    assert found["quantize"]["filename"] == "m-2222.Q8_0.gguf"


def test_what_a_run_found_is_taken_over_while_the_wish_is_the_same(model: ModelProfile) -> None:
    types = {**predicted_types(model, "Q4_K_M"), "blk.1.ffn_up.weight": "Q6_K"}
    done = after_quantization(wished(model), {"sha256": "3" * 64, "types": types}, lambda _: model)
    assert done["quantize"]["sha256"] == "3" * 64
    assert done["quantize"]["differing"] == {"blk.1.ffn_up.weight": "Q6_K"}
    state = {"desired": {"model": done}}
    assert wished(model, state) == done
    other = {"desired": {"model": {**done, "sha256": "4" * 64}}}
    assert wished(model, other)["quantize"]["sha256"] == ""


def test_only_llama_cpp_quantizes(model: ModelProfile) -> None:
    with pytest.raises(BadInputError, match="ollama has no llama-quantize"):
        wished(model, infra_llm_engine="ollama")
