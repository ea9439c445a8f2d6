"""A folder knows what belongs into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.archives import place
from infra_llm.target.sealed import LISTING, damage, seal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A release with a library, a link to it, and one that leads out."""
    path = tmp_path / "release"
    (path / "lib").mkdir(parents=True)
    (path / "lib" / "libggml.so.0").write_bytes(b"elf")
    (path / "libggml.so").symlink_to("lib/libggml.so.0")
    (path / "..not-out").write_text("a file whose name begins with two dots")
    (path / "elsewhere").symlink_to("/usr/lib")
    seal(str(path))
    return path


def test_a_whole_folder(folder: Path) -> None:
    assert damage(str(folder)) == ""
    (folder / "lib" / "__pycache__").mkdir()
    (folder / "lib" / "__pycache__" / "x.pyc").touch()
    (folder / "elsewhere").unlink()
    (folder / "another").symlink_to("/srv")
    assert damage(str(folder)) == ""


def test_what_is_wrong_is_named(folder: Path) -> None:
    (folder / "..not-out").unlink()
    assert damage(str(folder)) == "..not-out is missing"
    (folder / "..not-out").mkdir()
    assert damage(str(folder)) == "..not-out can't be read: Is a directory"
    (folder / "..not-out").rmdir()
    (folder / "..not-out").symlink_to("lib")
    assert damage(str(folder)) == "..not-out was edited"


def test_a_link_that_points_elsewhere(folder: Path) -> None:
    (folder / "libggml.so").unlink()
    (folder / "libggml.so").symlink_to("/tmp/libggml.so")
    assert damage(str(folder)) == "libggml.so was edited"


def test_a_file_that_came_from_elsewhere(folder: Path) -> None:
    (folder / "lib" / "libggml-more.so").touch()
    assert damage(str(folder)) == "lib/libggml-more.so does not belong there"


@pytest.mark.parametrize("text", ["", "[]", "{broken"])
def test_a_list_that_is_none(folder: Path, text: str) -> None:
    (folder / LISTING).write_text(text)
    assert damage(str(folder)) == "it has no list of its files"


def test_a_built_folder_takes_the_place_of_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "build" / "bin"
    new.mkdir(parents=True)
    (new / "llama-server").write_bytes(b"new")
    place(str(new), str(folder))
    assert damage(str(folder)) == ""
    assert sorted(path.name for path in folder.iterdir()) == [LISTING, "llama-server"]
    assert not new.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "release"]


def test_a_build_that_is_not_there_leaves_what_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HostFailedError, match="can't put it in place: No such file"):
        place(str(tmp_path / "gone"), str(folder))
    assert damage(str(folder)) == ""
