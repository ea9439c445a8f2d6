"""A download that could not be verified is never tried: malformed artifacts are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from infra_llm.core.catalogue import (
    check_artifact,
    cuda_wheels,
    engine_artifact,
    model_candidates,
)
from infra_llm.core.decide import offered_content
from infra_llm.core.errors import BadInputError
from infra_llm.readers.catalogue_file import load_catalogue

URL = {"kind": "url", "url": "http://site.test/a.gguf"}
GOOD: dict[str, Any] = {"filename": "a.gguf", "sha256": "0" * 64, "size": 10, "places": [URL]}


def test_a_complete_artifact_gets_the_optional_fields() -> None:
    assert check_artifact(GOOD, "here") == {
        "name": "a.gguf",
        "version": "",
        "licence": "unknown",
        **GOOD,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256": "0" * 63}, "sha256 must be 64"),
        ({"sha256": "A" * 64}, "sha256 must be 64"),
        ({"sha256": "g" * 64}, "sha256 must be 64"),
        ({"sha256": "0" * 64 + "\n"}, "sha256 must be 64"),
        ({"sha256": 0}, "sha256 must be 64"),
        ({"size": 0}, "more than 0 bytes"),
        ({"size": -1}, "more than 0 bytes"),
        ({"size": "10"}, "whole number of bytes"),
        ({"size": 1.5}, "whole number of bytes"),
        ({"size": True}, "whole number of bytes"),
        ({"filename": ""}, "plain file name"),
        ({"filename": ".."}, "plain file name"),
        ({"filename": "../etc/passwd"}, "plain file name"),
        ({"filename": "/a"}, "plain file name"),
        ({"filename": None}, "plain file name"),
        ({"filename": 7}, "plain file name"),
        ({"places": []}, "at least one place"),
        ({"places": {}}, "at least one place"),
        ({"places": "http://x"}, "at least one place"),
        ({"places": ["http://x"]}, "place 1 has kind None"),
        ({"places": [URL, {"kind": "ftp"}]}, "place 2 has kind 'ftp'"),
        ({"places": [{"kind": ["url"]}]}, "place 1 has kind"),
        ({"places": [{"kind": "url"}]}, "place 1 lacks url"),
        ({"places": [{"kind": "url", "url": ""}]}, "place 1 lacks url"),
        ({"places": [{"kind": "path"}]}, "place 1 lacks path"),
        ({"places": [{"kind": "index", "version": "1"}]}, "place 1 lacks distribution, filename"),
    ],
)
def test_a_malformed_artifact_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(words)) as caught:
        check_artifact(GOOD | change, "here")
    assert caught.value.where == "here"


@pytest.mark.parametrize("key", ["filename", "sha256", "size", "places"])
def test_every_missing_field_is_named(key: str) -> None:
    with pytest.raises(BadInputError, match=f"{key} missing"):
        check_artifact({k: v for k, v in GOOD.items() if k != key}, "here")


@pytest.mark.parametrize("artifact", [None, "a.gguf", ["a.gguf"], 7])
def test_what_is_no_mapping_is_refused(artifact: Any) -> None:
    with pytest.raises(BadInputError, match="mapping"):
        check_artifact(artifact, "here")


def test_the_sites_own_models_come_first() -> None:
    catalogue = {"models": {"a": GOOD | {"size": 1}}}
    assert model_candidates(catalogue, {"a": GOOD | {"size": 2}}, "a")[0]["size"] == 2
    assert model_candidates(catalogue, {}, "a")[0]["size"] == 1


def test_a_broken_model_of_the_site_is_named_by_its_variable() -> None:
    with pytest.raises(BadInputError, match=r"infra_llm_models\.mine: .*sha256"):
        model_candidates({"models": {}}, {"mine": {"filename": "x"}}, "mine")


QUANT = {key: GOOD[key] for key in ("sha256", "size")}


def quants(*changes: dict[str, Any], **beside: Any) -> dict[str, Any]:
    """A model of the site in several quants, with an address for all of them."""
    made = [
        QUANT | {"filename": f"m-{n}.gguf", "sha256": f"{n}" * 64} | change
        for n, change in enumerate(changes)
    ]
    places = [{"kind": "url", "url": "https://site.test/m/"}]
    return {"m": {"licence": "MIT", "places": places, "quants": made} | beside}


def test_a_model_in_several_quants_is_one_artifact_for_each() -> None:
    found = model_candidates({"models": {}}, quants({}, {"licence": "Apache-2.0"}), "m")
    assert [model["filename"] for model in found] == ["m-0.gguf", "m-1.gguf"]
    assert [model["licence"] for model in found] == ["MIT", "Apache-2.0"]
    assert [model["places"][0]["url"] for model in found] == [
        "https://site.test/m/m-0.gguf",
        "https://site.test/m/m-1.gguf",
    ]
    other = model_candidates({"models": {}}, quants({}, {"sha256": "e" * 64}), "m")
    assert offered_content(found) != offered_content(other)
    assert offered_content(found) == offered_content(list(reversed(found)))
    assert offered_content(found[:1]) == found[0]["sha256"]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (quants(), "quants must be a list of at least one model"),
        (quants({}, sha256="a" * 64), "sha256 beside quants"),
        (quants({}, {"sha256": "0" * 64}), "two of the quants are the same file"),
        (quants({}, {"filename": "model.safetensors"}), "all GGUF or all safetensors"),
        (quants({}, {"size": "much"}), r"infra_llm_models\.m\.quants\[1\].*size"),
        ({"m": {"quants": ["a.gguf"]}}, r"quants\[0\].*mapping"),
    ],
)
def test_quants_that_can_not_be_meant_are_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        model_candidates({"models": {}}, own, "m")


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    catalogue = {"models": {"smollm2": GOOD}}
    with pytest.raises(BadInputError) as caught:
        model_candidates(catalogue, {"mine": GOOD, 7: GOOD}, "smolm2")
    assert "did you mean 'smollm2'" in caught.value.what
    assert model_candidates(catalogue, {7: GOOD}, "7"), "YAML reads a name of digits as a number"
    assert "mine" in caught.value.hint
    assert "infra_llm_models" in caught.value.hint


@pytest.mark.parametrize(
    ("method", "machine", "filename"),
    [
        ("release", "x86_64", "llama-b11194-bin-ubuntu-x64.tar.gz"),
        ("release", "aarch64", "llama-b11194-bin-ubuntu-arm64.tar.gz"),
        ("release", "riscv64", None),
        ("wheel", "riscv64", None),
        ("source", "riscv64", "llama_cpp_python-0.3.36.tar.gz"),
        ("no-such-way", "x86_64", None),
    ],
)
def test_engines_by_way_and_architecture(method: str, machine: str, filename: str | None) -> None:
    found = engine_artifact(load_catalogue(), "llama.cpp", method, machine)
    assert (found and found["filename"]) == filename


def _every_artifact(data: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        if "sha256" in data and "places" in data:
            yield where, data
        else:
            for key, value in data.items():
                yield from _every_artifact(value, f"{where}.{key}")


def test_every_artifact_of_the_shipped_catalogue_is_complete() -> None:
    found = dict(_every_artifact(load_catalogue(), "catalogue"))
    assert len(found) >= 7
    for where, artifact in found.items():
        assert check_artifact(artifact, where)["licence"] != "unknown"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_toolkit_of_wheels_is_whole_and_of_one_release(machine: str) -> None:
    toolkits = load_catalogue()["toolkits"]["wheels"]
    assert set(toolkits) == {"13.0", "13.1", "13.2", "13.3"}
    for release in toolkits:
        wheels = {wheel["name"]: wheel for wheel in cuda_wheels(load_catalogue(), release, machine)}
        assert set(wheels) == {
            "nvidia-cuda-nvcc",
            "nvidia-cuda-crt",
            "nvidia-nvvm",
            "nvidia-cuda-runtime",
            "nvidia-cuda-cccl",
            "nvidia-cublas",
        }
        for name in ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm"):
            assert wheels[name]["version"] == wheels["nvidia-cuda-nvcc"]["version"]
            assert wheels[name]["version"].startswith(release + ".")
        assert all(f"{machine}.whl" in wheel["filename"] for wheel in wheels.values())
        assert all(wheel["places"][0]["distribution"] == name for name, wheel in wheels.items())


def test_a_release_without_a_compiler_on_indexes_is_answered_with_those_that_have() -> None:
    with pytest.raises(BadInputError, match=re.escape("there are 13.0, 13.1, 13.2, 13.3")):
        cuda_wheels(load_catalogue(), "12.9", "x86_64")


def test_the_default_model_is_the_pinned_one() -> None:
    [model] = model_candidates(load_catalogue(), {}, "smollm2-135m-instruct-q4_1")
    assert model["size"] == 98_362_432
    assert model["sha256"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
