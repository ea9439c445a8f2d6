"""What main() makes of a bug, and of a standard output that can't take the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra_llm.__main__ import DEBUG, main
from infra_llm.cli import cli
from infra_llm.core.hardware import Gpu, HostHardware, Memory, System

ROOT = Path(__file__).parents[3]
STACK = ("stack", "--gpu", "RTX 3090", "--os", "debian12")


def shell(
    redirection: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """`infra-llm ARGUMENTS REDIRECTION`, as typed into a shell."""
    return subprocess.run(
        [
            *("/bin/sh", "-c", f'exec "$@" {redirection}', "sh"),
            *(sys.executable, "-m", "infra_llm", *arguments),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT / "cli")} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )


def broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """main() where a command has a bug: (exit code, stdout, stderr)."""

    def bug(**_: object) -> None:
        raise KeyError("no\nsuch key")

    monkeypatch.setattr(cli, "main", bug)
    monkeypatch.setattr(sys, "argv", ["infra-llm", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    caught = capsys.readouterr()
    return int(left.value.code or 0), caught.out, caught.err


@pytest.mark.parametrize("arguments", [("fit",), ("status", "-v"), ("plan", "-i", "vv", "--v-v")])
def test_a_bug_is_70_in_one_line_that_says_what_to_do(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(DEBUG, raising=False)
    code, out, error = broken(monkeypatch, capsys, *arguments)
    assert (code, out) == (70, "")
    first, second = error.splitlines()
    assert first == r"error: KeyError: 'no\nsuch key'"
    assert second.startswith("  this is a bug of infra-llm; run again with INFRA_LLM_DEBUG=1")


@pytest.mark.parametrize(
    ("arguments", "debug"),
    [
        (["-vv"], ""),
        (["-v", "-Kv"], ""),
        (["--verbose", "--verbose"], ""),
        (["-v", "--verbose"], ""),
        ([], "1"),
    ],
)
def test_who_asks_sees_the_traceback_of_a_bug(
    arguments: list[str],
    debug: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(DEBUG, debug)
    code, out, error = broken(monkeypatch, capsys, "status", *arguments)
    assert (code, out) == (70, "")
    assert "Traceback (most recent call last)" in error


@pytest.mark.parametrize("arguments", [STACK, (*STACK, "--json"), ("--help",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_2_in_words(arguments: tuple[str, ...], unbuffered: str) -> None:
    done = shell("> /dev/full", *arguments, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[0] == (
        "error: standard output: the result can't be written (No space left on device)"
    )


def test_a_closed_standard_output_is_2_before_anything_is_done() -> None:
    done = shell(">&-", "status", "-i", "/nowhere.ini")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "error: standard output is closed\n  send it to a file or to /dev/null\n"
    )


def test_closed_standard_error_and_input_spoil_nothing() -> None:
    done = shell("2>&- <&-", *STACK, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["refused"] is False
    assert shell("2>&-", "status", "-i", "/nowhere.ini").returncode == 2


def test_what_the_encoding_lacks_is_a_question_mark(tmp_path: Path) -> None:
    host = HostHardware(
        system=System(distribution="debian", distribution_version="12", kernel="6.1.0-40-amd64"),
        memory=Memory(total_mib=65536),
        gpus=[Gpu(0, "nvidia", name="Grünkarte €\udc80", compute_capability="8.6")],
    )
    path = tmp_path / "host.json"
    path.write_text(json.dumps(host.to_dict()))
    for encoding, shown in (("latin-1", b"Gr\xfcnkarte ??"), ("utf-8", "Grünkarte €?".encode())):
        done = shell("", "stack", "--hardware", str(path), PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
