"""The embedded default: this machine serves the default model, whatever manages its services."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.conftest import Cli, run

ETC = Path("/etc/infra-llm")
STATE = Path("/var/lib/infra-llm/state.json")


@pytest.fixture(scope="module")
def cli() -> Iterator[Cli]:
    command = Cli("inventories/local.ini")
    command("remove", expect=None)
    yield command
    command("remove")


@pytest.fixture(scope="module")
def first(cli: Cli) -> dict[str, Any]:
    return cli("provision")["report"]


def host_of(report: dict[str, Any]) -> dict[str, Any]:
    return report["hosts"]["localhost"]


def test_first_run_serves_and_reports(first: dict[str, Any]) -> None:
    host = host_of(first)
    assert host["result"] == "serving"
    roles = "preflight llama_cpp model_store llm_service llm_access llm_verify"
    assert host["roles"] == roles.split()
    checks = {check["name"]: check for check in host["verdict"]["checks"]}
    assert all(check["ok"] for check in checks.values()), checks
    assert host["measured"]["speed"]["decode_tokens_per_second"] > 1
    assert host["measured"]["speed"]["prefill_tokens_per_second"] > 1
    assert host["hardware"]["cpu"]["model"]
    assert host["hardware"]["sources"]["cpu.model"]


def test_predicted_memory_is_close_to_measured(first: dict[str, Any]) -> None:
    host = host_of(first)
    predicted, used = host["plan"]["host"]["total_mib"], host["measured"]["memory"]["rss_mib"]
    assert abs(used / predicted - 1) < 0.05, (predicted, used)


def test_the_printed_curl_line_works_as_printed(first: dict[str, Any]) -> None:
    answer = json.loads(run("bash", "-c", host_of(first)["endpoint"]["curl"]))
    assert "2" in answer["choices"][0]["message"]["content"]


def test_the_printed_python_works_as_printed(first: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text(host_of(first)["endpoint"]["python"])
    import sys

    assert "2" in run(sys.executable, str(script))


def test_a_real_client_talks_to_it(first: dict[str, Any]) -> None:
    at = host_of(first)["endpoint"]
    client = openai.OpenAI(base_url=at["url"], api_key="none")
    assert [model.id for model in client.models.list()] == [at["model"]]
    chunks = client.chat.completions.create(
        model=at["model"],
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=16,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip()


def test_it_is_bound_to_loopback_and_unprivileged(first: dict[str, Any]) -> None:
    listening = run("ss", "-Hltnp", "sport = :8080")
    assert "127.0.0.1:8080" in listening
    assert "0.0.0.0:8080" not in listening
    pid = service_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    uid = int(status.split("Uid:")[1].split()[0])
    assert uid != 0


def service_pid() -> int:
    pid = run("ss", "-Hltnp", "sport = :8080").split("pid=")[1].split(",")[0]
    return int(pid)


def test_second_run_finds_nothing(cli: Cli, first: dict[str, Any]) -> None:
    host = host_of(cli("provision")["report"])
    assert host["result"] == "unchanged"
    assert host["changes"] == []
    assert host["roles"] == []
    assert host["changed_tasks"] == 0


def test_full_runs_every_role_and_changes_nothing(cli: Cli, first: dict[str, Any]) -> None:
    host = host_of(cli("provision", "--full")["report"])
    assert len(host["roles"]) == 6
    assert host["changed_tasks"] == 0


def test_check_mode_tells_and_changes_nothing(cli: Cli, first: dict[str, Any]) -> None:
    before = (ETC / "launch.json").read_text()
    (ETC / "launch.json").write_text(before + "\n")
    host = host_of(cli("provision", "--check", "--diff")["report"])
    assert host["changed_tasks"] >= 1
    assert any("launch.json" in diff for diff in host["diffs"])
    assert (ETC / "launch.json").read_text() == before + "\n"
    (ETC / "launch.json").write_text(before)


def test_an_edited_file_is_found_and_only_its_role_runs(cli: Cli, first: dict[str, Any]) -> None:
    path = ETC / "launch.json"
    before = path.read_text()
    path.write_text(before.replace('"port": 8080', '"port": 8081'))
    host = host_of(cli("provision")["report"])
    assert any("launch.json" in change["text"] for change in host["changes"])
    assert host["roles"] == ["preflight", "llm_service", "llm_verify"]
    assert path.read_text() == before


def test_a_killed_server_is_back(first: dict[str, Any]) -> None:
    before = service_pid()
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/health", timeout=2) as answer:
                if answer.status == 200:
                    break
        except OSError:
            time.sleep(0.2)
    assert service_pid() != before


def test_a_stopped_service_is_found_and_started(cli: Cli, first: dict[str, Any]) -> None:
    stop_service()
    host = host_of(cli("provision")["report"])
    assert host["result"] == "serving"
    assert host["roles"] == ["preflight", "llm_service", "llm_verify"]
    assert service_pid()


def stop_service() -> None:
    if Path("/run/systemd/system").is_dir():
        run("systemctl", "stop", "infra-llm")
        return
    pid = service_pid()
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_changed_wish_changes_the_service_only(
    cli: Cli, first: dict[str, Any], tmp_path: Path
) -> None:
    inventory = tmp_path / "local.ini"
    inventory.write_text("localhost ansible_connection=local infra_llm_context=2048\n")
    wished = Cli(inventory)
    host = host_of(wished("provision")["report"])
    assert host["roles"] == ["preflight", "llm_service", "llm_verify"]
    assert any("ctx_size 8192 -> 2048" in change["text"] for change in host["changes"])
    assert json.loads(STATE.read_text())["desired"]["plan"]["flags"]["ctx_size"] == 2048
    back = host_of(cli("provision")["report"])
    assert any("ctx_size 2048 -> 8192" in change["text"] for change in back["changes"])


def test_status_and_verify(cli: Cli, first: dict[str, Any]) -> None:
    [entry] = cli("status")["report"]
    assert entry["status"] == "as wished"
    assert entry["model"] == "smollm2-135m-instruct-q4_1"
    host = host_of(cli("verify")["report"])
    assert host["verdict"]["passed"]


def test_remove_undoes_it_all(cli: Cli, first: dict[str, Any]) -> None:
    [entry] = cli("remove")["report"]
    assert entry["result"] == "removed"
    for path in ("/opt/infra-llm", "/etc/infra-llm", "/var/lib/infra-llm", "/var/log/infra-llm"):
        assert not Path(path).exists(), path
    assert "infra-llm:" not in Path("/etc/passwd").read_text()
    assert "infra-llm:" not in Path("/etc/group").read_text()
    assert run("ss", "-Hltn", "sport = :8080").strip() == ""
    [again] = cli("remove")["report"]
    assert again["result"] == "nothing to remove"
