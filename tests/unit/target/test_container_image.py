"""Images in a container engine: loaded whole or not at all, run by their id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.container_image import container_pid, read_image, remove_images, run_image

ID = "sha256:" + "c" * 64
DIGEST = "sha256:" + "d" * 64
PLACE = {"kind": "registry", "image": "registry.example/vllm", "digest": DIGEST}


class Client:
    """Stand-in for docker: knows images by reference."""

    def __init__(self, *, loads: str = "Loaded image: vllm:1\n", pulls: bool = True) -> None:
        self.loads, self.pulls = loads, pulls
        self.images: dict[str, str] = {}
        self.asked: list[list[str]] = []

    def __call__(self, words: Sequence[str], seconds: float) -> tuple[int, str]:
        del seconds
        self.asked.append(list(words))
        if words[1] == "load":
            self.images |= {"vllm:1": ID, ID: ID}
            return 0, self.loads
        if words[1] == "pull":
            if not self.pulls:
                return 1, "Error: connection refused\n"
            self.images |= {words[-1]: ID, ID: ID}
            return 0, ID
        if words[1:3] == ["image", "inspect"]:
            found = self.images.get(words[-1])
            # podman leaves the prefix out, docker does not.
            return (0, found.removeprefix("sha256:") + "\n") if found else (1, "no such image")
        if words[1:3] == ["image", "rm"]:
            self.images.pop(words[-1], None)
        return 0, ""


@pytest.fixture
def image(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "site"
    folder.mkdir()
    content = b"an archive"
    (folder / "vllm.tar").write_bytes(content)
    return {
        "name": "vllm", "version": "1", "filename": "vllm.tar", "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "places": [{"kind": "path", "path": str(folder)}],
    }  # fmt: skip


def params(tmp_path: Path, image: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "dest": str(tmp_path / "releases" / "podman-1"), "runtime": "podman", "image": image,
        "artifact": {**image, "sha256": "e" * 64}, "settings": {}, **more,
    }  # fmt: skip


def test_an_archive_is_loaded_once_and_its_id_is_noted(tmp_path: Path, image: Any) -> None:
    client, wished = Client(), params(tmp_path, image)
    (tmp_path / "releases").mkdir()
    first = run_image(wished, run=client)
    assert (first["changed"], first["id"]) == (True, ID)
    assert read_image(wished["dest"]) == {"runtime": "podman", "id": ID}
    marker = json.loads((Path(wished["dest"]) / ".infra-llm-artifact.json").read_text())
    assert marker["sha256"] == "e" * 64
    assert ["podman", "tag", ID, "localhost/infra-llm:podman-1"] in client.asked
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["podman-1"]
    assert run_image(wished, run=client)["changed"] is False
    client.images.clear()  # somebody removed it
    assert run_image(wished, check_mode=True, run=client)["changed"] is True
    assert run_image(wished, run=client)["changed"] is True


def test_a_damaged_archive_never_reaches_the_engine(tmp_path: Path, image: Any) -> None:
    client = Client()
    (tmp_path / "site" / "vllm.tar").write_bytes(b"AN ARCHIVE")
    with pytest.raises(HostFailedError, match="the image can't be had"):
        run_image(params(tmp_path, image), run=client)
    assert not any("load" in words for words in client.asked)
    assert read_image(str(tmp_path / "releases" / "podman-1")) == {}


def test_an_archive_of_several_images_is_refused(tmp_path: Path, image: Any) -> None:
    client = Client(loads="Loaded image: a:1\nLoaded image: b:1\n")
    with pytest.raises(HostFailedError, match="holds 2 images"):
        run_image(params(tmp_path, image), run=client)


def test_a_registry_is_asked_by_digest(tmp_path: Path, image: Any) -> None:
    client = Client()
    found = run_image(params(tmp_path, {**image, "places": [PLACE]}), run=client)
    assert found["id"] == ID
    assert found["place"] == f"registry registry.example/vllm@{DIGEST}"
    assert client.asked[0] == [
        "podman", "pull", "--quiet", f"registry.example/vllm@{DIGEST}",
    ]  # fmt: skip


def test_a_sites_folder_comes_before_the_registry(tmp_path: Path, image: Any) -> None:
    settings = {"folders": [str(tmp_path / "site")]}
    client, wished = Client(), {**image, "places": [PLACE]}
    (tmp_path / "releases").mkdir()
    run_image(params(tmp_path, wished, settings=settings), run=client)
    assert not any("pull" in words for words in client.asked)


def test_every_place_that_failed_is_named(tmp_path: Path, image: Any) -> None:
    (tmp_path / "site" / "vllm.tar").unlink()
    wished = {**image, "places": [*image["places"], PLACE]}
    with pytest.raises(HostFailedError, match="connection refused") as caught:
        run_image(params(tmp_path, wished), run=Client(pulls=False))
    assert "vllm.tar" in caught.value.what
    assert "infra_llm_artifact_folders" in caught.value.hint


def test_removal_takes_the_images_of_all_releases(
    tmp_path: Path, image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    (tmp_path / "releases").mkdir()
    run_image(params(tmp_path, image), run=client)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert remove_images(str(tmp_path / "releases"), run=client) == []
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert remove_images(str(tmp_path / "releases"), run=client) == [ID]
    assert ID not in client.images
    assert remove_images(str(tmp_path / "none"), run=client) == []


@pytest.mark.parametrize(
    ("status", "said", "pid"), [(0, "4711\n", 4711), (0, "0\n", None), (1, "", None)]
)
def test_a_container_tells_its_first_process(status: int, said: str, pid: int | None) -> None:
    assert container_pid("docker", "x", lambda words: (status, said, "")) == pid
