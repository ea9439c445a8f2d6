"""The first command of the README on fresh Debian systems: git, make, Python, nothing prepared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, run
from tests.e2e.test_fleet import ssh_words

HOSTS = ("fresh12:bookworm", "fresh13:trixie")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("fresh") / "lab.ini"
    words = ("--name", "fresh", "--inventory", str(inventory), "--hosts", ",".join(HOSTS))
    run(sys.executable, "-m", "tests.lab", "up", *words)
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "fresh")


@pytest.mark.parametrize("host", [name.partition(":")[0] for name in HOSTS])
def test_make_provision_serves(lab: Path, host: str) -> None:
    ssh = ssh_words(lab, host)
    tree = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run([*ssh, "mkdir tree && tar -x -C tree"], input=tree.stdout, check=True)
    run(*ssh, "sudo apt-get update -qq && sudo apt-get install -y -qq make git > /dev/null")
    run(*ssh, "cd tree && sudo make provision", check=False)
    status = json.loads(run(*ssh, "cd tree && sudo make --silent status ARGS=--json"))
    assert status[0]["status"] == "as wished"
    assert run(*ssh, "systemctl is-active infra-llm").strip() == "active"
    again = run(*ssh, "cd tree && sudo make provision")
    assert "nothing differs; no role ran" in again
    run(*ssh, "cd tree && sudo make stop")
    assert run(*ssh, "ls -d /opt/infra-llm /var/lib/infra-llm || true").strip() == ""
