"""A host of Ollama: one variable, and what it keeps of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable

from tests import samples

from infra_llm.runner.host import (
    Decision,
)

Decide = Callable[..., Decision]


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
    after = samples.applied(first) | {"engine": {}}  # the audit looks at the wished engine's folder
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
    assert decide(samples.applied(second), wished).due == []
    # And back: nothing of llama.cpp has to come again.
    back = decide(samples.applied(second) | {"engine": samples.applied(first)["engine"]})
    assert "llama_cpp" in back.due
    assert "ollama_model" not in back.due


def test_a_release_of_the_sites_own_is_an_upgrade(decide: Decide) -> None:
    wished = samples.wishes(infra_llm_engine="ollama")
    first = decide(wishes=wished)
    own = {"ollama": {"release": {"any": OWN_OLLAMA, "x86_64": OWN_OLLAMA}}}
    second = decide(samples.applied(first), wished | {"infra_llm_engine_artifacts": own})
    assert [change["text"] for change in second.changes] == ["the wished ollama is another one"]
    assert second.methods[0]["artifact"]["sha256"] == "9" * 64
    assert second.previous is not None
    assert second.previous["release"] == first.desired["engine"]["methods"][0]["release"]


def test_another_engines_flags_in_a_state_are_planned_anew(decide: Decide) -> None:
    wished = samples.wishes(infra_llm_engine="ollama")
    first = decide(wishes=wished)
    audit = samples.applied(first)
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
