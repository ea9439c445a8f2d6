"""Ollama: which archive a host gets, what its service is told, and where its model must be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests import samples
from tests.descriptors import profile

from infra_llm.core.catalogue import with_own_engines
from infra_llm.core.engines import ENGINES, LaunchContext
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.calibration import observe
from infra_llm.core.hardware import Cpu
from infra_llm.core.layout import layout_of
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.verdict import CheckResult, judge
from infra_llm.readers.catalogue_file import load_catalogue

OLLAMA = ENGINES["ollama"]
OWN = {
    "filename": "own.tar.zst",
    "version": "9.9 rc/1",
    "sha256": "9" * 64,
    "size": 5,
    "places": [{"kind": "path", "path": "/srv"}],
}
MODEL = "llama-3.1-8b.Q4_K_M"
LAYOUT = layout_of("", "ollama")


def choose(machine: str = "x86_64", catalogue: Any = None, **wishes: Any) -> dict[str, Any]:
    gpus = wishes.pop("gpus", [])
    hardware = samples.hardware(cpu=Cpu(architecture=machine), gpus=gpus)
    return OLLAMA.choose(catalogue or load_catalogue(), hardware, samples.wishes(**wishes), [])


def plan(tmp_path: Path, gpus: int = 1, **wishes: Any) -> LaunchPlan:
    cards = [samples.nvidia(index=number) for number in range(gpus)]
    hardware = samples.hardware(gpus=cards)
    return plan_launch(hardware, profile(MODEL, tmp_path), FitWishes(**wishes), "ollama")


def test_each_architecture_has_its_own_pinned_archive() -> None:
    files = {}
    for machine in ("x86_64", "aarch64"):
        (method,) = choose(machine)["methods"]
        files[machine] = method["artifact"]["filename"]
        assert method["artifact"]["folder"] == method["release"]
        assert method["release"].endswith(method["artifact"]["sha256"][:8])
    assert files == {
        "x86_64": "ollama-linux-amd64.tar.zst",
        "aarch64": "ollama-linux-arm64.tar.zst",
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"machine": "riscv64"}, "no release of Ollama for riscv64"),
        ({"gpus": [samples.nvidia(compute_capability="3.5")]}, "compute capability is 3.5"),
        ({"infra_llm_model": "a b"}, "no model named 'a b'"),
        ({"infra_llm_model": "-x"}, "no model named"),
        ({"infra_llm_model": "x" * 81}, "no model named"),
        ({"infra_llm_model": "a/b/c"}, "no model named"),
        ({"infra_llm_model": "../x"}, "no model named"),
    ],
)
def test_what_ollama_would_refuse_or_leave_out_is_refused_first(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        choose(**given)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["smollm2-135m-instruct-q4_1", "team/llama_3.1", "x:8b", "_"])
def test_names_that_ollama_takes(name: str) -> None:
    assert choose(infra_llm_model=name)["methods"]


def test_a_site_has_releases_of_its_own() -> None:
    catalogue = with_own_engines(load_catalogue(), {"ollama": {"release": {"any": OWN}}})
    (method,) = choose("riscv64", catalogue)["methods"]
    assert method["release"] == "release-9.9-rc-1-99999999"
    assert catalogue["engines"]["llama.cpp"] == load_catalogue()["engines"]["llama.cpp"]
    assert "9" * 64 not in str(load_catalogue()), "the catalogue itself was changed"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"olama": {}}, "olama: no such engine"),
        ({"ollama": []}, "mapping of methods"),
        ({"ollama": {"release": []}}, "mapping of CPU architectures"),
        ({"ollama": {"release": {"x86_64": {"filename": "a"}}}}, "sha256, size, places missing"),
        ({"ollama": {"release": {"x86_64": {**OWN, "sha256": "F" * 64}}}}, "sha256 must be"),
    ],
)
def test_unusable_releases_of_a_site_are_named(own: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        with_own_engines(load_catalogue(), own)
    assert caught.value.where.startswith("infra_llm_engine_artifacts")


@pytest.mark.parametrize(("bind", "host"), [("127.0.0.1", "127.0.0.1:9090"), ("::1", "[::1]:9090")])
def test_the_service_is_told_everything_it_would_choose_itself(
    tmp_path: Path, bind: str, host: str
) -> None:
    found = plan(tmp_path, context=16384, parallel=2)
    wishes = samples.wishes(infra_llm_bind=bind, infra_llm_port=9090)
    model = {"filename": "m.gguf", "size": 40_000 << 20}
    launch = OLLAMA.launch(LaunchContext(found, model, wishes, LAYOUT))
    assert launch.program == ["/opt/infra-llm/ollama/current/bin/ollama"]
    assert launch.arguments == ["serve"]
    assert launch.context_length == 8192
    told = launch.environment
    assert all(isinstance(value, str) for value in told.values())
    assert told["OLLAMA_HOST"] == host
    assert told["HOME"] == "/var/lib/infra-llm/ollama"
    assert told["OLLAMA_NUM_PARALLEL"] == "2"
    assert told["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert told["OLLAMA_LOAD_TIMEOUT"] == f"{60 + 40_000 // 25}s"
    assert told["OLLAMA_KEEP_ALIVE"] == "-1"
    assert told["LLAMA_ARG_FIT"] == "off"
    assert launch.parameters["num_gpu"] == 33


def test_a_small_model_keeps_upstreams_patience(tmp_path: Path) -> None:
    model = {"filename": "m.gguf", "size": 1}
    launch = OLLAMA.launch(LaunchContext(plan(tmp_path), model, samples.wishes(), LAYOUT))
    assert launch.environment["OLLAMA_LOAD_TIMEOUT"] == "300s"


def test_an_architecture_that_ollama_serves_alone_is_planned_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra_llm.core.fit.ollama.ONE_SLOT", ("llama",))
    found = plan(tmp_path, context=16384, parallel=2)
    assert found.flags["environment"]["OLLAMA_NUM_PARALLEL"] == 1
    assert found.flags["parameters"]["num_ctx"] == 8192
    assert any("one slot in place of 2" in reason.text for reason in found.why)


def placement(
    tmp_path: Path, gpus: int, running: list[dict[str, Any]] | None
) -> tuple[CheckResult, bool]:
    found = plan(tmp_path, gpus, context=8192)
    desired = samples.desired() | {"plan": found.to_dict()}
    desired["launch"] = {"engine": "ollama", "alias": "m"}
    measured = {"healthy_after_seconds": 1.0, "answer": "2", "answered": True, "running": running}
    verdict = judge(measured, desired)
    (check,) = [check for check in verdict.checks if check.name == "placement"]
    return check, verdict.passed


def loaded(size: float, vram: float, context: int | None = 8192) -> list[dict[str, Any]]:
    return [{"name": "m:latest", "size_mib": size, "vram_mib": vram, "context_length": context}]


@pytest.mark.parametrize(
    ("gpus", "running", "words"),
    [
        (1, loaded(6000, 0), "0 of 6,?000 MiB on the GPU"),
        (1, loaded(6000, 2000), "2,?000 of 6,?000 MiB on the GPU"),
        (1, loaded(6000, 6000, 4096), "context of 4096, 8192 planned"),
        (1, [], "m is not loaded; loaded: none"),
        (1, [{**loaded(1, 1)[0], "name": "other:latest"}], "loaded: other:latest"),
        (0, loaded(6000, 6000), "planned for the CPU, 6,?000 of 6,?000"),
    ],
)
def test_a_model_in_another_place_than_planned_fails_the_host(
    tmp_path: Path, gpus: int, running: list[dict[str, Any]], words: str
) -> None:
    check, passed = placement(tmp_path, gpus, running)
    assert not check.ok
    assert check.required
    assert not passed
    assert re.search(words, check.detail), check.detail


@pytest.mark.parametrize(
    ("gpus", "running"),
    [(1, loaded(5900, 5900)), (1, loaded(5900, 5900, None)), (0, loaded(6000, 0))],
)
def test_a_model_where_it_was_planned_passes(
    tmp_path: Path, gpus: int, running: list[dict[str, Any]]
) -> None:
    check, passed = placement(tmp_path, gpus, running)
    assert check.ok, check.detail
    assert passed


def test_what_ollama_measures_corrects_its_next_plans(tmp_path: Path) -> None:
    found = plan(tmp_path, 0, context=8192)
    held = found.host.total_mib + 60
    learned = observe(found, {"memory": {"rss_mib": held}}, samples.hardware(), "release-0.34.4")
    ((key, calibration),) = learned.items()
    assert key.startswith("llama|release-0.34.4|cpu")
    assert calibration.overhead is not None
    assert calibration.overhead.mean == pytest.approx(60, abs=0.5)
    again = plan_launch(
        samples.hardware(),
        profile(MODEL, tmp_path),
        FitWishes(context=8192),
        "ollama",
        {"cpu x86_64": calibration},
    )
    assert again.host.total_mib == pytest.approx(held, abs=1)
