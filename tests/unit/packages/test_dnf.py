"""What is decided around dnf's own solver: files, locks, streams. The solver is a stand-in.

The real one runs in tests/e2e/test_rocky.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError, RefusedError
from infra_llm.target.packages import dnf, rpm
from infra_llm.target.packages.apt import Steps, UnsolvableError
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.dnf import DnfTransaction
from infra_llm.target.packages.transaction import Wish

LOCKS = "etc/dnf/plugins/versionlock.list"
DRIVER = Wish(
    name="nvidia_driver",
    install=["nvidia-open"],
    purge=["cuda-drivers*"],
    pins=[(["nvidia-*", "cuda-drivers"], "580.*")],
    hold=["nvidia-*"],
    lock_timeout_s=1,
)


class Host:
    """rpm's answers, and a session that says what its test wants solved."""

    def __init__(self, installed: Mapping[str, str], steps: Mapping[str, Any]) -> None:
        self.installed = dict(installed)
        self.steps = dict(steps)
        self.loaded: list[tuple[Any, Any, bool]] = []
        self.solved: list[tuple[Any, ...]] = []
        self.failures: list[Exception] = []
        self.ran = 0
        self.locks = ""

    def run(self, command: Sequence[str]) -> Output:
        assert command[0] == "rpm", command
        rows = (f"{n}\t{v}\t{v}\n" for n, v in self.installed.items())
        return Output(0, "".join(rows))

    def open(self, _repositories: str, plugins: str, _work: str, _keys: Any) -> Any:
        configured = Path(plugins, "versionlock.conf").read_text()
        self.locks = Path(configured.partition("locklist=")[2].strip()).read_text()
        host = self

        class Session:
            def load(self, streams: Any, pins: Any, fresh: bool) -> None:
                host.loaded.append((streams, pins, fresh))

            def installed(self, spec: str) -> bool:
                return spec in host.installed

            def candidates(self, name: str) -> list[str]:
                return [name]

            def needs(self, names: Sequence[str]) -> list[str]:
                return ["needed"] if names == ["theirs"] else []

            def solve(self, *what: Any) -> Steps:
                host.solved.append(what)
                if host.failures:
                    raise host.failures.pop(0)
                return Steps(dict(host.steps))

            def sizes(self) -> tuple[int, int]:
                return 0, 0

            def run(self) -> list[str]:
                host.ran += 1
                for name, (_, new) in host.steps.items():
                    host.installed.pop(name, None)
                    host.installed.update({name: new} if new else {})
                return []

            def close(self) -> None:
                pass

        return Session()


Make = Callable[..., DnfTransaction]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(rpm, "holders", list)
    monkeypatch.setattr(dnf, "check_space", lambda _: None)
    (tmp_path / "etc/yum.repos.d").mkdir(parents=True)

    def made(host: Host, wish: Wish = DRIVER, stream: str = "", check: bool = False) -> Any:
        return DnfTransaction(wish, stream, check, str(tmp_path), host.run, host.open)

    return made


NEW = {"nvidia-open": (None, "580.95.05-1.el9"), "nvidia-driver": (None, "3:580.95.05-1.el9")}


def test_install_locks_what_came_and_keeps_the_locks_of_others(make: Make, tmp_path: Path) -> None:
    locks = tmp_path / LOCKS
    locks.parent.mkdir(parents=True)
    locks.write_text("bash-0:5.1.8-9.el9.*\nnvidia-driver-3:570.1-1.el9.*\n")
    host = Host({"bash": "5.1.8-9.el9"}, NEW)
    done = make(host).apply()
    assert done.added == ["nvidia-driver", "nvidia-open"]
    assert host.locks == "bash-0:5.1.8-9.el9.*\n", "our own lock must not bind us"
    assert host.solved[0][0] == ["nvidia-open", "python3-dnf-plugin-versionlock"]
    assert locks.read_text().splitlines() == [
        "bash-0:5.1.8-9.el9.*",
        "nvidia-driver-3:580.95.05-1.el9.*",
        "nvidia-open-0:580.95.05-1.el9.*",
    ]


def test_check_mode_runs_nothing_and_writes_nothing(make: Make, tmp_path: Path) -> None:
    host = Host({}, NEW)
    done = make(host, check=True).apply()
    assert done.changed
    assert done.steps.installs() == ["nvidia-driver", "nvidia-open"]
    assert done.held == ["nvidia-driver", "nvidia-open"]
    assert host.ran == 0
    assert not (tmp_path / LOCKS).exists()


