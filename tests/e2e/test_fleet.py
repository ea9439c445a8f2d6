"""The fleet path: two systemd hosts over SSH, as an ordinary user with sudo, keys checked."""

from __future__ import annotations

import configparser
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.conftest import Cli, run

MODEL = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The inventory of two fresh hosts."""
    inventory = tmp_path_factory.mktemp("lab") / "lab.ini"
    words = ("--name", "fleet", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1,node2:trixie")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "fleet")


@pytest.fixture(scope="module")
def mixed(lab: Path) -> Path:
    """Different wishes by host variables, and a third host that is not there."""
    text = lab.read_text()
    lines = []
    for line in text.splitlines():
        if line.startswith("node1 "):
            line += " infra_llm_context=2048 infra_llm_threads=1"
        if line.startswith("node2 "):
            line += " infra_llm_port=9090 infra_llm_parallel=2 infra_llm_context=1024"
            line += " infra_llm_threads=1"
            line += " infra_llm_model=renamed"
        lines.append(line)
        if line.startswith("node2 "):
            lines.append("gone ansible_host=10.231.0.254 ansible_ssh_timeout=3")
    path = lab.with_name("mixed.ini")
    path.write_text("\n".join(lines) + "\n")
    folder = path.with_name("host_vars")
    folder.mkdir(exist_ok=True)
    from infra_llm.readers.catalogue_file import load_catalogue

    own = {"infra_llm_models": {"renamed": load_catalogue()["models"][MODEL]}}
    (folder / "node2.json").write_text(json.dumps(own))
    return path


@pytest.fixture(scope="module")
def first(mixed: Path) -> dict[str, Any]:
    return Cli(mixed)("provision", expect=4)["report"]


def ssh_words(lab: Path, host: str) -> list[str]:
    """The ssh command to a host, out of its inventory."""
    parser = configparser.ConfigParser(allow_no_value=True, delimiters=("=",), interpolation=None)
    lines = lab.read_text().splitlines()
    own = next(line.split()[1:] for line in lines if line.startswith(host + " "))
    place = dict(word.split("=", 1) for word in own)
    parser.read_string("\n".join(line for line in lines if " ansible_host=" not in line))
    variables = dict(parser["nodes:vars"])
    key = variables["ansible_ssh_private_key_file"]
    common = shlex.split(variables["ansible_ssh_common_args"].strip("'\""))
    port = place.get("ansible_port", "22")
    user = variables["ansible_user"]
    return ["ssh", "-i", key, "-p", port, *common, f"{user}@{place['ansible_host']}"]


@contextmanager
def tunnel(lab: Path, host: str, port: int) -> Iterator[int]:
    """A local port that leads to the host's loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local = free.getsockname()[1]
    command = ssh_words(lab, host)
    command[1:1] = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{local}:127.0.0.1:{port}"]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", local)) == 0:
                    break
            time.sleep(0.1)
        yield local
    finally:
        # Not SIGTERM: ssh notes it and may then sleep in poll() until something arrives.
        process.kill()
        process.wait(timeout=10)


def test_two_hosts_serve_and_the_third_is_named(first: dict[str, Any]) -> None:
    hosts = first["hosts"]
    assert hosts["node1"]["result"] == "serving", hosts["node1"]["error"]
    assert hosts["node2"]["result"] == "serving", hosts["node2"]["error"]
    assert hosts["gone"]["result"] == "unreachable"
    assert hosts["gone"]["error"]


def test_each_host_is_as_its_own_variables_wish(first: dict[str, Any]) -> None:
    hosts = first["hosts"]
    assert hosts["node1"]["plan"]["flags"]["ctx_size"] == 2048
    assert hosts["node2"]["plan"]["flags"]["ctx_size"] == 2 * 1024
    assert hosts["node2"]["plan"]["flags"]["parallel"] == 2
    assert hosts["node2"]["endpoint"]["url"].endswith(":9090/v1")


@pytest.mark.parametrize(
    ("host", "port", "model"), [("node1", 8080, MODEL), ("node2", 9090, "renamed")]
)
def test_a_real_client_talks_to_each(
    lab: Path, first: dict[str, Any], host: str, port: int, model: str
) -> None:
    with tunnel(lab, host, port) as local:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{local}/v1", api_key="none")
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is 1+1?"}],
            temperature=0,
            max_tokens=32,
        )
    assert "2" in (answer.choices[0].message.content or "")


def test_second_run_finds_nothing_on_both(mixed: Path, first: dict[str, Any]) -> None:
    report = Cli(mixed)("provision", "--limit", "node1,node2")["report"]
    for host in report["hosts"].values():
        assert host["result"] == "unchanged"
        assert host["changed_tasks"] == 0


def test_a_removed_package_is_found_and_only_its_role_runs(
    mixed: Path, first: dict[str, Any]
) -> None:
    run(*ssh_words(mixed, "node1"), "sudo dpkg --purge --force-depends libgomp1")
    host = Cli(mixed)("provision", "--limit", "node1")["report"]["hosts"]["node1"]
    assert any("libgomp1" in change["text"] for change in host["changes"])
    assert "model_store" not in host["roles"]
    assert "llama_cpp" in host["roles"]
    assert host["result"] == "serving"


def test_it_serves_after_a_restart_of_the_host(lab: Path, first: dict[str, Any]) -> None:
    enabled = run(*ssh_words(lab, "node1"), "systemctl is-enabled infra-llm")
    assert enabled.strip() == "enabled"


def test_a_plan_is_applied_exactly_or_refused(
    mixed: Path, first: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    Cli(mixed)("plan", "--limit", "node1", "-o", str(path))
    plan = json.loads(path.read_text())
    plan["hosts"]["node1"]["desired"]["inputs"]["fingerprint"]["cpu"] = "another machine"
    path.write_text(json.dumps(plan))
    host = Cli(mixed)("provision", str(path), "--limit", "node1", expect=7)["report"]
    assert "made for other hardware" in host["hosts"]["node1"]["error"]


def test_provision_from_another_folder_with_the_same_inventory(
    mixed: Path, first: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra_llm", "status", "-i", str(mixed), "-l", "node1", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["status"] == "as wished"


def test_remove_leaves_nothing(mixed: Path, first: dict[str, Any]) -> None:
    Cli(mixed)("remove", "--limit", "node1,node2")
    for host in ("node1", "node2"):
        found = run(
            *ssh_words(mixed, host),
            "sudo sh -c 'ls -d /opt/infra-llm /etc/infra-llm /var/lib/infra-llm "
            "/etc/systemd/system/infra-llm* 2>/dev/null; id infra-llm 2>/dev/null; "
            "dpkg -s libgomp1 2>/dev/null | grep ^Status; true'",
        )
        assert "infra-llm" not in found
        assert "ok installed" not in found
