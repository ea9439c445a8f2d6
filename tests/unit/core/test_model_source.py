"""Headers of models are read once and remembered; the catalogue file is of our schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests import descriptors, tiny_llama

from infra_llm.core.catalogue import check_model
from infra_llm.core.errors import BadInputError
from infra_llm.readers import catalogue_file
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.model_source import cache_folder, read_header

SITE: dict[str, Any] = {"index_urls": [], "folders": []}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "infra-llm"


@pytest.fixture
def artifact(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "model.gguf"
    descriptors.write_gguf(descriptors.descriptor("tinyllama-1.1b.Q4_K_M"), path)
    return {
        "name": "tinyllama",
        "filename": path.name,
        "sha256": "3" * 64,
        "size": path.stat().st_size,
        "places": [{"kind": "path", "path": str(path)}],
    }


def test_a_header_is_read_from_the_first_place_that_has_it(artifact: dict[str, Any]) -> None:
    gone = {"kind": "path", "path": "/nowhere/model.gguf"}
    artifact["places"] = [gone, *artifact["places"]]
    profile = read_header(artifact, SITE)
    assert profile.architecture == "llama"
    assert profile.file_bytes == artifact["size"]


def test_a_header_that_was_read_is_remembered(
    artifact: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    first = read_header(artifact, SITE)
    (tmp_path / "model.gguf").unlink()
    assert read_header(artifact, SITE) == first
    assert [path.name for path in (cache / "models").iterdir()] == ["3" * 64 + ".json"]
    with pytest.raises(Exception, match=r"model\.gguf"):
        read_header(artifact | {"sha256": "4" * 64}, SITE)


@pytest.mark.parametrize(
    "kept", ["", "{", "[]", "{}", '{"schema": "infra-llm/model-profile/9", "architecture": "x"}']
)
def test_what_is_remembered_but_damaged_is_read_again(
    kept: str, artifact: dict[str, Any], cache: Path
) -> None:
    path = cache / "models" / f"{artifact['sha256']}.json"
    path.parent.mkdir(parents=True)
    path.write_text(kept)
    assert read_header(artifact, SITE).architecture == "llama"
    assert json.loads(path.read_text())["architecture"] == "llama"


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "infra-llm"


def test_no_model_is_remembered_that_could_not_be_read(
    artifact: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.write(b"no model at all")
    with pytest.raises(BadInputError):
        read_header(artifact, SITE)
    assert not (cache / "models").exists()


@pytest.mark.parametrize("text", ["", "- a\n", "schema: infra-llm/catalogue/2\n", "schema: 1\n"])
def test_a_catalogue_of_another_schema_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalogue.yml").write_text(text)
    monkeypatch.setattr(catalogue_file, "PACKAGE", tmp_path)
    with pytest.raises(BadInputError, match="infra-llm/catalogue/1"):
        load_catalogue.__wrapped__()


def folder_artifact(folder: Path) -> dict[str, Any]:
    files = [
        {
            "filename": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in folder.iterdir()
    ]
    model = {"files": files, "places": [{"kind": "path", "path": str(folder)}]}
    return check_model(model, "tiny", "test")


@pytest.mark.parametrize("parts", [1, 3])
def test_the_headers_of_a_safetensors_folder(parts: int, tmp_path: Path) -> None:
    folder = tiny_llama.write_folder(tmp_path / "tiny", parts)
    profile = read_header(folder_artifact(folder), SITE)
    assert profile.format == "safetensors"
    assert profile.architecture == "LlamaForCausalLM"
    assert profile.tensor_bytes == tiny_llama.total_bytes()
    assert (profile.context_length, profile.vocab_size, profile.parts) == (4096, 258, parts)


def test_a_part_that_the_list_forgot_is_named(tmp_path: Path) -> None:
    folder = tiny_llama.write_folder(tmp_path / "tiny", parts=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"names model-00002-of-00003\.safetensors"):
        read_header(folder_artifact(folder), SITE)


def test_a_folder_of_the_site_is_asked_below_the_models_name(tmp_path: Path) -> None:
    folder = tiny_llama.write_folder(tmp_path / "site" / "tiny")
    artifact = folder_artifact(folder)
    for file in artifact["files"]:
        file["places"] = [{"kind": "path", "path": "/nowhere"}]
    # Another model's config.json lies in the site's folder itself.
    (tmp_path / "site" / "config.json").write_text("{}")
    site = {"index_urls": [], "folders": [str(tmp_path / "site")]}
    assert read_header(artifact, site).vocab_size == 258


def test_a_gguf_file_in_parts_is_one_model(artifact: dict[str, Any], tmp_path: Path) -> None:
    whole = read_header(artifact, SITE)
    content = (tmp_path / "model.gguf").read_bytes()
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(content)
    files = [
        {"filename": f"m-0000{n}-of-00002.gguf", "sha256": "5" * 64, "size": len(content)}
        for n in (2, 1)
    ]
    model = {"files": files, "places": [{"kind": "path", "path": str(tmp_path)}]}
    profile = read_header(check_model(model, "split", "test"), SITE)
    assert profile.parts == 2
    assert profile.file_bytes == 2 * whole.file_bytes
