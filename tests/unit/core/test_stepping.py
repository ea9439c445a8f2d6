"""What a start that ended out of memory is followed by: the plan's alternative, less context, less
layers; never what a person pinned."""

from __future__ import annotations

from typing import Any

import pytest
from tests import samples

from infra_llm.core.errors import HostFailedError
from infra_llm.core.stepping import next_step
from infra_llm.runner import step_down as module
from infra_llm.runner.step_down import step_down

Q8 = {"change": "cache type q8_0", "flags": {"cache_type_k": "q8_0"}, "total_mib": -84.0}
MORE = {"change": "context 16384", "flags": {"ctx_size": 16384}, "total_mib": 0.0}


def plan(*alternatives: dict[str, Any], **flags: Any) -> dict[str, Any]:
    usual = {"ctx_size": 8192, "parallel": 2, "n_gpu_layers": 33}
    return {"flags": {**usual, **flags}, "alternatives": list(alternatives)}


def test_the_plans_own_alternative_that_saves_comes_first() -> None:
    step = next_step(plan(MORE, Q8), samples.wishes())
    assert step is not None
    assert step.text == "cache type q8_0"
    assert step.wishes["infra_llm_kv_cache_type"] == "q8_0"


def test_then_half_the_context_of_each_slot() -> None:
    step = next_step(plan(MORE), samples.wishes())
    assert step is not None
    assert step.text == "context 4096 -> 2048"
    assert (step.wishes["infra_llm_context"], step.wishes["infra_llm_parallel"]) == (2048, 2)


def test_then_fewer_layers_on_the_gpus() -> None:
    step = next_step(plan(), samples.wishes(infra_llm_context=4096))
    assert step is not None
    assert step.wishes["infra_llm_gpu_layers"] == 29
    tiny = next_step(plan(ctx_size=2048, n_gpu_layers=3), samples.wishes())
    assert tiny is not None
    assert tiny.wishes["infra_llm_gpu_layers"] == 2


@pytest.mark.parametrize(
    "pinned",
    [
        {"infra_llm_context": 4096, "infra_llm_gpu_layers": 33, "infra_llm_kv_cache_type": "f16"},
        {"infra_llm_context": 4096, "infra_llm_gpu_layers": 0, "infra_llm_kv_cache_type": "f16"},
    ],
)
def test_what_is_pinned_is_never_stepped(pinned: dict[str, Any]) -> None:
    assert next_step(plan(Q8), samples.wishes(**pinned)) is None


def test_what_a_step_pinned_is_stepped_again() -> None:
    wishes, stepped, texts = samples.wishes(), None, []
    for context in (8192, 4096, 2048):
        step = next_step(plan(ctx_size=context, parallel=1), wishes, stepped)
        assert step is not None
        stepped = step.wishes
        texts.append(step.text)
    assert texts == ["context 8192 -> 4096", "context 4096 -> 2048", "context 2048 -> 1024"]
    assert stepped is not None
    assert stepped["infra_llm_context"] == 1024


def test_nothing_smaller_is_left_at_the_least() -> None:
    assert next_step(plan(ctx_size=1024, parallel=1, n_gpu_layers=0), samples.wishes()) is None


FAILURE = {"msg": "the service did not start", "out_of_memory": "cudaMalloc failed: out of memory"}


def step(monkeypatch: pytest.MonkeyPatch, steps: list[str], **failure: Any) -> dict[str, Any]:
    monkeypatch.setattr(module, "planned_anew", lambda desired, *_: {**desired, "planned": "anew"})
    desired = samples.desired()
    planner: Any = (None, {})
    wished = samples.wishes()
    return step_down(desired, samples.hardware(), wished, {**FAILURE, **failure}, steps, planner)


def test_each_step_is_kept_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    found = step(monkeypatch, ["one"])
    assert found["desired"]["planned"] == "anew"
    assert found["steps"][0] == "one"
    assert "context 8192 -> 4096, because: cudaMalloc failed" in found["steps"][1]


def test_three_steps_are_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostFailedError, match="tried smaller plans: a; b; c"):
        step(monkeypatch, ["a", "b", "c"])


def test_another_failure_is_no_reason_to_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostFailedError) as caught:
        step(monkeypatch, [], out_of_memory="")
    assert str(caught.value) == FAILURE["msg"]
