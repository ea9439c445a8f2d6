"""A host with NVIDIA cards: its stack is due before everything else, and once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import samples

from infra_llm.core.decide import due_roles
from infra_llm.core.errors import RefusedError
from infra_llm.core.hardware import DriverState, HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.runner.host import Decision, after_stack, decide_host

LLM = due_roles([], "llama_cpp", full=True)
ALL = ["preflight", "nvidia_driver", "cuda", *LLM[1:]]
Decide = Callable[..., Decision]


@pytest.fixture
def decide(profile: ModelProfile) -> Decide:
    def read(artifact: Mapping[str, Any], site: Mapping[str, Any]) -> ModelProfile:
        return profile

    def decide(audit: dict[str, Any], run: dict[str, Any] | None = None, **wishes: Any) -> Decision:
        return decide_host("node", audit, samples.wishes(**wishes), run or {}, read)

    return decide


def new_host(**driver: Any) -> HostHardware:
    return samples.hardware(gpus=[samples.nvidia()], driver=DriverState(**driver))


def loaded() -> HostHardware:
    return new_host(module_loaded=True, module_version="580.95.05", module_flavour="open")


def new_audit(**changes: Any) -> dict[str, Any]:
    return samples.audit(hardware=new_host().to_dict(), **changes)


def applied(decision: Decision, *, stack_done: bool = True, **changes: Any) -> dict[str, Any]:
    """The audit of the same host after `decision` was applied."""
    stack = decision.desired["stack"] | {"schema": "infra-llm/stack-state/1", "done": stack_done}
    return samples.applied(
        decision,
        hardware=loaded().to_dict(),
        stack=json.loads(json.dumps(stack)),
        **changes,
    )


def test_a_new_host_gets_its_stack_first(decide: Decide) -> None:
    found = decide(new_audit())
    assert found.due == ALL
    assert found.stack_due == ["nvidia_driver", "cuda"]
    assert {"role": "nvidia_driver", "text": "driver 580 open from vendor"} in found.changes


def test_a_build_is_led_to_the_toolkit_and_told_from_another_toolkits(decide: Decide) -> None:
    found = decide(new_audit())
    assert found.build_environment == {
        "CUDACXX": "/usr/local/cuda-13.0/bin/nvcc",
        "CUDAToolkit_ROOT": "/usr/local/cuda-13.0",
    }
    build = found.desired["engine"]["methods"][0]["build"]
    assert build["cuda"] == "13.0 vendor"
    own = decide(new_audit(), infra_llm_driver_source="distro", infra_llm_cuda_source="distro")
    assert own.build_environment == {"CUDAHOSTCXX": "/usr/bin/cuda-g++"}
    older = decide(new_audit(), infra_llm_cuda_version="12.9")
    assert older.desired["engine"]["methods"][0]["release"] != found.build_due


def test_nothing_is_due_on_a_host_that_has_it_all(decide: Decide) -> None:
    first = decide(new_audit())
    again = decide(applied(first))
    assert (again.due, again.stack_due, again.changes) == ([], [], [])
    assert again.desired["stack"] == first.desired["stack"]


def test_what_a_cut_off_run_left_is_due_again(decide: Decide) -> None:
    again = decide(applied(decide(new_audit()), stack_done=False))
    assert again.stack_due == ["nvidia_driver", "cuda"]


def test_a_driver_change_starts_the_service_anew(decide: Decide) -> None:
    first = decide(new_audit(), infra_llm_cuda_version="13.0")
    again = decide(applied(first), infra_llm_cuda_version="13.0", infra_llm_driver_branch=595)
    assert again.due == ["preflight", "nvidia_driver", "llm_service", "llm_verify"]


def test_another_toolkit_is_another_build(decide: Decide) -> None:
    first = decide(new_audit())
    again = decide(applied(first), infra_llm_cuda_version="12.9")
    assert again.stack_due == ["cuda"]
    assert again.due == ["preflight", "cuda", "llama_cpp", "llm_service", "llm_verify"]


def test_an_edited_file_of_the_stack_is_due(decide: Decide) -> None:
    differences = {"cuda": ["/etc/apt/sources.list.d/x.sources: changed"]}
    again = decide(applied(decide(new_audit()), stack_differences=differences))
    assert again.due == ["preflight", "cuda", "llm_verify"]
    assert again.stack_due == ["cuda"]


def test_a_full_run_runs_the_stack_too(decide: Decide) -> None:
    again = decide(applied(decide(new_audit())), run={"full": True})
    assert again.due == ALL


def test_only_named_roles_run(decide: Decide) -> None:
    found = decide(new_audit(), run={"only": ["cuda"]})
    assert (found.due, found.stack_due) == (["cuda"], ["cuda"])


def test_the_second_look_still_wants_what_the_first_did(decide: Decide) -> None:
    first = decide(new_audit())
    stack = first.desired["stack"] | {"schema": "infra-llm/stack-state/1", "done": True}
    second = decide(samples.audit(hardware=loaded().to_dict(), stack=stack))
    assert second.due == LLM
    merged = after_stack(first.to_dict(), second.to_dict())
    assert (merged["due"], merged["stack_due"]) == (ALL, [])
    assert [c["role"] for c in merged["changes"]].count("nvidia_driver") == 1


def test_a_host_without_cards_knows_no_stack(decide: Decide) -> None:
    found = decide(samples.audit())
    assert found.due == LLM
    assert (found.stack_due, found.desired["stack"], found.build_environment) == ([], {}, {})


def test_a_plan_that_was_made_elsewhere_brings_its_stack(decide: Decide, tmp_path: Path) -> None:
    desired = decide(new_audit()).desired
    plan = tmp_path / "plan.json"
    document = {"schema": "infra-llm/plan-set/1", "hosts": {"node": {"desired": desired}}}
    plan.write_text(json.dumps(document))
    found = decide(new_audit(), run={"plan_file": str(plan)}, infra_llm_driver_branch=595)
    assert found.stack_due == ["nvidia_driver", "cuda"]
    assert found.desired["stack"]["plan"]["driver"]["branch"] == "580"


def test_cards_that_nothing_serves_end_the_host(decide: Decide) -> None:
    old = samples.nvidia(name="NVIDIA GeForce GTX 1080 Ti", compute_capability="6.1")
    new = samples.nvidia(index=1, name="NVIDIA GeForce RTX 5090", compute_capability="12.0")
    host = samples.hardware(gpus=[old, new])
    with pytest.raises(RefusedError, match="GTX 1080 Ti") as caught:
        decide(samples.audit(hardware=host.to_dict()))
    assert "ways out: " in caught.value.hint
