"""Models of several files: one artifact to everyone else, each file verified on its own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from infra_llm.core.catalogue import check_model, model_files
from infra_llm.core.engines import LaunchContext
from infra_llm.core.errors import BadInputError
from infra_llm.core.layout import LAYOUT
from infra_llm.core.plan import LaunchPlan

PLACE = {"kind": "path", "path": "/srv/models/tiny"}


def file(name: str, size: int = 10, digit: str = "0", **more: Any) -> dict[str, Any]:
    return {"filename": name, "sha256": digit * 64, "size": size, **more}


def folder(**more: Any) -> dict[str, Any]:
    files = [file("config.json"), file("model.safetensors", 1000, "1")]
    return {"files": files, "places": [PLACE], **more}


def test_it_looks_like_one_file_to_everyone_else() -> None:
    model = check_model(folder(licence="MIT"), "Tiny/Llama", "here")
    words = f"{'0' * 64}  config.json\n{'1' * 64}  model.safetensors\n"
    assert model["sha256"] == hashlib.sha256(words.encode()).hexdigest()
    assert model["size"] == 1010
    assert model["filename"] == f"Tiny-Llama-{model['sha256'][:8]}"
    assert (model["name"], model["licence"], model["version"]) == ("Tiny/Llama", "MIT", "")


def test_the_order_of_the_files_does_not_matter() -> None:
    turned = folder()
    turned["files"].reverse()
    assert check_model(turned, "a", "")["sha256"] == check_model(folder(), "a", "")["sha256"]


def test_another_content_gets_another_folder() -> None:
    other = folder(files=[file("config.json", digit="2"), file("model.safetensors", 1000, "1")])
    assert check_model(other, "a", "")["filename"] != check_model(folder(), "a", "")["filename"]


def test_files_take_the_places_of_the_model() -> None:
    url = {"kind": "url", "url": "http://site.test/tiny/"}
    own = {"kind": "path", "path": "/elsewhere"}
    model = folder(places=[PLACE, url])
    model["files"].append(file("tokenizer.json", places=[own]))
    files = model_files(check_model(model, "a", ""))
    assert files[0]["places"] == [
        PLACE,
        {"kind": "url", "url": "http://site.test/tiny/config.json"},
    ]
    assert files[2]["places"] == [own]


def test_what_was_checked_once_is_the_same_when_checked_again() -> None:
    once = check_model(folder(), "tiny", "")
    assert check_model(once, str(once["name"]), "") == once


def test_a_model_of_one_file_stays_what_it_is() -> None:
    model = check_model(file("a.gguf", places=[PLACE]), "name", "")
    assert model_files(model) == [model]
    assert model["filename"] == "a.gguf"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (folder(files=[]), "at least one file"),
        (folder(files="config.json"), "at least one file"),
        (folder(files=["config.json"]), "must be a mapping"),
        (folder(files=[file("a"), file("a")]), "names a twice"),
        (folder(files=[file("a/b")]), "plain file name"),
        (folder(files=[file("..")]), "plain file name"),
        (folder(files=[file("a", size=0)]), "more than 0 bytes"),
        (folder(places=None), "places"),
        (folder(places=[{"kind": "url"}]), "lacks url"),
        (folder(places=[{"kind": "index"}]), "lacks distribution"),
        (folder(places=["x"]), "kind None"),
        (folder(sha256="3" * 64), "sha256 is not that of its files"),
    ],
)
def test_a_malformed_one_is_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        check_model(model, "a", "here")


@pytest.mark.parametrize("name", ["", "..", "///", "%s/../.."])
def test_no_name_leads_out_of_the_models_folder(name: str) -> None:
    found = check_model(folder(), name, "")["filename"]
    assert "/" not in found
    assert not found.startswith(".")


def test_the_engine_gets_the_folder_or_the_first_part_of_a_gguf_file() -> None:
    def path(model: dict[str, Any]) -> str:
        checked = check_model(model, "m", "")
        found = LaunchContext(LaunchPlan("x", True), checked, {}, LAYOUT).model_path
        return found.replace(str(checked["filename"]), "FOLDER")

    parts = [file(f"m-0000{n}-of-00002.gguf", digit=str(n)) for n in (2, 1)]
    assert path(folder()) == "/var/lib/infra-llm/models/FOLDER"
    assert path(folder(files=parts)) == ("/var/lib/infra-llm/models/FOLDER/m-00001-of-00002.gguf")