def test_a_host_that_has_all_of_it_is_left(make: Make, tmp_path: Path) -> None:
    locks = tmp_path / LOCKS
    locks.parent.mkdir(parents=True)
    locks.write_text("# Added lock on ...\nnvidia-open-0:580.95.05-1.el9.*\n")
    host = Host({"nvidia-open": "580.95.05-1.el9", dnf.dnf_files.PLUGIN: "1-1"}, {})
    done = make(host).apply()
    assert not done.changed
    assert host.ran == 0
    assert host.solved == [([], [], [])]
    assert "# Added lock" in locks.read_text()


def test_another_branch_and_flavour_is_one_transaction(make: Make) -> None:
    there = {"nvidia-driver": "3:590.1-1", "cuda-drivers": "590.1-1", "nvidia-open": "590.1-1"}
    up = {"nvidia-open": ("590.1-1", "580.95.05-1.el9"), "cuda-drivers": ("590.1-1", None)}
    host = Host(there, up)
    make(host).apply()
    assert host.solved[0][1:] == (
        [("nvidia-driver", "3:590.1-1"), ("nvidia-open", "590.1-1")],
        ["cuda-drivers"],
    )


def test_a_stream_is_switched_and_counts_as_what_came(make: Make) -> None:
    host = Host({}, NEW)
    done = make(host, stream="nvidia-driver:580-open", check=True).apply()
    assert host.loaded[0][0] == {"nvidia-driver": "580-open"}
    assert "module:nvidia-driver" in done.added
    assert done.steps.changes["module:nvidia-driver"] == (None, "580-open")


def test_streams_and_keys_go_with_the_packages(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpm, "streams", lambda *_: {"module:nvidia-driver": "580-open"})
    gone = ["nvidia-open", "module:nvidia-driver", "gpg-pubkey-0685-1"]
    host = Host({"nvidia-open": "580.1-1", "bash": "1-1"}, {"nvidia-open": ("580.1-1", None)})
    host.installed["gpg-pubkey-0685-1"] = "0685-1"
    done = make(host, Wish("remove", purge=gone), check=True).apply()
    assert host.loaded[0][0] == {"nvidia-driver": ""}
    assert host.solved[0] == ([], [], ["nvidia-open"])
    assert done.steps.removes() == ["gpg-pubkey-0685-1", "module:nvidia-driver", "nvidia-open"]


def test_what_nobody_asked_for_is_not_removed(make: Make) -> None:
    host = Host({"firefox": "1-1"}, {**NEW, "firefox": ("1-1", None)})
    with pytest.raises(RefusedError, match="dnf would remove firefox, which nobody asked for"):
        make(host).apply()
    assert host.ran == 0


def test_what_others_need_by_now_stays(make: Make) -> None:
    host = Host({"needed": "1-1", "mine": "1-1"}, {"mine": ("1-1", None), "theirs": ("1-1", None)})
    done = make(host, Wish("remove", purge=["needed", "mine"], keep_needed=True), check=True)
    host_steps = host.steps
    host.steps = {"theirs": ("1-1", None), **host_steps}
    with pytest.raises(RefusedError):
        done.apply()
    assert host.solved[1] == ([], [], ["mine"])


def test_an_old_index_is_read_again_once(make: Make) -> None:
    host = Host({}, NEW)
    host.failures = [UnsolvableError("no repository of this host has nvidia-open", ["nvidia-open"])]
    make(host).apply()
    assert [fresh for _, _, fresh in host.loaded] == [False, True]
    again = Host({}, NEW)
    again.failures = [UnsolvableError("these do not go together")]
    with pytest.raises(UnsolvableError):
        make(again).apply()
    assert len(again.loaded) == 1


def test_files_are_back_when_a_repository_is_refused(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "etc/modprobe.d/infra-llm.conf"
    wish = Wish("w", install=["a"], files={"/etc/modprobe.d/infra-llm.conf": "blacklist x\n"})
    host = Host({}, {})
    host.failures = [HostFailedError("a repository can't be used")]
    with pytest.raises(HostFailedError):
        make(host, wish).apply()
    assert not path.exists()


def test_a_version_that_is_not_the_wished_one_is_told(make: Make) -> None:
    host = Host({"nvidia-open": "590.1-1", dnf.dnf_files.PLUGIN: "1-1"}, {})
    with pytest.raises(HostFailedError, match=r"no version 580\.\* can be had"):
        make(host).apply()
