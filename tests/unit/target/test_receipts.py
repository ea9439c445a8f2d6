from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import BadInputError, HostFailedError
from infra_llm.target import inspect_host, receipts
from infra_llm.target.packages.family import package_versions
from infra_llm.target.receipts import Managed, audit_receipts, compare, read_receipt, record

from .supervisord import Supervisord

_KINDS = ("files", "links", "directories")
BIG = 2 * 1024 * 1024


class Dpkg:
    """Answers for dpkg-query: a stand-in with the packages that a test says are installed."""

    def __init__(self, **versions: str) -> None:
        self.versions = versions
        self.calls = 0

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        assert command[0] == "dpkg-query"
        self.calls += 1
        names = list(command)[list(command).index("--") + 1 :]
        rows = [f"{n}\t{self.versions[n]}\tinstalled\n" for n in names if n in self.versions]
        return int(len(rows) < len(names)), "".join(rows), ""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a config file, a large model, a link and a subfolder."""
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "llama.conf").write_text("ctx = 8192\n")
    (folder / "llama.conf").chmod(0o640)
    (folder / "model.gguf").write_bytes(b"m" * BIG)
    (folder / "current").symlink_to("sub")
    return folder


@pytest.fixture
def audit(site: Path, tmp_path: Path) -> Callable[..., list[str]]:
    directory = str(tmp_path / "receipts")
    record("engine", Managed(files=[f"{site}/"]), directory)

    def now(**options: Any) -> list[str]:
        return audit_receipts(directory, **options)["engine"]

    assert now() == []
    return now


def edit_config(site: Path) -> None:
    (site / "llama.conf").write_text("ctx = 4096\n")


def edit_keeping_the_time(site: Path) -> None:
    status = (site / "llama.conf").stat()
    edit_config(site)
    os.utime(site / "llama.conf", ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_folder(site: Path) -> None:
    (site / "llama.conf").unlink()
    (site / "llama.conf").mkdir()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_config, "file {}/llama.conf was edited (sha256 differs)"),
        (edit_keeping_the_time, "file {}/llama.conf was edited (sha256 differs)"),
        (lambda s: (s / "llama.conf").unlink(), "file {}/llama.conf is missing"),
        (lambda s: (s / "llama.conf").chmod(0o666), "file {}/llama.conf has mode 0666, was 0640"),
        (replace_by_folder, "file {}/llama.conf is no file any more"),
        (lambda s: (s / "model.gguf").write_bytes(b"n" * BIG),
         "file {}/model.gguf was edited (sha256 differs)"),
        (lambda s: (s / "current").unlink(), "link {}/current is missing"),
        (lambda s: ((s / "current").unlink(), (s / "current").symlink_to("/tmp")),
         "link {}/current points to /tmp, was sub"),
        (lambda s: (s / "sub").rmdir(), "folder {}/sub is missing"),
        (lambda s: (s / "sub").chmod(0o777), "folder {}/sub has mode 0777, was 0755"),
    ],
)  # fmt: skip
def test_each_change_is_found_and_named(
    change: Callable[[Path], Any], words: str, site: Path, audit: Callable[..., list[str]]
) -> None:
    change(site)
    assert audit() == [words.format(site)]


def test_another_owner(site: Path, audit: Callable[..., list[str]], monkeypatch: Any) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    real = inspect_host._rights

    def other(status: os.stat_result) -> dict[str, str]:
        found = real(status)
        return {**found, "owner": "mallory"} if status.st_size == len("ctx = 8192\n") else found

    monkeypatch.setattr(inspect_host, "_rights", other)
    (words,) = audit()
    assert words.startswith(f"file {site}/llama.conf belongs to mallory:")
    assert f", was {me}:" in words


def test_a_large_file_is_read_only_when_its_time_or_size_changed(
    site: Path, audit: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = inspect_host.file_sha256
    monkeypatch.setattr(inspect_host, "file_sha256", lambda path: read.append(path) or real(path))
    notes: list[str] = []
    assert audit(notes=notes) == []
    assert read == [f"{site}/llama.conf"]
    assert notes == []
    os.utime(site / "model.gguf")
    assert audit(notes=notes) == []
    assert notes == [f"{site}/model.gguf was read again, its size or time changed"]


def test_only_a_thorough_audit_sees_a_large_edit_with_the_old_time(
    site: Path, audit: Callable[..., list[str]]
) -> None:
    status = (site / "model.gguf").stat()
    (site / "model.gguf").write_bytes(b"x" * BIG)
    os.utime(site / "model.gguf", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert audit() == []
    assert audit(thorough=True) == [f"file {site}/model.gguf was edited (sha256 differs)"]


def test_an_audit_is_quick_with_a_large_model(site: Path, tmp_path: Path) -> None:
    (site / "model.gguf").write_bytes(b"m" * 100 * 1024 * 1024)
    directory = str(tmp_path / "receipts")
    record("engine", Managed(files=[f"{site}/"]), directory)
    started = time.process_time()
    assert audit_receipts(directory) == {"engine": []}
    assert time.process_time() - started < 0.1


def test_recording_again_changes_nothing(site: Path, tmp_path: Path) -> None:
    directory, managed = str(tmp_path / "receipts"), Managed(files=[f"{site}/*"], inputs={"a": 1})
    first = record("engine", managed, directory)
    assert first["changed"]
    path = Path(first["path"])
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    text = path.read_text()
    assert not record("engine", managed, directory)["changed"]
    assert path.read_text() == text
    # A new time is noted, so that the next audit need not read the file, but is no change.
    os.utime(site / "model.gguf")
    assert not record("engine", managed, directory)["changed"]
    notes: list[str] = []
    audit_receipts(directory, notes=notes)
    assert notes == []
    managed.inputs = {"a": 2}
    assert record("engine", managed, directory)["changed"]


def test_check_mode_writes_nothing(site: Path, tmp_path: Path) -> None:
    directory = tmp_path / "receipts"
    managed = Managed(files=[f"{site}/llama.conf", f"{site}/none"])
    planned = record("engine", managed, str(directory), check_mode=True)
    assert (planned["changed"], planned["missing"]) == (True, [f"{site}/none does not exist"])
    assert not directory.exists()
    with pytest.raises(HostFailedError, match=r"manages what is not there: .*none does not exist"):
        record("engine", managed, str(directory))


def test_what_python_compiles_is_left_out(site: Path, tmp_path: Path) -> None:
    (site / "sub" / "__pycache__").mkdir()
    (site / "sub" / "__pycache__" / "x.pyc").write_bytes(b"")
    done = record("engine", Managed(files=[f"{site}/"]), str(tmp_path / "r"))
    assert "pycache" not in json.dumps(done["receipt"])


def test_removing(site: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "receipts")
    record("engine", Managed(directories=[str(site)]), directory)
    assert receipts.remove("engine", directory, check_mode=True)
    assert audit_receipts(directory) == {"engine": []}
    assert receipts.remove("engine", directory)
    assert not receipts.remove("engine", directory)
    assert audit_receipts(directory) == {}


def test_packages_of_all_roles_are_asked_for_once(tmp_path: Path) -> None:
    dpkg = Dpkg(libgomp1="12.2.0-14", sudo="1.9")
    for role, names in (("a", ["libgomp1"]), ("b", ["sudo", "libgomp1"])):
        record(role, Managed(packages=names), str(tmp_path), run=dpkg)
    dpkg.calls = 0
    assert audit_receipts(str(tmp_path), run=dpkg) == {"a": [], "b": []}
    assert dpkg.calls == 1
    dpkg.versions = {"sudo": "2.0"}
    assert audit_receipts(str(tmp_path), run=dpkg) == {
        "a": ["package libgomp1 is missing"],
        "b": ["package libgomp1 is missing", "package sudo is version 2.0, was 1.9"],
    }
    with pytest.raises(HostFailedError, match="package libgomp1 is missing"):
        record("a", Managed(packages=["libgomp1"]), str(tmp_path), run=dpkg)


def test_packages_are_noted_before_the_role_is_done(tmp_path: Path) -> None:
    """A role that fails after its installation has certified nothing, and forgets nothing."""
    directory, dpkg = str(tmp_path / "receipts"), Dpkg(cmake="3", ninja="1")
    assert receipts.note_packages("engine", ["cmake"], directory, check_mode=True, run=dpkg)
    assert not Path(directory).exists()
    assert receipts.note_packages("engine", ["cmake"], directory, run=dpkg)
    assert not receipts.note_packages("engine", ["cmake"], directory, run=dpkg)
    assert receipts.packages_added(directory) == ["cmake"]
    server = tmp_path / "llama-server"
    server.write_text("whole")
    done = record("engine", Managed(files=[str(server)]), directory, run=dpkg)
    assert done["receipt"]["packages_added"] == ["cmake"]
    server.write_text("edited")
    assert receipts.note_packages("engine", ["ninja"], directory, run=dpkg)
    assert audit_receipts(directory, run=dpkg) == {
        "engine": [f"file {server} was edited (sha256 differs)"]
    }
    assert receipts.packages_added(directory) == ["cmake", "ninja"]
    del dpkg.versions["ninja"]
    assert "package ninja is missing" in audit_receipts(directory, run=dpkg)["engine"]


def test_packages_that_came_with_us_are_remembered(tmp_path: Path) -> None:
    dpkg = Dpkg(libgomp1="12", cmake="3", make="4")
    first = Managed(packages=["libgomp1"], packages_added=["cmake", "make"])
    record("engine", first, str(tmp_path), run=dpkg)
    again = record("engine", Managed(packages=["libgomp1"]), str(tmp_path), run=dpkg)
    assert not again["changed"]
    assert again["receipt"]["packages_added"] == ["cmake", "make"]
    del dpkg.versions["make"]
    assert audit_receipts(str(tmp_path), run=dpkg) == {"engine": ["package make is missing"]}
    third = record("engine", Managed(packages=["libgomp1"]), str(tmp_path), run=dpkg)
    assert third["receipt"]["packages_added"] == ["cmake"]


@pytest.mark.parametrize(
    ("managed", "words"),
    [
        (Managed(links=["{}/llama.conf"]), "{}/llama.conf is no link"),
        (Managed(directories=["{}/llama.conf"]), "{}/llama.conf is no folder"),
        (Managed(files=["{}/sub"]), "{}/sub is no file"),
        (Managed(links=["{}/none"]), "{}/none does not exist"),
        (Managed(files=["{}/none*"]), "{}/none* does not exist"),
    ],
)
def test_what_is_named_must_be_there_and_be_of_its_kind(
    managed: Managed, words: str, site: Path, tmp_path: Path
) -> None:
    for name in ("files", "links", "directories"):
        setattr(managed, name, [path.format(site) for path in getattr(managed, name)])
    planned = record("a", managed, str(tmp_path / "r"), check_mode=True)
    assert planned["missing"] == [words.format(site)]


def test_patterns_find_everything_below(site: Path, tmp_path: Path) -> None:
    (site / "sub" / "deep.so").write_bytes(b"elf")
    managed = Managed(files=[f"{site}/**"], links=[f"{site}/current"], directories=[str(site)])
    receipt = record("a", managed, str(tmp_path / "r"))["receipt"]
    names = {kind: [Path(i["path"]).name for i in receipt[kind]] for kind in _KINDS}
    assert names == {
        "files": ["llama.conf", "model.gguf", "deep.so"],
        "links": ["current"],
        "directories": ["site", "sub"],
    }


def test_half_installed_packages_are_not_installed() -> None:
    def run(command: Sequence[str]) -> tuple[int, str, str]:
        return 0, "a\t1\tinstalled\nb\t2\tconfig-files\nc\t3\thalf-configured\n", ""

    assert package_versions(["a", "b", "c"], run, "debian") == {"a": "1"}


def test_no_dpkg_is_said() -> None:
    with pytest.raises(HostFailedError, match="can't ask for packages"):
        package_versions(["a"], lambda _: (127, "", "No such file or directory: 'dpkg-query'"))


def test_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    done = record("a", Managed(users=[me]), str(tmp_path))
    assert done["receipt"]["users"][0]["uid"] == os.getuid()
    assert audit_receipts(str(tmp_path)) == {"a": []}
    path = Path(done["path"])
    data = json.loads(path.read_text())
    data["users"][0].update(shell="/bin/other", name=me)
    data["users"].append({"name": "no-such-user-here"})
    path.write_text(json.dumps(data))
    found = audit_receipts(str(tmp_path))["a"]
    assert found[0].startswith(f"user {me} has shell ")
    assert found[0].endswith(", was /bin/other")
    assert found[1] == "user no-such-user-here is missing"
    with pytest.raises(HostFailedError, match="user no-such-user-here is missing"):
        record("a", Managed(users=["no-such-user-here"]), str(tmp_path))


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[Supervisord]:
    server = Supervisord(str(tmp_path / "s.sock"))
    yield server
    server.shutdown()
    server.server_close()


def test_units(tmp_path: Path, supervisord: Supervisord) -> None:
    supervisord.program("llama")
    unit = {"name": "llama", "manager": "supervisor", "socket": str(tmp_path / "s.sock")}
    record("service", Managed(units=[unit]), str(tmp_path))
    assert audit_receipts(str(tmp_path)) == {"service": []}
    supervisord.program("llama", "STOPPED")
    assert audit_receipts(str(tmp_path)) == {"service": ["service llama is stopped"]}
    supervisord.processes = []
    assert audit_receipts(str(tmp_path))["service"][0].startswith("service llama does not exist")
    with pytest.raises(HostFailedError, match="service llama does not exist"):
        record("service", Managed(units=[unit]), str(tmp_path))


def test_a_unit_that_no_longer_starts_by_itself() -> None:
    shown = "LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState={}\nMainPID=5\n"
    unit = {"name": "llama", "manager": "systemd", "enabled": True, "active": True}
    receipt = {**{name: [] for name in receipts.SECTIONS}, "units": [unit]}
    assert compare(receipt, run=lambda _: (0, shown.format("enabled"), "")) == []
    assert compare(receipt, run=lambda _: (0, shown.format("disabled"), "")) == [
        "service llama does not start by itself any more"
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": "other/1"}',
     '{"schema": "infra-llm/receipt/1", "files": [1]}',
     '{"schema": "infra-llm/receipt/1", "files": [{"path": "/etc/passwd"}]}'],
)  # fmt: skip
def test_a_damaged_receipt_is_a_difference_and_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text(text)
    (words,) = audit_receipts(str(tmp_path))["engine"]
    assert "receipt" in words
    record("engine", Managed(directories=[str(tmp_path)]), str(tmp_path))
    assert read_receipt(str(tmp_path / "engine.json")) is not None


def test_no_receipts_yet(tmp_path: Path) -> None:
    assert audit_receipts(str(tmp_path / "none")) == {}


@pytest.mark.parametrize("role", ["", "../x", "a/b", ".hidden"])
def test_a_role_name_is_no_path(role: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        record(role, Managed(), str(tmp_path))


def test_removal_takes_only_files_that_bear_our_name(tmp_path: Path) -> None:
    """A role may keep watch over a file of the site's, too: that one stays."""
    directory, folder = str(tmp_path / "receipts"), tmp_path / "etc"
    folder.mkdir()
    ours, theirs = folder / "infra-llm-x.sources", folder / "daemon.json"
    for path in (ours, theirs):
        path.write_text("content")
    record("one", Managed(files=[str(ours), str(theirs)]), directory)
    record("two", Managed(packages_added=["libx1"]), directory, run=Dpkg(libx1="1"))
    assert receipts.packages_added(directory) == ["libx1"]
    assert receipts.clear(directory, check_mode=True) == [str(ours)]
    assert ours.exists()
    assert receipts.clear(directory) == [str(ours)]
    assert not ours.exists()
    assert theirs.exists()
    assert receipts.clear(directory) == []


def test_packages_that_another_instance_counts_on_are_handed_over(tmp_path: Path) -> None:
    first, second = (str(tmp_path / name / "receipts") for name in ("infra-llm", "infra-llm-b"))
    there = Dpkg(libgomp1="1", cmake="1")
    brought = Managed(packages=["libgomp1"], packages_added=["libgomp1", "cmake"])
    record("engine", brought, first, run=there)
    record("engine", Managed(packages=["libgomp1"]), second, run=there)
    assert receipts.packages_added(first, check_mode=True) == ["cmake"]
    assert receipts.packages_added(second) == []
    assert receipts.packages_added(first) == ["cmake"]
    for path in Path(first).glob("*.json"):
        path.unlink()
    assert receipts.packages_added(second) == ["libgomp1"]
