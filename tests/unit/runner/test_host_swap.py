"""Cards swapped under a host that was provisioned, or held by somebody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests import samples

from infra_llm.core.errors import DoesNotFitError, RefusedError
from infra_llm.core.model import ModelProfile
from infra_llm.runner import host
from infra_llm.runner.host import (
    Decision,
)

Decide = Callable[..., Decision]


def with_card(name: str, vram_mib: int, pci_id: str) -> dict[str, Any]:
    card = samples.nvidia(name=name, vram_total_mib=vram_mib, vram_free_mib=vram_mib, pci_id=pci_id)
    fingerprint = samples.hardware().fingerprint | {"gpu:0000:01:00.0": pci_id, "all": pci_id}
    return samples.hardware(gpus=[card], fingerprint=fingerprint).to_dict()


def test_a_swapped_card_is_named_and_the_old_plan_is_kept_beside(decide: Decide) -> None:
    small = with_card("RTX 3060", 12288, "10de:2504")
    first = decide(samples.audit(hardware=small))
    audit = samples.applied(first, hardware=with_card("RTX 4090", 24564, "10de:2684"))
    audit["state"]["hardware"] = small
    found = decide(audit)
    texts = [change["text"] for change in found.changes]
    assert "hardware: GPU 0000:01:00.0: RTX 3060 12 GiB -> RTX 4090 24 GiB" in texts
    assert "llm_service" in found.due
    assert "model_store" not in found.due
    assert found.previous is not None
    assert found.previous["desired"]["plan"] == first.desired["plan"]


@pytest.mark.parametrize(
    ("capability", "words"), [("8.9", "llama.cpp compiled for 86 -> 89"), ("8.6", None)]
)
def test_only_another_architecture_is_another_build(
    capability: str, words: str | None, decide: Decide
) -> None:
    small, other = with_card("RTX 3060", 12288, "10de:2504"), with_card("B", 24564, "10de:2684")
    small["gpus"][0]["compute_capability"] = "8.6"
    other["gpus"][0]["compute_capability"] = capability
    source = samples.wishes(llama_cpp_install_method="source", infra_llm_cuda_source="none")
    first = decide(samples.audit(hardware=small), source)
    found = decide(samples.applied(first, hardware=other), source)
    texts = [change["text"] for change in found.changes if "compiled" in change["text"]]
    assert texts == ([words] if words else [])
    assert ("llama_cpp" in found.due) is bool(words)


def test_a_program_that_holds_a_card_is_planned_around_or_refused_once(decide: Decide) -> None:
    free = with_card("RTX 3060", 12288, "10de:2504")
    busy = json.loads(json.dumps(free))
    busy["gpus"][0]["processes"] = [{"pid": 4242, "name": "blender", "used_mib": 8000}]
    alone, beside = (decide(samples.audit(hardware=host)).desired["plan"] for host in (free, busy))
    capacity = [plan["devices"][0]["capacity_mib"] for plan in (alone, beside)]
    assert capacity[0] - capacity[1] == 8000
    assert any("8,000 MiB are held by blender (pid 4242)" in text for text in beside["warnings"])
    own = decide(samples.audit(hardware=busy, own_gpu_pids=[4242])).desired["plan"]
    assert own["devices"][0]["capacity_mib"] == capacity[0]
    refusing = samples.wishes(infra_llm_busy_gpus="refuse")
    with pytest.raises(RefusedError, match="blender"):
        decide(samples.audit(hardware=busy), refusing)
    # What serves already is not taken down for it.
    first = decide(samples.audit(hardware=free), refusing)
    stack = {**first.desired["stack"], "done": True}
    again = decide(samples.applied(first, hardware=busy, stack=stack), refusing)
    assert [change["text"] for change in again.changes] == []


def test_a_card_on_which_nothing_fits_keeps_the_old_state_and_says_why(decide: Decide) -> None:
    large = with_card("RTX 4090", 24564, "10de:2684")
    first = decide(samples.audit(hardware=large))
    tiny = with_card("GT 1030", 64, "10de:1d01")
    tiny["memory"]["total_mib"] = tiny["memory"]["available_mib"] = 64
    audit = samples.applied(first, hardware=tiny)
    audit["state"]["hardware"] = large
    with pytest.raises(DoesNotFitError) as caught:
        decide(audit)
    assert "GPU 0000:01:00.0: RTX 4090 24 GiB -> GT 1030 0 GiB" in caught.value.what
    assert "keeps what it has" in caught.value.what


def test_a_plan_that_was_made_smaller_stands_at_the_next_look(
    decide: Decide, profile: ModelProfile
) -> None:
    """Launch, limits and proof all follow the smaller plan: nothing differs the next time."""
    first = decide()
    wished = samples.wishes(infra_llm_context=1024)
    hardware = samples.hardware()
    smaller = host.planned_anew(first.desired, hardware, wished, lambda *_: profile, {})
    assert smaller["verify"]["context_length"] == 1024
    assert smaller["plan"]["flags"]["ctx_size"] < first.desired["plan"]["flags"]["ctx_size"]
    audit = samples.applied(first)
    audit["state"]["desired"] = json.loads(json.dumps(smaller))
    assert decide(audit).changes == []
