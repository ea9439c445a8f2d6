from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.standins.zstd import compress

from infra_llm.core.errors import BadInputError, HostFailedError
from infra_llm.target import artifacts, zstd
from infra_llm.target.archives import MARKER, read_marker, unpack
from infra_llm.target.artifact_tasks import run_fetch
from infra_llm.target.sealed import LISTING

from .loopback import artifact, sha256, wheel

ABOUT = {"name": "engine", "version": "2", "filename": "e.tar.gz", "sha256": "ab"}


def tar(path: Path, *entries: tuple[str, object]) -> str:
    """Entries: (name, bytes) or (name, TarInfo attributes)."""
    with tarfile.open(path, "w:gz") as bundle:
        for name, what in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o4777
            if isinstance(what, bytes):
                info.size = len(what)
                bundle.addfile(info, io.BytesIO(what))
            else:
                for key, value in dict(what).items():  # type: ignore[call-overload]
                    setattr(info, key, value)
                bundle.addfile(info)
    return str(path)


def tree(folder: Path) -> list[str]:
    """What is in it, without what we write beside the content."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [name for name in found if name not in (MARKER, LISTING)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def link(target: str) -> dict[str, object]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def test_a_release_archive(tmp_path: Path) -> None:
    packed = tar(
        tmp_path / "e.tar.gz",
        ("./llama/bin/llama-server", b"#!"),
        ("llama/lib/libggml.so.0", b"elf"),
        ("llama/lib/libggml.so", link("libggml.so.0")),
        ("llama/lib/again.so", {"type": tarfile.LNKTYPE, "linkname": "llama/lib/libggml.so.0"}),
    )
    folder = tmp_path / "out" / "engine"
    old = os.umask(0o077)
    try:
        unpack(packed, str(folder), ABOUT, strip_components=1)
    finally:
        os.umask(old)
    assert tree(folder) == [
        "bin", "bin/llama-server", "lib", "lib/again.so", "lib/libggml.so", "lib/libggml.so.0",
    ]  # fmt: skip
    assert (folder / "lib/libggml.so").read_bytes() == b"elf"
    assert (folder / "bin/llama-server").stat().st_mode & 0o7777 == 0o755
    assert (folder / "bin").stat().st_mode & 0o777 == 0o755
    assert folder.stat().st_mode & 0o777 == 0o755
    assert read_marker(str(folder))["sha256"] == "ab"
    assert names(tmp_path / "out") == ["engine"]


def test_what_was_there_goes(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    unpack(tar(tmp_path / "a.tgz", ("old", b"1")), str(folder), ABOUT)
    unpack(tar(tmp_path / "b.tgz", ("new", b"2")), str(folder), {**ABOUT, "sha256": "cd"})
    assert tree(folder) == ["new"]
    assert read_marker(str(folder))["sha256"] == "cd"
    assert names(tmp_path) == ["a.tgz", "b.tgz", "engine"]


HOSTILE = [
    [("../evil", b"x")],
    [("/etc/evil", b"x")],
    [("a/../../evil", b"x")],
    [("a", link("/etc"))],
    [("a", link("../.."))],
    [("a", link("."), ), ("a/b", link(".."))],
    [("a", link("x/..")), ("x", link("."))],
    [("hard", {"type": tarfile.LNKTYPE, "linkname": "../outside"})],
    [("pipe", {"type": tarfile.FIFOTYPE})],
]  # fmt: skip


@pytest.mark.parametrize("entries", HOSTILE)
def test_nothing_leaves_the_folder(entries: list[tuple[str, object]], tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "deep" / "engine"
    unpack(tar(tmp_path / "good.tgz", ("kept", b"1")), str(folder), ABOUT)
    with pytest.raises(HostFailedError, match="the archive"):
        unpack(tar(tmp_path / "evil.tgz", *entries), str(folder), ABOUT)
    assert tree(folder) == ["kept"]
    assert names(tmp_path) == ["deep", "evil.tgz", "good.tgz", "outside"]
    assert names(tmp_path / "deep") == ["engine"]


def test_writing_through_a_link_replaces_the_link(tmp_path: Path) -> None:
    packed = tar(tmp_path / "t.tgz", ("real", b"1"), ("a", link("real")), ("a", b"2"))
    unpack(packed, str(tmp_path / "e"), ABOUT)
    assert (tmp_path / "e" / "real").read_bytes() == b"1"
    assert (tmp_path / "e" / "a").read_bytes() == b"2"


def test_a_hostile_zip(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(wheel({"ok": b"1", "../evil": b"2"}))
    with pytest.raises(HostFailedError, match="reaches outside"):
        unpack(str(tmp_path / "z.zip"), str(tmp_path / "e"), ABOUT)
    assert names(tmp_path) == ["z.zip"]


def test_modes_of_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.whl", "w") as bundle:
        for name, mode in (("run", 0o100755), ("plain", 0)):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            bundle.writestr(info, b"x")
    unpack(str(tmp_path / "z.whl"), str(tmp_path / "e"), ABOUT)
    assert (tmp_path / "e/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "e/plain").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_damaged_archive_is_an_error_that_names_it(damage: str, tmp_path: Path) -> None:
    good = Path(tar(tmp_path / "t.tgz", ("a", os.urandom(50_000)))).read_bytes()
    (tmp_path / "bad").write_bytes(b"hello" if damage == "text" else good[:20_000])
    with pytest.raises(HostFailedError, match="bad: can't unpack"):
        unpack(str(tmp_path / "bad"), str(tmp_path / "e"), ABOUT)
    assert not (tmp_path / "e").exists()


def test_space_is_checked_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(artifacts.os, "statvfs", lambda _: Full)
    packed = tar(tmp_path / "t.tgz", ("a", b"x" * 5_000_000))
    with pytest.raises(HostFailedError, match="5 MiB are missing"):
        unpack(packed, str(tmp_path / "e"), ABOUT)


def engine(tmp_path: Path, name: str = "engine") -> dict[str, object]:
    content = wheel({f"{name}/bin": name.encode()})
    (tmp_path / f"{name}.whl").write_bytes(content)
    place = {"kind": "path", "path": str(tmp_path)}
    return artifact(content, place, name=name, filename=f"{name}.whl")


def test_the_module_unpacks_once(tmp_path: Path) -> None:
    params = {"artifact": engine(tmp_path), "dest": str(tmp_path / "e"), "extract": True}
    planned = run_fetch(params, check_mode=True)
    assert (planned["changed"], planned["msg"]) == (True, "would download 0.0 MiB")
    assert not (tmp_path / "e").exists()
    first = run_fetch(params)
    assert first["changed"]
    assert (tmp_path / "e/engine/bin").read_bytes() == b"engine"
    found = [Path(path).name for path in first["paths"]]
    assert found == ["e", "engine", MARKER, LISTING, "bin"]
    assert first["diff"]["before"] == ""
    assert first["sha256"] in first["diff"]["after"]
    second = run_fetch(params)
    assert (second["changed"], second["artifact"]) == (False, "engine 1")
    assert second["diff"]["before"] == second["diff"]["after"]
    assert names(tmp_path) == ["e", "engine.whl"]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: path.write_bytes(b"edited"), "engine/bin was edited"),
        (lambda path: path.chmod(0o600), "engine/bin was edited"),
        (Path.unlink, "engine/bin is missing"),
        (lambda path: path.with_name("libggml-evil.so").touch(), "does not belong there"),
        (lambda path: (path.parents[1] / LISTING).unlink(), "no list of its files"),
    ],
)
def test_a_damaged_release_is_brought_again(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    params = {"artifact": engine(tmp_path), "dest": str(tmp_path / "e"), "extract": True}
    run_fetch(params)
    file = tmp_path / "e/engine/bin"
    harm(file)
    planned = run_fetch(params, check_mode=True)
    assert planned["changed"] and words in planned["diff"]["before"]
    assert run_fetch(params)["changed"]
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"engine", 0o644)
    assert tree(tmp_path / "e") == ["engine", "engine/bin"]
    assert not run_fetch(params)["changed"]


def test_a_damaged_release_stays_where_nobody_has_it_any_more(tmp_path: Path) -> None:
    params = {"artifact": engine(tmp_path), "dest": str(tmp_path / "e"), "extract": True}
    run_fetch(params)
    (tmp_path / "e/engine/bin").write_bytes(b"edited")
    (tmp_path / "engine.whl").unlink()
    with pytest.raises(HostFailedError, match="engine"):
        run_fetch(params)
    assert (tmp_path / "e/engine/bin").read_bytes() == b"edited"
    assert run_fetch(params, check_mode=True)["changed"]


def test_a_release_without_its_marker_is_still_ours(tmp_path: Path) -> None:
    params = {"artifact": engine(tmp_path), "dest": str(tmp_path / "e"), "extract": True}
    run_fetch(params)
    (tmp_path / "e" / MARKER).unlink()
    assert run_fetch(params)["changed"]
    assert read_marker(str(tmp_path / "e"))["name"] == "engine"


def test_an_installed_alternative_is_kept(tmp_path: Path) -> None:
    gone, there = {**engine(tmp_path, "gone"), "places": []}, engine(tmp_path, "there")
    (tmp_path / "gone.whl").unlink()
    params = {"alternatives": [gone, there], "dest": str(tmp_path / "e"), "extract": True}
    assert run_fetch(params)["artifact"] == "there 1"
    again = run_fetch(params)
    assert (again["changed"], again["artifact"]) == (False, "there 1")


def test_alternatives_may_have_a_folder_each(tmp_path: Path) -> None:
    one = {**engine(tmp_path, "one"), "folder": "one-1"}
    two = {**engine(tmp_path, "two"), "folder": "two-1"}
    dest = tmp_path / "releases"
    assert run_fetch({"artifact": one, "dest": str(dest), "extract": True})["changed"]
    done = run_fetch({"alternatives": [two], "dest": str(dest), "extract": True})
    assert (done["changed"], done["path"]) == (True, str(dest / "two-1"))
    assert names(dest) == ["one-1", "two-1"]
    both = run_fetch({"alternatives": [two, one], "dest": str(dest), "extract": True})
    assert (both["changed"], both["path"]) == (False, str(dest / "two-1"))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "thesis.txt").write_text("only copy")
    params = {"artifact": engine(tmp_path), "dest": str(tmp_path / "e"), "extract": True}
    with pytest.raises(BadInputError, match="did not unpack"):
        run_fetch(params)
    assert (tmp_path / "e" / "thesis.txt").read_text() == "only copy"


def test_the_module_keeps_a_file(tmp_path: Path) -> None:
    wanted = engine(tmp_path)
    params = {"artifact": wanted, "dest": str(tmp_path / "f" / "x")}
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "x").write_bytes(b"old")
    planned = run_fetch(params, check_mode=True)
    assert planned["diff"]["before"] == "sha256 unknown, 3 bytes\n"
    assert (tmp_path / "f" / "x").read_bytes() == b"old"
    assert run_fetch(params)["changed"]
    assert sha256((tmp_path / "f" / "x").read_bytes()) == wanted["sha256"]
    assert not run_fetch(params, check_mode=True)["changed"]
    json.dumps(planned)


def zst(path: Path, *entries: tuple[str, object]) -> str:
    packed = Path(tar(path.with_suffix(".gz"), *entries))
    path.write_bytes(compress(gzip.decompress(packed.read_bytes())))
    return str(path)


def test_a_zstd_archive_is_unpacked_like_any_other(tmp_path: Path) -> None:
    large = os.urandom(3 << 20)
    packed = zst(
        tmp_path / "e.tar.zst",
        ("./bin/ollama", b"#!"),
        ("lib/ollama/libggml.so.0", large),
        ("lib/ollama/libggml.so", link("libggml.so.0")),
        ("lib/ollama/again.so", {"type": tarfile.LNKTYPE, "linkname": "lib/ollama/libggml.so.0"}),
    )
    folder = tmp_path / "engine"
    unpack(packed, str(folder), ABOUT)
    assert (folder / "lib/ollama/libggml.so").read_bytes() == large
    assert (folder / "lib/ollama/again.so").stat().st_nlink == 2
    assert (folder / "bin/ollama").stat().st_mode & 0o7777 == 0o755
    assert read_marker(str(folder))["sha256"] == "ab"


def test_several_zstd_frames_are_one_archive(tmp_path: Path) -> None:
    whole = gzip.decompress(Path(tar(tmp_path / "e.gz", ("a", b"1" * 5000))).read_bytes())
    path = tmp_path / "e.tar.zst"
    path.write_bytes(compress(whole[:700]) + compress(whole[700:]))
    unpack(str(path), str(tmp_path / "engine"), ABOUT)
    assert (tmp_path / "engine/a").read_bytes() == b"1" * 5000


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_zstd_archive_leaves_the_old_folder(tmp_path: Path, damage: str) -> None:
    path = Path(zst(tmp_path / "e.tar.zst", ("a", os.urandom(200_000))))
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:20] + bytes(byte ^ 0xFF for byte in data[20:60]) + data[60:])
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(HostFailedError, match="can't unpack"):
        unpack(str(path), str(folder), ABOUT)
    assert tree(folder) == ["old"]


def test_a_zstd_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostFailedError, match="reaches outside"):
        unpack(zst(tmp_path / "e.tar.zst", ("../a", b"x")), str(tmp_path / "engine"), ABOUT)
    assert not (tmp_path / "a").exists()


def test_a_zstd_archive_on_a_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = zst(tmp_path / "e.tar.zst", ("a", b"x" * 5000))
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:3], 0, 0, *real[5:10]))
    monkeypatch.setattr(artifacts.os, "statvfs", lambda _: full)
    with pytest.raises(HostFailedError, match="no space"):
        unpack(packed, str(tmp_path / "engine"), ABOUT)


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = zst(tmp_path / "e.tar.zst", ("a", b"x"))
    monkeypatch.setattr(zstd, "LIBRARY", "libzstd-of-nowhere.so.1")
    with pytest.raises(HostFailedError, match="libzstd1"):
        unpack(packed, str(tmp_path / "engine"), ABOUT)
