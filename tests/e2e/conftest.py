"""Real runs on real hosts: this machine, and systemd guests that the lab tool makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Cli:
    """The command infra-llm as a user runs it, in a process of its own."""

    def __init__(self, inventory: Path | str) -> None:
        self.inventory = str(inventory)

    def __call__(self, *words: str, expect: int | None = 0, **more: Any) -> dict[str, Any]:
        done = self.raw(*words, "--json", **more)
        if expect is not None:
            assert done.returncode == expect, (
                f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        document = json.loads(done.stdout) if done.stdout.strip() else {}
        return {"report": document, "code": done.returncode, "stderr": done.stderr}

    def raw(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra_llm", words[0], *words[1:]]
        command += ["--inventory", self.inventory]
        environment = {**os.environ, **more.pop("env", {})}
        more = {"timeout": 900, "stdin": subprocess.DEVNULL, **more}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environment, **more
        )


def run(*command: str, check: bool = True) -> str:
    """A command's stdout. Its stdin is its own: ssh leaves one that does not block, which Ansible
    refuses."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=900
    )
    if check:
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
