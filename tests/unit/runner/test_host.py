"""Wishes and audit in, decision out; plan sets are applied exactly or refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, samples

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError, DoesNotFitError, InfraLlmError, RefusedError
from infra_llm.core.fit.calibration import Calibration, Figure
from infra_llm.core.hardware import Memory, System
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.verdict import CheckResult, Verdict
from infra_llm.runner import host, index, planning
from infra_llm.runner.host import (
    Decision,
    audit_arguments,
    decide_host,
    host_state,
)
from infra_llm.runner.plan_set import read_plan_set
from infra_llm.runner.planning import fit_wishes
from infra_llm.runner.wishes import host_wishes, wishes_of_task

ALL = ["preflight", "llama_cpp", "model_store", "llm_service", "llm_access", "llm_verify"]
Decide = Callable[..., Decision]


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return descriptors.profile("tinyllama-1.1b.Q4_K_M", tmp_path_factory.mktemp("model"))


@pytest.fixture
def headers(profile: ModelProfile) -> list[str]:
    """Names of the models whose headers were read."""
    return []


@pytest.fixture
def decide(profile: ModelProfile, headers: list[str]) -> Decide:
    def read(artifact: Mapping[str, Any], site: Mapping[str, Any]) -> ModelProfile:
        headers.append(artifact["filename"])
        return profile

    def decide(
        audit: dict[str, Any] | None = None,
        wishes: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        name: str = "node",
    ) -> Decision:
        return decide_host(
            name, audit or samples.audit(), wishes or samples.wishes(), run or {}, read
        )

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


def test_a_new_host_gets_everything(decide: Decide) -> None:
    found = decide()
    assert found.due == ALL
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
    second = decide(applied(first))
    assert (second.due, second.changes, second.problems) == ([], [], [])
    assert second.desired == first.desired
    assert headers == []


def test_memory_that_happens_to_be_in_use_does_not_change_the_plan(decide: Decide) -> None:
    busy = samples.hardware(memory=Memory(total_mib=65536, available_mib=100)).to_dict()
    first = decide()
    assert decide(applied(first, hardware=busy)).due == []
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
    second = informed(applied(first))
    assert (second.due, second.changes, second.desired) == ([], [], first.desired)


def test_full_runs_every_role_with_the_same_plan(decide: Decide, headers: list[str]) -> None:
    first = decide()
    headers.clear()
    again = decide(applied(first), run={"full": True})
    assert again.due == ALL
    assert again.changes == []
    assert again.desired["plan"] == first.desired["plan"]
    assert headers == []


def test_only_the_roles_that_are_named(decide: Decide) -> None:
    assert decide(run={"only": ["llama_cpp", "model_store"]}).due == ["llama_cpp", "model_store"]
    assert decide(run={"only": []}).due == ALL


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
    found = decide(applied(decide()), samples.wishes(**changed))
    assert set(found.due) == roles
    assert found.previous is not None


def test_another_model_is_fetched_and_planned(decide: Decide, headers: list[str]) -> None:
    first = decide()
    own = {"mine": samples.desired()["model"]}
    wishes = samples.wishes(infra_llm_model="mine", infra_llm_models=own)
    found = decide(applied(first), wishes)
    assert found.due == ["preflight", "model_store", "llm_service", "llm_verify"]
    assert headers[-1] == "model.gguf"
    assert found.desired["launch"]["alias"] == "mine"


def test_a_gpu_swap_is_planned_anew_and_named(decide: Decide, headers: list[str]) -> None:
    first = decide()
    headers.clear()
    fingerprint = samples.hardware().fingerprint | {"gpu:0": "RTX 3060", "all": "bbbb"}
    swapped = samples.hardware(gpus=[samples.nvidia()], fingerprint=fingerprint).to_dict()
    found = decide(applied(first, hardware=swapped))
    assert len(headers) == 1
    assert "llama_cpp" in found.due, "a CUDA build in place of the CPU's"
    assert found.desired["engine"]["methods"][0]["method"] == "source"
    assert any("RTX 3060" in change["text"] for change in found.changes)
    assert found.desired["plan"]["flags"].get("n_gpu_layers")


def test_more_memory_with_the_same_plan_is_only_verified(decide: Decide) -> None:
    first = decide()
    fingerprint = samples.hardware().fingerprint | {"numa": "2 nodes", "all": "cccc"}
    found = decide(applied(first, hardware=samples.hardware(fingerprint=fingerprint).to_dict()))
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
    assert decide(applied(first, effective_uid=1000)).problems == [], "nothing is due there"


def test_what_the_host_was_is_kept_for_going_back(decide: Decide) -> None:
    first = decide()
    found = decide(applied(first), samples.wishes(infra_llm_port=9000))
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


# -- one model in several quants ---------------------------------------------

LADDER = ("Q4_0", "Q4_K_M", "Q8_0")


@pytest.fixture(scope="session")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    """Headers of Llama 2 7B by file name."""
    folder = tmp_path_factory.mktemp("ladder")
    return {f"{q}.gguf": descriptors.profile(f"llama-2-7b.{q}", folder) for q in LADDER}


def ladder_wishes(**changes: Any) -> dict[str, Any]:
    sizes = [3_800, 4_100, 7_200]
    files = [
        {"filename": f"{q}.gguf", "sha256": f"{n}" * 64, "size": size << 20}
        for n, (q, size) in enumerate(zip(LADDER, sizes, strict=True))
    ]
    place = [{"kind": "url", "url": "http://site.test/llama-2-7b"}]
    own = {"llama": {"licence": "llama2", "places": place, "quants": files}}
    return samples.wishes(infra_llm_model="llama", infra_llm_models=own, **changes)


def card_host(vram_mib: int) -> dict[str, Any]:
    """A host with one card."""
    card = samples.nvidia(vram_total_mib=vram_mib)
    parts = {"gpu:0": f"RTX {vram_mib}", "all": str(vram_mib)}
    return samples.hardware(gpus=[card], fingerprint=parts).to_dict()


@pytest.mark.parametrize(
    ("vram", "speed", "quant"),
    [(24_576, 30, "Q8_0"), (9_000, 30, "Q8_0"), (7_000, 30, "Q4_K_M"), (4_800, 60, "Q4_0")],
)
def test_every_host_gets_the_best_quant_that_fits_it(
    ladder: dict[str, ModelProfile], vram: int, speed: float, quant: str
) -> None:
    wished = ladder_wishes(
        infra_llm_context=2048,
        infra_llm_minimum_speed=speed,
    )

    def read(artifact: Mapping[str, Any], _site: Mapping[str, Any]) -> ModelProfile:
        return ladder[artifact["filename"]]

    hardware = card_host(vram)
    first = decide_host("node", samples.audit(hardware=hardware), wished, {}, read)
    assert first.desired["model"]["filename"] == f"{quant}.gguf"
    assert first.desired["launch"]["model"].endswith(f"/{quant}.gguf")
    assert first.desired["plan"]["model"]["quant"] == quant
    rungs = [a["change"] for a in first.desired["plan"]["alternatives"]]
    assert {f"quant {other}" for other in LADDER if other != quant} <= set(rungs)
    second = decide_host("node", applied(first, hardware=hardware), wished, {}, read)
    assert second.desired == first.desired
    if vram == 24_576:
        swapped = applied(first, hardware=card_host(7_000))
        less = decide_host("node", swapped, wished, {}, read)
        assert less.desired["model"]["filename"] == "Q4_K_M.gguf"
        assert "model Q8_0.gguf -> Q4_K_M.gguf" in [change["text"] for change in less.changes]
        assert "model_store" in less.due


@pytest.mark.parametrize(
    ("vendor", "wish", "layers"),
    [
        ("nvidia", {"llama_cpp_install_method": "wheel"}, 0),
        ("nvidia", {"llama_cpp_install_method": "source", "llama_cpp_backend": "cpu"}, 0),
        ("nvidia", {"llama_cpp_install_method": "source"}, 23),
        ("nvidia", {"llama_cpp_install_method": "source", "llama_cpp_backend": "vulkan"}, 23),
        ("amd", {}, 0),
        ("amd", {"llama_cpp_install_method": "source", "llama_cpp_backend": "vulkan"}, 23),
    ],
)
def test_no_layer_is_planned_onto_a_card_that_the_build_can_not_use(
    decide: Decide, vendor: str, wish: dict[str, Any], layers: int
) -> None:
    card = samples.nvidia(vendor=vendor)
    hardware = samples.hardware(gpus=[card]).to_dict()
    wished = samples.wishes(**wish)
    first = decide(samples.audit(hardware=hardware), wished)
    plan = first.desired["plan"]
    assert plan["flags"]["n_gpu_layers"] == layers
    assert len(plan["devices"]) == bool(layers)
    told = [text for text in plan["warnings"] if card.name in text]
    assert bool(told) is not bool(layers), plan["warnings"]
    second = decide(applied(first, hardware=hardware), wished)
    assert second.desired == first.desired


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


# -- plan sets ----------------------------------------------------------------


def plan_set(decision: Decision, name: str = "node") -> dict[str, Any]:
    document = {"schema": "infra-llm/plan-set/1", "hosts": {name: decision.to_dict()}}
    copied: dict[str, Any] = json.loads(json.dumps(document))
    return copied


@pytest.fixture
def apply(decide: Decide, tmp_path: Path) -> Callable[..., Decision]:
    """Decide with a given plan set (text or document)."""

    def apply(document: Any, audit: dict[str, Any] | None = None) -> Decision:
        path = tmp_path / "plan.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return decide(audit, samples.wishes(infra_llm_port=9000), {"plan_file": str(path)})

    return apply


def test_a_plan_is_applied_exactly(apply: Callable[..., Decision], decide: Decide) -> None:
    planned = decide(wishes=samples.wishes(infra_llm_context=2048))
    found = apply(plan_set(planned))
    assert found.desired == planned.desired
    assert found.due == ALL


def test_a_plan_for_other_hardware_is_refused(
    apply: Callable[..., Decision], decide: Decide
) -> None:
    document = plan_set(decide())
    machine = samples.hardware(fingerprint={"cpu": "EPYC 7763 x64", "memory": "64 GiB"})
    with pytest.raises(RefusedError) as caught:
        apply(document, samples.audit(hardware=machine.to_dict()))
    assert int(caught.value.code) == 7
    assert "cpu: planned Xeon Gold 6130 x16, found EPYC 7763 x64" in caught.value.what
    assert "memory" not in caught.value.what
    assert "infra-llm plan" in caught.value.hint


def test_a_plan_for_other_hosts_is_refused(apply: Callable[..., Decision], decide: Decide) -> None:
    with pytest.raises(BadInputError, match="no entry for this host"):
        apply(plan_set(decide(), "other"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "can't be read"),
        ("{", "can't be read"),
        ("\x00\x01", "can't be read"),
        ("[]", "not a plan"),
        ("null", "not a plan"),
        ("{}", "not a plan"),
        ('{"schema": "infra-llm/plan-set/2", "hosts": {}}', "not a plan"),
        ('{"schema": "infra-llm/launch-plan/1"}', "not a plan"),
        ('{"schema": "infra-llm/plan-set/1"}', "hosts"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": []}', "hosts"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": null}}', "hosts.a"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": []}}', "hosts.a"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": {"desired": 1}}}', "hosts.a.desired"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": {"desired": {}}}}', "missing"),
    ],
)
def test_what_is_no_plan_set_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_plan_set(path)
    assert words in str(caught.value)
    assert str(path) in caught.value.where


def test_a_plan_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "no.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(BadInputError, match="can't be read"):
            read_plan_set(path)


def broken(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every document that comes of `document` by losing one key or changing one value's type."""
    if isinstance(document, dict):
        for key in document:
            yield f"{path} without {key}", {k: v for k, v in document.items() if k != key}
            for what, value in broken(document[key], (*path, key)):
                yield what, {**document, key: value}
    wrong: Any = {"odd": "value"} if not isinstance(document, dict) else "odd"
    yield f"{path} of another type", wrong


