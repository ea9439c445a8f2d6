"""The command as a process: exit codes, streams, and no traceback whatever is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra_llm import __version__
from infra_llm.cli import cli

ROOT = Path(__file__).parents[3]
GONE = "gone ansible_host=127.0.0.1 ansible_port=1\n"


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "cli")} | changes


def infra_llm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "infra_llm", *arguments],
        env=environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


@pytest.fixture
def gone(tmp_path: Path) -> str:
    path = tmp_path / "gone.ini"
    path.write_text(GONE)
    return str(path)


def test_help_and_version() -> None:
    done = infra_llm("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in cli.commands)
    for row in ("0 done", "2 bad usage", "3 does not fit", "4 host unreachable", "130 interrupted"):
        assert row in " ".join(done.stdout.split())
    done = infra_llm("--version")
    assert (done.returncode, __version__ in done.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["provisoin"], "provisoin"),
        (["provision"], "--inventory"),
        (["provision", "-i", "{tmp}/no.ini"], "no such inventory"),
        (["provision", "-i", "{tmp}/no.ini", "--tags", "llama_cp"], "llama_cp"),
        (["provision", "{tmp}/no.json", "-i", "x"], "the plan can't be read"),
        (["plan", "-i", "x", "-o", "{tmp}/no/plan.json"], "folder does not exist"),
        (["plan", "-i", "x", "-o", "{tmp}"], "{tmp}"),
        (["status", "-i", "{tmp}", "--forks", "0"], "--forks"),
        (["fit", "{tmp}/no.gguf", "--ram", "8"], "no.gguf"),
    ],
)
def test_bad_usage_is_2_in_words_on_stderr(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = infra_llm(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert words.format(tmp=tmp_path) in done.stderr


def test_an_unreachable_host_is_4_and_json_is_alone_on_stdout(gone: str, tmp_path: Path) -> None:
    """From another folder, with Ansible's own output asked for as well."""
    done = infra_llm("provision", "-i", gone, "--json", "-vv", cwd=tmp_path)
    assert done.returncode == 4
    document = json.loads(done.stdout)
    assert document["schema"] == "infra-llm/report/1"
    assert document["exit_code"] == 4
    assert document["hosts"]["gone"]["result"] == "unreachable"
    assert "Connection refused" in document["hosts"]["gone"]["error"]
    assert "TASK [Audit the host" in done.stderr
    assert "\x1b" not in done.stderr


def test_ctrl_c_is_130_in_words(tmp_path: Path) -> None:
    """The host is a port that takes the connection and says nothing, so that SSH waits."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        path = tmp_path / "silent.ini"
        path.write_text(f"silent ansible_host=127.0.0.1 ansible_port={server.getsockname()[1]}\n")
        process = subprocess.Popen(
            [sys.executable, "-m", "infra_llm", "probe", "-i", str(path), "--json"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(30)
        connection, _ = server.accept()
        with connection:
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=40)
    assert "Traceback" not in stderr
    assert process.returncode == 130
    assert "interrupted" in json.loads(stdout)[0]["error"]


@pytest.mark.parametrize("arguments", [["--help"], ["provision", "--help"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "infra_llm", *arguments],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=30,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 0
