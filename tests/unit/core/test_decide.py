"""What differs and which roles are due for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests import samples

from infra_llm.core.codec import from_dict
from infra_llm.core.decide import (
    Change,
    Desired,
    applied_plans,
    changes,
    due_roles,
    plan_inputs,
)

LLAMA_CPP_ROLES = [
    "preflight",
    "llama_cpp",
    "model_store",
    "llm_service",
    "llm_access",
    "llm_verify",
]
Edit = Callable[[dict[str, Any]], None]


def found(
    edit: Edit = lambda _: None,
    state: Any = "applied",
    differences: dict[str, list[str]] | None = None,
    installed: str | None = samples.RELEASE_SHA256,
    wanted: frozenset[str] = frozenset({samples.RELEASE_SHA256}),
) -> list[Change]:
    """The changes when what is applied is the sample and what is wished has been edited."""
    wished = samples.desired()
    edit(wished)
    method = wished["engine"]["methods"][0]
    wished["engine"]["methods"] = [
        {**method, "artifact": {**method["artifact"], "sha256": sha256}}
        for sha256 in sorted(wanted)
    ]
    return changes(
        from_dict(Desired, wished),
        samples.state() if state == "applied" else state,
        differences or {},
        installed={"sha256": installed} if installed else {},
    )


def put(*path: Any) -> Edit:
    """An edit that puts the last of `path` at the place that the others name."""
    *keys, last, value = path

    def edit(document: dict[str, Any]) -> None:
        for key in keys:
            document = document[key]
        document[last] = value

    return edit


def test_nothing_differs() -> None:
    assert found() == []
    assert due_roles([], "llama_cpp", full=False) == []


def test_full_runs_every_role_in_order() -> None:
    assert due_roles([], "llama_cpp", full=True) == LLAMA_CPP_ROLES
    stack = ["nvidia_driver", "cuda", "container_engine", "nvidia_container_toolkit"]
    due = due_roles([], "llama_cpp", full=True, stack_due=stack)
    assert due == ["preflight", *stack, *LLAMA_CPP_ROLES[1:]]


def test_a_new_driver_is_verified_with_the_service_running() -> None:
    due = due_roles([], "llama_cpp", full=False, stack_due=["nvidia_driver"])
    assert due == ["preflight", "nvidia_driver", "llm_service", "llm_verify"]
    assert due_roles([], "llama_cpp", full=False, stack_due=["cuda"]) == [
        "preflight",
        "cuda",
        "llm_verify",
    ]


def test_a_first_run_is_every_role() -> None:
    new = found(state=None, installed=None)
    assert [change.role for change in new] == [""]
    assert due_roles(new, "llama_cpp", full=False) == LLAMA_CPP_ROLES


VERIFIED = ["preflight", "llm_verify"]
SERVICE = ["preflight", "llm_service", "llm_verify"]
ENGINE = ["preflight", "llama_cpp", "llm_service", "llm_verify"]
MODEL = ["preflight", "model_store", "llm_service", "llm_verify"]


@pytest.mark.parametrize(
    ("edit", "words", "roles"),
    [
        (put("launch", "port", 9000), "port 8080 -> 9000", SERVICE),
        (put("launch", "flags", "ctx_size", 4096), "flags.ctx_size 8192 -> 4096", SERVICE),
        (put("launch", "flags", "cache_type_k", "q8_0"), "cache_type_k none -> q8_0", SERVICE),
        (put("launch", "host", "::1"), "host 127.0.0.1 -> ::1", SERVICE),
        (put("service", "manager", "supervisor"), "manager systemd -> supervisor", SERVICE),
        (put("service", "python", "/usr/bin/python3.13"), "python3.13", SERVICE),
        (put("model", "sha256", "9" * 64), "model SmolLM2", MODEL),
        (put("verify", "expect", "two"), "another proof is wished", VERIFIED),
        (
            put("inputs", "fingerprint", "memory", "128 GiB"),
            "hardware: memory 64 GiB -> 128 GiB",
            SERVICE,
        ),
        (put("inputs", "fingerprint", "gpu:0", "RTX 3060"), "gpu:0 none -> RTX 3060", SERVICE),
        (put("inputs", "fingerprint", "numa", "2 nodes"), "numa none -> 2 nodes", VERIFIED),
        (put("inputs", "wishes", "infra_llm_context", 8192), "planned anew", VERIFIED),
        (put("inputs", "planner", "2"), "planned anew with the same result", VERIFIED),
    ],
)
def test_each_kind_of_wish_has_its_roles(edit: Edit, words: str, roles: list[str]) -> None:
    differing = found(edit)
    assert any(words in change.text for change in differing), differing
    assert due_roles(differing, "llama_cpp", full=False) == roles


@pytest.mark.parametrize(
    ("role", "roles"),
    [
        ("llama_cpp", ENGINE),
        ("model_store", MODEL),
        ("llm_service", SERVICE),
        ("llm_verify", VERIFIED),
    ],
)
def test_what_the_audit_finds_is_mended_by_the_role_that_owns_it(
    role: str, roles: list[str]
) -> None:
    differing = found(differences={role: ["/etc/x was edited", "/etc/y is gone"]})
    assert [change.text for change in differing] == ["/etc/x was edited", "/etc/y is gone"]
    assert due_roles(differing, "llama_cpp", full=False) == roles


def test_another_engine_is_installed_but_one_that_would_do_stays() -> None:
    both = frozenset({samples.RELEASE_SHA256, "5" * 64})
    assert found(installed="5" * 64, wanted=both) == []
    for installed in (None, "6" * 64):
        differing = found(installed=installed)
        assert [change.role for change in differing] == ["llama_cpp"]
        assert due_roles(differing, "llama_cpp", full=False) == ENGINE


def test_the_total_of_the_fingerprint_is_no_change_of_its_own() -> None:
    differing = found(put("inputs", "fingerprint", "all", "bbbb"))
    assert [change.text for change in differing] == ["planned anew with the same result"]


def test_hardware_that_changes_the_plan_names_both() -> None:
    def edit(wished: dict[str, Any]) -> None:
        put("inputs", "fingerprint", "gpu:0", "RTX 3060")(wished)
        put("launch", "flags", "n_gpu_layers", 31)(wished)

    texts = [change.text for change in found(edit)]
    assert "flags.n_gpu_layers 0 -> 31" in texts
    assert "hardware: gpu:0 none -> RTX 3060" in texts
    assert not any("same result" in text for text in texts)


def test_settings_of_downloads_alone_change_nothing_on_a_host() -> None:
    assert found(put("site", "index_urls", ["http://other.test/simple"])) == []


def test_the_plan_is_kept_while_its_inputs_are_equal() -> None:
    wishes, fingerprint = samples.wishes(), {"cpu": "x", "all": "y"}
    inputs = plan_inputs(fingerprint, wishes, samples.MODEL_SHA256)
    state = samples.state(samples.desired() | {"inputs": inputs})
    again = plan_inputs(dict(fingerprint), samples.wishes(), samples.MODEL_SHA256)
    runs, other = samples.desired()["model"], {"sha256": "9" * 64}
    applied = [(runs, samples.desired()["plan"])]
    assert applied_plans(state, again, [[runs]]) == applied
    assert applied_plans(state, again, [[other, runs]]) == applied
    assert applied_plans(state, again, [[other]]) == []
    assert applied_plans(state, again, [[runs], [other]]) == [], "one more model is offered"
    assert applied_plans(None, again, [[other, runs]]) == []


@pytest.mark.parametrize(
    ("fingerprint", "changed", "sha256", "kept"),
    [
        ({"cpu": "x"}, {}, "m", True),
        ({"cpu": "other"}, {}, "m", False),
        ({"cpu": "x", "gpu:0": "RTX 3060"}, {}, "m", False),
        ({"cpu": "x"}, {}, "n", False),
        ({"cpu": "x"}, {"infra_llm_context": 512}, "m", False),
        ({"cpu": "x"}, {"infra_llm_parallel": 2}, "m", False),
        ({"cpu": "x"}, {"infra_llm_kv_cache_type": "q8_0"}, "m", False),
        ({"cpu": "x"}, {"infra_llm_gpu_layers": 3}, "m", False),
        ({"cpu": "x"}, {"infra_llm_threads": 3}, "m", False),
        ({"cpu": "x"}, {"infra_llm_users": 3}, "m", False),
        ({"cpu": "x"}, {"infra_llm_minimum_speed": 3.0}, "m", False),
        ({"cpu": "x"}, {"infra_llm_port": 9000}, "m", True),
        ({"cpu": "x"}, {"infra_llm_verify_prompt": "Hello?"}, "m", True),
    ],
)
def test_only_inputs_of_the_planner_make_a_new_plan(
    fingerprint: dict[str, str], changed: dict[str, Any], sha256: str, kept: bool
) -> None:
    before = plan_inputs({"cpu": "x"}, samples.wishes(), "m")
    state = samples.state(samples.desired() | {"inputs": before})
    inputs = plan_inputs(fingerprint, samples.wishes(**changed), sha256)
    assert bool(applied_plans(state, inputs, [[samples.desired()["model"]]])) is kept


OLLAMA_ROLES = [
    "preflight", "ollama", "model_store", "llm_service", "ollama_model", "llm_access", "llm_verify"
]  # fmt: skip


def test_ollama_is_handed_the_model_after_its_service_runs() -> None:
    assert due_roles([], "ollama", full=True) == OLLAMA_ROLES
    restarted = [Change("llm_service", "port 8080 -> 9090")]
    assert due_roles(restarted, "ollama", full=False) == [
        "preflight", "llm_service", "ollama_model", "llm_verify"
    ]  # fmt: skip


def test_another_engine_is_another_engines_role() -> None:
    def switch(document: dict[str, Any]) -> None:
        document["engine"]["name"] = "ollama"
        document["launch"]["engine"] = "ollama"

    differing = found(switch)
    assert Change("ollama", "engine llama.cpp -> ollama") in differing
    due = due_roles(differing, "ollama", full=False)
    assert due == [role for role in OLLAMA_ROLES if role not in ("model_store", "llm_access")]


def test_what_was_edited_of_an_engine_that_does_not_serve_is_left_alone() -> None:
    for role in ("ollama", "ollama_model"):
        assert found(differences={role: ["file x was edited (sha256 differs)"]}) == []
