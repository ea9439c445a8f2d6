"""What a transaction of apt refuses, and that it leaves apt's files as they were then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.standins.apt_repository import create_key

from infra_llm.core.errors import HostFailedError, InfraLlmError
from infra_llm.target.packages import dpkg
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.transaction import Transaction, Wish

URL = "https://vendor.example/stable/deb/amd64/"


class Host:
    """apt that knows of one package, in one version."""

    def __init__(self, offers: str = "1.18.2-1", update: str = "") -> None:
        self.offers, self.update = offers, update
        self.calls: list[str] = []

    def run(self, argv: Sequence[str]) -> Output:
        words = [word for word in argv if not word.startswith("-o")]
        self.calls.append(" ".join(words))
        if "update" in words and self.update:
            return Output(100, self.update)
        if "--simulate" in words:
            return Output(0, f"Inst toolkit ({self.offers} stand-in [amd64])\n")
        return Output(0, "")

    def installed(self) -> bool:
        return any("install" in call and "--simulate" not in call for call in self.calls)


@pytest.fixture
def repository(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("v")
    key = create_key(folder / "k", "vendor")
    (folder / "gpgkey").write_bytes(key.export())
    return {
        "name": "vendor",
        "kind": "apt",
        "url": URL,
        "suite": "/",
        "key_url": (folder / "gpgkey").as_uri(),
        "key_fingerprint": key.fingerprint,
    }


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dpkg, "wait_for_locks", lambda _: 0.0)
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def files(etc: Path) -> set[str]:
    return {str(path.relative_to(etc)) for path in etc.rglob("*") if path.is_file()}


def test_a_version_that_is_gone_is_no_reason_to_take_another(
    etc: Path, repository: dict[str, object]
) -> None:
    host = Host(offers="1.19.0-1")
    wish = Wish("toolkit", [repository], ["toolkit"], pins=[(["toolkit"], "1.18.2-*")])
    with pytest.raises(HostFailedError, match=r"no version 1\.18\.2-\* .* take toolkit 1\.19\.0-1"):
        Transaction(wish, etc=str(etc), run=host.run).apply()
    assert not host.installed()
    assert files(etc) == set()


def test_a_repository_that_can_not_be_verified_leaves_no_trace(
    etc: Path, repository: dict[str, object]
) -> None:
    said = f"W: GPG error: {URL} InRelease: NO_PUBKEY 1D\nE: The repository '{URL}' is not signed."
    wish = Wish("toolkit", [repository], ["toolkit"])
    with pytest.raises(InfraLlmError):
        Transaction(wish, etc=str(etc), run=Host(update=said).run).apply()
    assert files(etc) == set()


def test_a_source_that_is_commented_out_or_another_is_no_reason(
    etc: Path, repository: dict[str, object]
) -> None:
    text = (
        "#deb https://vendor.example/stable/deb/amd64 /\ndeb https://vendor.example/stable/deb /\n"
    )
    (etc / "sources.list.d/site.list").write_text(text)
    Transaction(Wish("toolkit", [repository], ["toolkit"]), etc=str(etc), run=Host().run).apply()
    assert "sources.list.d/infra-llm-vendor.sources" in files(etc)


@pytest.mark.parametrize(
    "line",
    [
        "deb [signed-by=/usr/share/keyrings/a.gpg] https://vendor.example/stable/deb/$(ARCH) /\n",
        "Types: deb\nURIs: https://vendor.example/stable/deb/amd64\nSuites: /\n",
    ],
)
def test_a_source_of_the_sites_is_kept_in_place_of_ours(
    etc: Path, repository: dict[str, object], line: str
) -> None:
    (etc / "sources.list.d/site.list").write_text(line)
    wish = Wish("toolkit", [repository], ["toolkit"], pins=[(["toolkit"], "1.18.*")])
    host = Host()
    done = Transaction(wish, etc=str(etc), run=host.run).apply()
    assert host.installed()
    assert files(etc) == {"sources.list.d/site.list", "preferences.d/infra-llm-toolkit"}
    assert any("the site has" in note for note in done.notes)


class Unbuilt(Host):
    """A host on which a module did not compile: its package is half installed."""

    def run(self, argv: Sequence[str]) -> Output:
        if argv[0] == "dpkg-query":
            gone = any(call.endswith("open-dkms-") and "--yes" in call for call in self.calls)
            return Output(0, "" if gone else "open-dkms\t550-2\tinstall\thalf-configured\n")
        return super().run(argv)


def test_a_package_that_can_not_be_configured_does_not_bar_its_own_removal(etc: Path) -> None:
    host = Unbuilt(offers="550-2")
    wish = Wish("driver", install=["toolkit"], purge=["open-*"])
    done = Transaction(wish, etc=str(etc), run=host.run).apply()
    assert host.installed()
    assert not any("--configure" in call for call in host.calls)
    assert "open-dkms: half installed, and not wanted" in done.notes


def test_a_package_that_is_wanted_is_finished_first(etc: Path) -> None:
    host = Unbuilt(offers="550-2")
    Transaction(Wish("driver", install=["toolkit"]), etc=str(etc), run=host.run).apply()
    assert "dpkg --configure -a --force-confdef --force-confold" in host.calls


class Unread(Host):
    """A host whose package lists were never read."""

    def run(self, argv: Sequence[str]) -> Output:
        own = any("Dir::State::Lists" in word for word in argv)
        if "--simulate" in argv and not own:
            self.calls.append(" ".join(argv))
            return Output(100, "E: Unable to locate package toolkit\n")
        return super().run(argv)


def test_a_look_reads_lists_of_its_own_where_there_are_none(etc: Path) -> None:
    host = Unread()
    done = Transaction(
        Wish("driver", install=["toolkit"]), check=True, etc=str(etc), run=host.run
    ).apply()
    assert done.steps.installs() == ["toolkit"]
    assert not host.installed()
    assert files(etc) == set()


class Stuck(Host):
    """apt whose update waits for ever, the first times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def run(self, argv: Sequence[str]) -> Output:
        if argv[-1] == "update":
            assert argv[0] == "timeout"
            self.times -= 1
            if self.times >= 0:
                return Output(124, "")
        return super().run(argv)


def test_an_update_that_does_not_end_is_tried_once_more(
    etc: Path, repository: dict[str, object]
) -> None:
    wish = Wish("toolkit", [repository], ["toolkit"])
    with pytest.raises(HostFailedError, match="did not end within 600 s, twice") as caught:
        Transaction(wish, etc=str(etc), run=Stuck(2).run).apply()
    assert "silent" in caught.value.hint
    assert files(etc) == set()
    host = Stuck(1)
    Transaction(wish, etc=str(etc), run=host.run).apply()
    assert host.installed()
