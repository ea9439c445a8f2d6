"""An encoder or a draft model beside a host's model: planned, launched, fetched, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, samples
from tests.tiny_mmproj import SAMPLES, write

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf
from infra_llm.runner.host import Decision, decide_host

Decide = Callable[..., Decision]
WISHED = {"infra_llm_projector": "eye", "infra_llm_draft_model": "small"}


def artifact(name: str, digit: str, mib: int, filename: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "filename": filename or f"{name}.gguf",
        "sha256": digit * 64,
        "size": mib << 20,
        "places": [{"kind": "path", "path": "/srv/a.gguf"}],
    }


OWN = {"eye": artifact("eye", "a", 800), "small": artifact("small", "b", 300)}


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelProfile]:
    folder: Path = tmp_path_factory.mktemp("headers")
    main = descriptors.profile("tinyllama-1.1b.Q4_K_M", folder)
    return {"eye": read_gguf(write(folder / "m.gguf", SAMPLES["gemma3"])), "main": main}


@pytest.fixture
def decide(headers: dict[str, ModelProfile]) -> Decide:
    def read(of: Mapping[str, Any], site: Mapping[str, Any]) -> ModelProfile:
        return headers.get(str(of["name"]), headers["main"])

    def decide(audit: dict[str, Any] | None = None, **wishes: Any) -> Decision:
        wished = samples.wishes(infra_llm_models=OWN, **wishes)
        return decide_host("node", audit or samples.audit(), wished, {}, read)

    return decide


def applied(decision: Decision) -> dict[str, Any]:
    method = decision.desired["engine"]["methods"][0]
    return samples.audit(
        state=json.loads(json.dumps(samples.state(decision.desired))),
        engine={"release": method["release"], "sha256": method["artifact"]["sha256"]},
        port={"number": 8080, "taken_by": "", "ours": True},
    )


def test_both_are_planned_and_launched(decide: Decide) -> None:
    plain, both = decide().desired, decide(**WISHED).desired
    launch, models = both["launch"], both["layout"]["models"]
    assert launch["companions"] == {
        "projector": f"{models}/eye.gguf",
        "draft": f"{models}/small.gguf",
    }
    words = " ".join(launch["arguments"])
    assert f"--mmproj {models}/eye.gguf --model-draft {models}/small.gguf" in words
    assert "--spec-type draft-simple" in words
    more = both["plan"]["host"]["total_mib"] - plain["plan"]["host"]["total_mib"]
    assert more > 107.86 + 600, "the encoder's tensors and a second model"
    seconds = launch["ready"]["seconds"] - plain["launch"]["ready"]["seconds"]
    assert seconds == pytest.approx((800 + 300) / 25, abs=1), "the slowest load of both files"
    assert "companions" not in plain["launch"] and plain["companions"] == {}


def test_a_second_run_finds_nothing_and_another_wish_is_told(decide: Decide) -> None:
    first = decide(**WISHED)
    again = decide(applied(first), **WISHED)
    assert (again.due, again.changes) == ([], [])
    without = decide(applied(first), infra_llm_projector="eye")
    assert "model_store" in without.due and "llm_service" in without.due
    assert "draft small -> none" in [change["text"] for change in without.changes]


def test_the_disk_must_hold_them_too(decide: Decide) -> None:
    tight = samples.audit(free_mib={"opt": 100_000, "var": 1000, "etc": 100_000})
    assert decide(tight).problems == []
    [problem] = decide(tight, **WISHED).problems
    assert "MiB are needed" in problem["what"]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({**WISHED, "infra_llm_engine": "ollama"}, "ollama is served without encoders"),
        ({**WISHED, "infra_llm_engine": "vllm"}, "vllm is served without encoders"),
        ({"infra_llm_projector": "eyes"}, "no model named 'eyes'; did you mean 'eye'"),
        ({"infra_llm_draft_model": "eye"}, "architecture 'clip' is not known"),
        ({"infra_llm_projector": "small"}, "is no projector"),
    ],
)
def test_what_can_not_be_is_refused(decide: Decide, wishes: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        decide(**wishes)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (artifact("other", "c", 1, "eye.gguf"), "are different files named eye.gguf"),
        (artifact("other", "c", 1, "folder.safetensors"), "is no GGUF file"),
    ],
)
def test_files_that_would_overwrite_each_other(
    decide: Decide, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], told: str
) -> None:
    monkeypatch.setitem(OWN, "other", other)
    with pytest.raises(BadInputError, match=told):
        decide(infra_llm_projector="eye", infra_llm_draft_model="other")
