"""apt's words, as bookworm (apt 2.6) and trixie (apt 3.0) print them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError, RefusedError
from infra_llm.target.packages import apt, dpkg
from infra_llm.target.packages.apt import Apt, UnsolvableError, check_space, parse_sizes
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.transaction import Transaction, Wish

SIMULATED = """\
NOTE: This is only a simulation!
Inst nvidia-kernel-support [535.309.01-0+deb12u1] (535.261.03-1 Debian:12.14/oldstable [amd64])
Purg nvidia-kernel-dkms [535.309.01-0+deb12u1]
Inst nvidia-open-kernel-dkms (535.261.03-1 Debian:12.14/oldstable [amd64])
Conf nvidia-open-kernel-dkms (535.261.03-1 Debian:12.14/oldstable [amd64])
Remv libfoo:i386 [1:2.0-1]
"""
SIZES = """\
0 upgraded, 57 newly installed, 0 to remove and 0 not upgraded.
Need to get 145 MB of archives.
After this operation, 1,384 MB of additional disk space will be used.
"""


def says(text: str, status: int = 0) -> Callable[[Sequence[str]], Output]:
    return lambda _command: Output(status, text)


def test_a_simulation_is_read_step_by_step() -> None:
    steps = Apt(says(SIMULATED)).simulate(["x"])
    assert steps.installs() == ["nvidia-open-kernel-dkms"]
    assert steps.replaces() == ["nvidia-kernel-support"]
    assert steps.removes() == ["libfoo", "nvidia-kernel-dkms"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIZES, (145_000_000, 1_384_000_000)),
        ("Need to get 0 B/26.9 MB of archives.\n", (0, 0)),
        ("Need to get 12.5 kB of archives.\nAfter this operation, 3 kB disk space will be freed.",
         (12_500, 0)),
        ("nothing of the kind", (0, 0)),
    ],
)  # fmt: skip
def test_sizes_are_decimal_as_apt_prints_them(text: str, expected: tuple[int, int]) -> None:
    assert parse_sizes(text) == expected


def test_an_unknown_package_is_named() -> None:
    text = "E: Unable to locate package nvidia-open\nE: Package 'x' has no installation candidate\n"
    with pytest.raises(UnsolvableError, match="no repository of this host has nvidia-open, x"):
        Apt(says(text, 100)).simulate(["nvidia-open"])


def test_a_conflict_is_told_as_apt_tells_it() -> None:
    text = "junk\nThe following packages have unmet dependencies:\n a : Depends: b (= 1)\nE: held\n"
    with pytest.raises(UnsolvableError) as error:
        Apt(says(text, 100)).simulate(["a"])
    assert "a : Depends: b (= 1)" in str(error.value)
    assert "junk" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "W: GPG error: http://r.example/x ./ InRelease: signatures couldn't be verified",
        "E: The repository 'http://r.example/x ./ InRelease' is not signed.",
        "W: OpenPGP signature verification failed: http://r.example/x InRelease: Sub-process sqv",
    ],
)
def test_a_signature_that_does_not_fit_is_an_error_even_if_apt_goes_on(line: str) -> None:
    # apt-get update ends with 0 when it can use the lists of before.
    with pytest.raises(HostFailedError, match="not signed by the pinned key"):
        Apt(says(line + "\n")).update(["http://r.example/x/"])


def test_a_foreign_repository_that_fails_is_only_noted() -> None:
    line = "W: Failed to fetch http://other.example/ 404"
    assert Apt(says(line, 100)).update(["http://r.example/x"]) == ["apt-get update: " + line]


def test_the_first_package_that_fails_is_shown_with_its_script() -> None:
    lines = ["Setting up libx (1) ...", "postinst: 2: frob: not found",
             "dpkg: error processing package libx (--configure):", " exit status 127"]  # fmt: skip
    more = [f"noise {n}" for n in range(30)]
    error = apt.run_failure(Output(100, "\n".join([*lines, *more])))
    assert "frob: not found" in str(error)
    assert "noise 20" not in str(error)


def test_room_is_asked_of_each_file_system_once(tmp_path: Path) -> None:
    check_space([(str(tmp_path), 1), (str(tmp_path / "not/yet/there"), 1)])
    with pytest.raises(HostFailedError, match=r"no space: \d+ MiB are needed"):
        check_space([(str(tmp_path), 2**59), (str(tmp_path), 2**59)])


class Host:
    """Packages of a host as dpkg tells them, and one answer for a simulation."""

    def __init__(self, simulated: str, **packages: str) -> None:
        self.simulated = simulated
        self.packages = packages
        self.asked: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> Output:
        self.asked.append(list(command))
        if command[0] == "dpkg-query":
            rows = (f"{n}\t{v.split()[0]}\t{v.split()[1]}\tinstalled\n"
                    for n, v in self.packages.items())  # fmt: skip
            return Output(0, "".join(rows))
        if "--simulate" in command:
            return Output(0, self.simulated)
        return Output(0, "")


@pytest.fixture(autouse=True)
def no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpkg, "has_journal", lambda: False)


def transact(host: Host, tmp_path: Path, **wish: object) -> Transaction:
    made = Transaction(Wish("x", **wish), check=True, etc=str(tmp_path), run=host)  # type: ignore[arg-type]
    made.apply()
    return made


def test_what_nobody_asked_to_remove_is_not_removed(tmp_path: Path) -> None:
    host = Host("Inst a (1 r)\nRemv desktop [3]\n", desktop="3 install")
    with pytest.raises(RefusedError, match="apt would remove desktop, which nobody asked for"):
        transact(host, tmp_path, install=["a"])


def test_a_hold_of_the_administrator_is_kept(tmp_path: Path) -> None:
    host = Host("Inst a (1 r)\nInst libc6 [1] (2 r)\n", libc6="1 hold")
    with pytest.raises(RefusedError, match="libc6 is on hold, and not by infra-llm"):
        transact(host, tmp_path, install=["a"])


def test_a_host_that_has_everything_asks_apt_nothing(tmp_path: Path) -> None:
    host = Host("", a="580.1-1 hold")
    made = transact(host, tmp_path, install=["a"], hold=["a"])
    assert not made.done.steps.changes
    assert not [command for command in host.asked if command[0] == "apt-get"]


def test_what_stays_is_named_with_its_version(tmp_path: Path) -> None:
    host = Host("Inst b (1 r)\n", a="580.1-1 install")
    transact(host, tmp_path, install=["a", "b"])
    simulated = next(command for command in host.asked if "--simulate" in command)
    assert simulated[-2:] == ["b", "a=580.1-1"]
