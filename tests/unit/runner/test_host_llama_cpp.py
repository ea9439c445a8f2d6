"""What a host of llama.cpp becomes: builds by its cards, several models, quantized ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, samples

from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.model import ModelProfile, group_tensors
from infra_llm.core.quantize import predicted_types, quantized
from infra_llm.runner import host
from infra_llm.runner.host import Decision, decide_host
from infra_llm.runner.quantize import desired_after

Decide = Callable[..., Decision]
OWN = samples.desired()["model"]
MODELS = {
    name: {**OWN, "filename": f"{name}.gguf", "sha256": digit * 64}
    for name, digit in (("one", "a"), ("two", "b"), ("three", "c"))
}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    """TinyLlama in 16 bits."""
    known = descriptors.profile("tinyllama-1.1b.Q4_K_M", tmp_path_factory.mktemp("model"))
    rows = []
    for tensor in known.all_tensors:
        elements = 1
        for dim in tensor.shape:
            elements *= dim
        kind, size = ("F32", 4) if tensor.type == "F32" else ("F16", 2)
        rows.append((tensor.name, tensor.shape, kind, size * elements))
    return replace(known, tensors=group_tensors(rows))


@pytest.fixture
def decide(profile: ModelProfile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Decide:
    monkeypatch.setattr(host, "builds_folder", lambda: tmp_path)

    def read(artifact: Any, site: Any) -> ModelProfile:
        wish = artifact.get("quantize")
        return quantized(profile, wish) if wish else profile

    def decide(audit: dict[str, Any] | None = None, **wishes: Any) -> Decision:
        wished = samples.wishes(**{"infra_llm_model": "one", "infra_llm_models": MODELS, **wishes})
        return decide_host("node", audit or samples.audit(), wished, {}, read)

    return decide


def applied(decision: Decision, **changes: Any) -> dict[str, Any]:
    """The audit of the same host after `decision` was applied."""
    method = decision.desired["engine"]["methods"][0]
    return samples.audit(
        state=json.loads(json.dumps(samples.state(decision.desired))),
        engine={"release": method["release"], "sha256": method["artifact"]["sha256"]},
        port={"number": 8080, "taken_by": "", "ours": True},
        **changes,
    )


def with_card(name: str, capability: str, vram_mib: int = 24576) -> dict[str, Any]:
    card = samples.nvidia(
        name=name, compute_capability=capability, vram_total_mib=vram_mib, vram_free_mib=vram_mib
    )
    fingerprint = samples.hardware().fingerprint | {"gpu:0000:01:00.0": name, "all": name}
    return samples.hardware(gpus=[card], fingerprint=fingerprint).to_dict()


# -- builds and cards -----------------------------------------------------------------------------
CUDA = {"infra_llm_cuda_source": "none"}


def test_another_card_of_the_same_architecture_is_not_built_for_again(decide: Decide) -> None:
    first = decide(samples.audit(hardware=with_card("RTX 3060", "8.6", 12288)), **CUDA)
    assert first.build_due == first.desired["engine"]["methods"][0]["release"]
    found = decide(applied(first, hardware=with_card("RTX 3090", "8.6")), **CUDA)
    assert "llama_cpp" not in found.due
    assert found.build_due == ""
    assert found.desired["engine"]["cards"] == [{"name": "RTX 3090", "compute_capability": "8.6"}]


def test_a_card_of_another_architecture_is_built_for(decide: Decide) -> None:
    first = decide(samples.audit(hardware=with_card("RTX 3090", "8.6")), **CUDA)
    found = decide(applied(first, hardware=with_card("RTX 4090", "8.9")), **CUDA)
    assert "llama_cpp" in found.due
    assert found.build_due not in ("", first.build_due)
    assert found.desired["engine"]["methods"][0]["build"]["architectures"] == ["89"]


def test_an_architecture_that_was_compiled_for_in_advance_is_not_built_for(decide: Decide) -> None:
    both = {**CUDA, "llama_cpp_cuda_architectures": [86, 89]}
    first = decide(samples.audit(hardware=with_card("RTX 3090", "8.6")), **both)
    found = decide(applied(first, hardware=with_card("RTX 4090", "8.9")), **both)
    assert ("llama_cpp" in found.due, found.build_due) == (False, "")


def test_what_another_host_compiled_is_not_compiled_again(decide: Decide, tmp_path: Path) -> None:
    audit = samples.audit(hardware=with_card("RTX 3090", "8.6"))
    first = decide(audit, **CUDA)
    kept = tmp_path / f"{first.build_due}.tar.gz"
    kept.write_bytes(b"a whole build")
    Path(f"{kept}.sha256").write_text(hashlib.sha256(b"a whole build").hexdigest() + "\n")
    found = decide(audit, **CUDA)
    assert "llama_cpp" in found.due
    assert found.build_due == ""


@pytest.mark.parametrize("damage", ["cut", "without its sha256"])
def test_a_kept_build_that_is_not_whole_is_built_again(
    decide: Decide, tmp_path: Path, damage: str
) -> None:
    audit = samples.audit(hardware=with_card("RTX 3090", "8.6"))
    first = decide(audit, **CUDA)
    kept = tmp_path / f"{first.build_due}.tar.gz"
    kept.write_bytes(b"a whole")
    if damage == "cut":
        Path(f"{kept}.sha256").write_text(hashlib.sha256(b"a whole build").hexdigest())
    assert decide(audit, **CUDA).build_due == first.build_due


# -- several models -------------------------------------------------------------------------------
def test_further_models_share_the_machine_and_are_planned_once(decide: Decide) -> None:
    alone = decide(llama_cpp_install_method="source").desired
    wishes = {"infra_llm_more_models": ["two", "three"], "llama_cpp_install_method": "source"}
    first = decide(**wishes)
    desired = first.desired
    assert [entry["name"] for entry in desired["more"]] == ["two", "three"]
    plans = [desired["plan"], *(entry["plan"] for entry in desired["more"])]
    assert all(plan["fits"] for plan in plans)
    capacities = [plan["host"]["capacity_mib"] for plan in plans]
    assert sum(capacities) <= alone["plan"]["host"]["capacity_mib"]
    assert "two, three stay in memory beside it" in plans[0]["why"][0]["text"]
    assert "--models-max" in desired["launch"]["arguments"]
    assert desired["verify"]["metrics"] == "/metrics?model=one"
    limit = desired["service"]["unit"]["memory_max_mib"]
    assert limit > sum(plan["host"]["total_mib"] for plan in plans)
    second = decide(applied(first), **wishes)
    assert (second.due, second.changes) == ([], [])
    assert second.desired == desired


def test_one_more_model_is_fetched_and_served(decide: Decide) -> None:
    first = decide(llama_cpp_install_method="source")
    found = decide(applied(first), infra_llm_more_models=["two"], llama_cpp_install_method="source")
    assert found.due == ["preflight", "model_store", "llm_service", "llm_verify"]


def test_models_that_do_not_fit_together_say_so(decide: Decide) -> None:
    small = samples.hardware()
    small.memory.total_mib = small.memory.available_mib = 5000
    decide(samples.audit(hardware=small.to_dict()), infra_llm_context=2048)
    with pytest.raises(DoesNotFitError, match="does not fit"):
        decide(
            samples.audit(hardware=small.to_dict()),
            infra_llm_context=2048,
            infra_llm_more_models=["two", "three"],
        )


def test_a_model_that_is_not_known_is_named(decide: Decide) -> None:
    with pytest.raises(BadInputError, match="no model named 'four'"):
        decide(infra_llm_more_models=["four"])


def test_room_on_the_disk_is_asked_for_all_of_them(decide: Decide) -> None:
    each = OWN["size"] / 2**20
    free = {"opt": 100_000, "var": int(512 + 1.5 * each), "etc": 100_000}
    assert decide(samples.audit(free_mib=free)).problems == []
    found = decide(samples.audit(free_mib=free), infra_llm_more_models=["two"])
    assert "are needed in /var/lib/infra-llm" in found.problems[0]["text"]


# -- quantized models -----------------------------------------------------------------------------
def test_the_plan_is_that_of_the_quantized_model(decide: Decide, profile: ModelProfile) -> None:
    wishes = {"infra_llm_quantize": "Q4_K_M", "llama_cpp_install_method": "source"}
    first = decide(**wishes)
    desired = first.desired
    assert desired["launch"]["model"].endswith("/one.Q4_K_M.gguf")
    planned = desired["plan"]["model"]
    assert planned["quant"] == "Q4_K_M"
    assert planned["file_bytes"] == quantized(profile, {"type": "Q4_K_M"}).file_bytes
    result = {"sha256": "9" * 64, "types": predicted_types(profile, "Q4_K_M")}
    hardware = samples.hardware().to_dict()
    after = desired_after(desired, result, hardware, lambda *_: profile, None)
    assert after["model"]["quantize"]["sha256"] == "9" * 64
    assert after["plan"] == desired["plan"]
    first.desired = after
    second = decide(applied(first), **wishes)
    assert (second.due, second.changes) == ([], [])
    assert second.desired["model"] == after["model"]


def test_a_result_that_is_another_than_predicted_is_planned_for_anew(
    decide: Decide, profile: ModelProfile
) -> None:
    wishes = {"infra_llm_quantize": "Q4_K_M", "llama_cpp_install_method": "source"}
    desired = decide(**wishes).desired
    types = predicted_types(profile, "Q4_K_M")
    types = {name: "Q8_0" if kind == "Q4_K" else kind for name, kind in types.items()}

    def read(artifact: Any, site: Any) -> ModelProfile:
        wish = artifact.get("quantize")
        return quantized(profile, wish) if wish else profile

    wished = samples.wishes(infra_llm_model="one", infra_llm_models=MODELS, **wishes)
    result = {"sha256": "9" * 64, "types": types}
    after = desired_after(desired, result, samples.hardware().to_dict(), read, (wished, {}))
    exact = read(after["model"], {}).file_bytes
    assert after["plan"]["model"]["file_bytes"] == exact
    assert exact > 1.4 * desired["plan"]["model"]["file_bytes"]


def test_another_type_is_another_model(decide: Decide) -> None:
    wishes = {"infra_llm_quantize": "Q4_K_M", "llama_cpp_install_method": "source"}
    first = decide(**wishes)
    found = decide(applied(first), **{**wishes, "infra_llm_quantize": "Q8_0"})
    assert found.due == ["preflight", "model_store", "llm_service", "llm_verify"]
    assert any("as Q4_K_M ->" in change["text"] for change in found.changes)
