"""Two services on one machine share nothing, and one is removed while the other serves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words

OURS = "ls -d /opt/infra-llm* /etc/infra-llm* /var/lib/infra-llm* 2>/dev/null || true"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("instances") / "lab.ini"
    words = ("--name", "instances", "--inventory", str(path), "--hosts", "one:bookworm")
    run(sys.executable, "-m", "tests.lab", "up", *words)
    text = path.read_text()
    first = next(line for line in text.splitlines() if line.startswith("one "))
    second = first.replace("one ", "two ", 1) + " infra_llm_instance=second infra_llm_port=8090"
    text = text.replace(first, f"{first}\n{second}")
    path.write_text(f"{text}\n[all:vars]\ninfra_llm_threads=1\ninfra_llm_context=1024\n")
    yield path
    run(sys.executable, "-m", "tests.lab", "down", "--name", "instances")


def test_two_instances_come_and_go_apart(inventory: Path) -> None:
    cli, ssh = Cli(inventory), ssh_words(inventory, "one")
    for host in ("one", "two"):
        assert cli("provision", "--limit", host)["report"]["hosts"][host]["result"] == "serving"
    active = run(*ssh, "systemctl is-active infra-llm infra-llm-second").split()
    assert active == ["active", "active"]
    again = cli("provision")["report"]["hosts"]
    assert [again[host]["result"] for host in ("one", "two")] == ["unchanged"] * 2

    cli("remove", "--limit", "one")
    assert run(*ssh, "systemctl is-active infra-llm-second").strip() == "active"
    left = run(*ssh, OURS).split()
    assert left and all("infra-llm-second" in path for path in left), left
    assert cli("provision", "--limit", "two")["report"]["hosts"]["two"]["result"] == "unchanged"
    cli("remove", "--limit", "two")
    assert run(*ssh, OURS).strip() == ""
