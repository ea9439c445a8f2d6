"""Images in a container engine: loaded whole or not at all, run by their id."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import signal
import stat
import subprocess
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
        "dest": str(tmp_path / "releases" / "docker-1"), "runtime": "docker", "image": image,
        "artifact": {**image, "sha256": "e" * 64}, "settings": {}, **more,
    }  # fmt: skip


def test_an_archive_is_loaded_once_and_its_id_is_noted(tmp_path: Path, image: Any) -> None:
    client, wished = Client(), params(tmp_path, image)
    (tmp_path / "releases").mkdir()
    first = run_image(wished, run=client)
    assert (first["changed"], first["id"]) == (True, ID)
    assert read_image(wished["dest"]) == {"runtime": "docker", "id": ID}
    marker = json.loads((Path(wished["dest"]) / ".infra-llm-artifact.json").read_text())
    assert marker["sha256"] == "e" * 64
    assert ["docker", "tag", ID, "localhost/infra-llm:docker-1"] in client.asked
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["docker-1"]
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
    assert read_image(str(tmp_path / "releases" / "docker-1")) == {}


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
        "docker", "pull", "--quiet", f"registry.example/vllm@{DIGEST}",
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


@pytest.fixture
def podman(tmp_path: Path, image: dict[str, Any]) -> dict[str, Any]:
    """Parameters for podman of whoever runs the tests, who closes folders of pytest's to others."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o001)
    user = pwd.getpwuid(os.getuid()).pw_name
    stores = str(tmp_path / "containers" / "infra-llm")
    return params(tmp_path, image, runtime="podman", user=user, containers=stores)


def test_podman_runs_as_the_services_user_and_leaves_no_process(
    tmp_path: Path, podman: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, run_folder = Client(), tmp_path / "run" / "infra-llm-images"
    pause = subprocess.Popen(["sleep", "60"])

    def podman_words(words: Sequence[str], seconds: float) -> tuple[int, str]:
        assert words[0] == "setpriv"
        assert f"--reuid={os.getuid()}" in words
        assert "--no-new-privs" in words
        assert f"HOME={run_folder}" in words
        start = words.index("/usr/bin/podman")
        assert f"--root={podman['containers']}/images" in words[start:]
        assert stat.S_IMODE(run_folder.stat().st_mode) == 0o700
        (run_folder / "pause.pid").write_text(str(pause.pid))
        verb = next(n for n, word in enumerate(words[start + 1 :]) if not word.startswith("--"))
        return client(["podman", *words[start + 1 + verb :]], seconds)

    monkeypatch.setattr("infra_llm.target.podman_user.RUN", str(tmp_path / "run"))
    monkeypatch.setattr("infra_llm.target.podman_user.LOGINS", ())
    (tmp_path / "releases").mkdir()
    assert run_image(podman, check_mode=True, run=podman_words)["changed"] is True
    assert client.asked == []  # nothing is made for a look
    assert run_image(podman, run=podman_words)["id"] == ID
    assert pause.wait(timeout=5) == -signal.SIGKILL
    assert not run_folder.exists()
    assert stat.S_IMODE(Path(podman["containers"], "images").stat().st_mode) == 0o700
    assert run_image(podman, run=podman_words)["changed"] is False
    assert remove_images(str(tmp_path / "releases"), run=client) == []


def test_podman_takes_the_login_of_root_along(
    tmp_path: Path, podman: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    login = tmp_path / "auth.json"
    login.write_text("{}")
    seen: list[str] = []

    def words_of(words: Sequence[str], seconds: float) -> tuple[int, str]:
        del seconds
        (own,) = [word for word in words if word.startswith("REGISTRY_AUTH_FILE=")]
        path = Path(own.partition("=")[2])
        seen.append(oct(stat.S_IMODE(path.stat().st_mode)))
        return 125, "Error: cannot clone: Operation not permitted"

    monkeypatch.setattr("infra_llm.target.podman_user.RUN", str(tmp_path / "run"))
    monkeypatch.setattr("infra_llm.target.podman_user.LOGINS", (str(login),))
    (tmp_path / "releases").mkdir()
    with pytest.raises(HostFailedError, match="cannot clone") as caught:
        run_image(podman, run=words_of)
    assert "max_user_namespaces" in caught.value.hint
    assert set(seen) == {"0o600"}


def test_a_folder_that_the_user_can_not_pass_is_named(
    podman: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = Path(podman["containers"]).parent
    closed.mkdir(mode=0o700)
    with pytest.raises(HostFailedError, match="can't pass this folder") as caught:
        run_image(podman, run=Client())
    assert caught.value.hint == f"chmod o+x {closed}: what lies in it keeps its own permissions"


def test_podmans_process_stands_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra_llm.target.podman_user.RUN", str(tmp_path))
    assert container_pid("podman", "infra-llm") is None
    (tmp_path / "infra-llm-container").mkdir()
    (tmp_path / "infra-llm-container" / "pid").write_text("4711")
    assert container_pid("podman", "infra-llm") == 4711
