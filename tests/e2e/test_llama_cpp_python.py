"""llama-cpp-python's server on a host that compiles llama.cpp for it, as test_source.py does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.clients import talk
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel
from tests.e2e.test_source import carry_in, carry_out

HOST = "p1"
MODEL = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("llama-cpp-python")
    inventory = folder / "lab.ini"
    (folder / "host_vars").mkdir()
    wishes = {"infra_llm_engine": "llama-cpp-python", "infra_llm_context": 1024}
    (folder / "host_vars" / f"{HOST}.json").write_text(json.dumps(wishes))
    words = ("--name", "e2e-lcp", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", HOST)
    carry_in(ssh_words(inventory, HOST))
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "e2e-lcp")


@pytest.fixture(scope="module")
def served(lab: Path) -> dict[str, Any]:
    done = Cli(lab)("provision", expect=None, timeout=3600)
    host: dict[str, Any] = done["report"]["hosts"][HOST]
    assert done["code"] == 0, host.get("error")
    carry_out(ssh_words(lab, HOST))
    return host


def test_it_serves_within_its_plan(served: dict[str, Any]) -> None:
    checks = {check["name"]: check for check in served["verdict"]["checks"]}
    assert all(check["ok"] for check in checks.values()), checks
    assert served["measured"]["speed"]["decode_tokens_per_second"] > 1


def test_a_second_run_finds_nothing(lab: Path, served: dict[str, Any]) -> None:
    host = Cli(lab)("provision")["report"]["hosts"][HOST]
    assert (host["result"], host["changed_tasks"]) == ("unchanged", 0)


def test_real_clients_talk_to_it(lab: Path, served: dict[str, Any]) -> None:
    with tunnel(lab, HOST, 8080) as port:
        url = f"http://127.0.0.1:{port}"
        # One slot: four that ask at once wait for each other.
        talk(f"{url}/v1", MODEL, "2")
        metrics = httpx.get(f"{url}/metrics").text
        assert 'path="/v1/chat/completions",status="200"' in metrics


def test_removal_leaves_nothing(lab: Path, served: dict[str, Any]) -> None:
    Cli(lab)("remove")
    ssh = ssh_words(lab, HOST)
    assert run(*ssh, "sudo find / -xdev -name '*infra-llm*' -not -path '/proc/*'").split() == []