def crashes(documents: Iterator[tuple[str, Any]], use: Callable[[Any], Any]) -> list[str]:
    found = []
    for what, document in documents:
        try:
            use(document)
        except InfraLlmError:
            continue
        except Exception as error:  # noqa: BLE001 - any other is what the test looks for
            found.append(f"{what}: {type(error).__name__} {error}")
    return found


def test_a_damaged_plan_set_is_refused_or_used_never_a_crash(
    apply: Callable[..., Decision], decide: Decide
) -> None:
    found = crashes(broken(plan_set(decide())), apply)
    assert not found, "\n".join(found)


def test_a_damaged_state_of_the_host_is_mended_never_a_crash(
    decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies on the host, and may be of another version or edited by hand."""
    first = decide()
    audit, plan = applied(first), from_dict(LaunchPlan, first.desired["plan"])
    # The same, without the work.
    monkeypatch.setattr(planning, "choose_quant", lambda *_: (0, plan))

    def use(state: Any) -> None:
        found = decide(copy.deepcopy(audit | {"state": state}))
        assert found.desired["launch"]["port"] == 8080

    found = crashes(broken(audit["state"]), use)
    assert not found, "\n".join(found)


# -- what a host keeps ----------------------------------------------------------


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
    audit = applied(decide())
    audit["state"]["schema"] = "infra-llm/host-state/9"
    found = decide(audit)
    assert found.due == ALL
    assert "infra-llm/host-state/1" in found.changes[0]["text"]


OWN_OLLAMA = {
    "filename": "own.tar.zst",
    "version": "9.9",
    "sha256": "9" * 64,
    "size": 5,
    "places": [{"kind": "path", "path": "/srv"}],
}


def test_ollama_is_one_variable(decide: Decide) -> None:
    first = decide()
    wished = samples.wishes(infra_llm_engine="ollama")
    after = applied(first) | {"engine": {}}  # the audit looks at the wished engine's folder
    second = decide(after, wished)
    assert "engine llama.cpp -> ollama" in [change["text"] for change in second.changes]
    assert set(second.due) >= {"ollama", "llm_service", "ollama_model", "llm_verify"}
    assert not {"llama_cpp", "model_store"} & set(second.due)
    assert second.previous is not None
    assert second.previous["release"] is None
    desired = second.desired
    assert desired["verify"]["running"] == "/api/ps"
    assert desired["service"]["unit"]["writable"] == ["/var/lib/infra-llm/ollama"]
    assert desired["launch"]["ready"]["answer"] is False
    assert decide(applied(second), wished).due == []
    # And back: nothing of llama.cpp has to come again.
    back = decide(applied(second) | {"engine": applied(first)["engine"]})
    assert "llama_cpp" in back.due
    assert "ollama_model" not in back.due


def test_a_release_of_the_sites_own_is_an_upgrade(decide: Decide) -> None:
    wished = samples.wishes(infra_llm_engine="ollama")
    first = decide(wishes=wished)
    own = {"ollama": {"release": {"any": OWN_OLLAMA, "x86_64": OWN_OLLAMA}}}
    second = decide(applied(first), wished | {"infra_llm_engine_artifacts": own})
    assert [change["text"] for change in second.changes] == ["the wished ollama is another one"]
    assert second.methods[0]["artifact"]["sha256"] == "9" * 64
    assert second.previous is not None
    assert second.previous["release"] == first.desired["engine"]["methods"][0]["release"]


def test_another_engines_flags_in_a_state_are_planned_anew(decide: Decide) -> None:
    wished = samples.wishes(infra_llm_engine="ollama")
    first = decide(wishes=wished)
    audit = applied(first)
    audit["state"]["desired"]["plan"]["flags"] = {"ctx_size": 1, "parallel": 1}
    assert "num_ctx" in decide(audit, wished).desired["plan"]["flags"]["parameters"]


def test_behind_a_front_ollama_listens_on_loopback_and_is_not_managed_from_outside(
    decide: Decide,
) -> None:
    wished = samples.wishes(infra_llm_engine="ollama", infra_llm_api_key="auto")
    desired = decide(wishes=wished).desired
    front = desired["access"]["front"]
    told = desired["launch"]["environment"]
    assert told["OLLAMA_HOST"] == f"127.0.0.1:{front['engine_port']}"
    assert "/v1/" in front["public_paths"]
    assert not [path for path in front["public_paths"] if "create" in path or "delete" in path]
    assert (
        decide(wishes=samples.wishes(infra_llm_api_key="auto")).desired["access"]["front"][
            "public_paths"
        ]
        == []
    )


def with_card(name: str, vram_mib: int, pci_id: str) -> dict[str, Any]:
    card = samples.nvidia(name=name, vram_total_mib=vram_mib, vram_free_mib=vram_mib, pci_id=pci_id)
    fingerprint = samples.hardware().fingerprint | {"gpu:0000:01:00.0": pci_id, "all": pci_id}
    return samples.hardware(gpus=[card], fingerprint=fingerprint).to_dict()


def test_a_swapped_card_is_named_and_the_old_plan_is_kept_beside(decide: Decide) -> None:
    small = with_card("RTX 3060", 12288, "10de:2504")
    first = decide(samples.audit(hardware=small))
    audit = applied(first, hardware=with_card("RTX 4090", 24564, "10de:2684"))
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
    found = decide(applied(first, hardware=other), source)
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
    again = decide(applied(first, hardware=busy, stack=stack), refusing)
    assert [change["text"] for change in again.changes] == []


def test_a_card_on_which_nothing_fits_keeps_the_old_state_and_says_why(decide: Decide) -> None:
    large = with_card("RTX 4090", 24564, "10de:2684")
    first = decide(samples.audit(hardware=large))
    tiny = with_card("GT 1030", 64, "10de:1d01")
    tiny["memory"]["total_mib"] = tiny["memory"]["available_mib"] = 64
    audit = applied(first, hardware=tiny)
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
    audit = applied(first)
    audit["state"]["desired"] = json.loads(json.dumps(smaller))
    assert decide(audit).changes == []
