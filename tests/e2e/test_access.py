"""An endpoint that the network reaches: refused without key and TLS, served by both, closed."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import MODEL, ssh_words

OPEN = {
    "infra_llm_bind": "0.0.0.0",
    "infra_llm_api_key": "auto",
    "infra_llm_tls": "site",
    "infra_llm_allowed_networks": ["10.231.0.0/24"],
    "infra_llm_context": 1024,
    "infra_llm_parallel": 2,
}
NOT_PROVEN = {"infra_llm_verify_expect": "purple"}
TABLE = "nft list table inet infra_llm"
SECRETS = "cd /etc/infra-llm; cat api-key; sha256sum tls/*; stat -c %a:%U:%n * tls/*"
"""Every file of the settings with its rights, so that nothing is left beside them either."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("access") / "lab.ini"
    words = ("--name", "access", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1")
    run(
        *ssh_words(inventory, "node1"),
        "sudo apt-get -qq update && sudo apt-get -qq install nftables ufw",
    )
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "access")


@pytest.fixture(scope="module")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def wishing(lab: Path, tmp_path: Path, data_home: Path) -> Callable[..., Any]:
    def provision(expect: int = 0, command: str = "provision", **wishes: Any) -> dict[str, Any]:
        path = write_inventory(lab, tmp_path, wishes)
        result = Cli(path)(command, expect=expect, env={"XDG_DATA_HOME": str(data_home)})
        return result["report"]["hosts"]["node1"] if command == "provision" else result

    return provision


def write_inventory(lab: Path, folder: Path, wishes: dict[str, Any]) -> Path:
    text = lab.read_text() + "\n[all:vars]\n"
    text += "".join(f"{name}={json.dumps(value)}\n" for name, value in wishes.items())
    path = folder / "lab.ini"
    path.write_text(text)
    return path


def on_host(lab: Path, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c '{script}'", check=check)


@pytest.fixture
def client(lab: Path, data_home: Path) -> openai.OpenAI:
    key = on_host(lab, "cat /etc/infra-llm/api-key").strip()
    context = ssl.create_default_context(cafile=str(data_home / "infra-llm/ca/ca.crt"))
    address = ssh_words(lab, "node1")[-1].split("@")[1]
    return openai.OpenAI(
        base_url=f"https://{address}:8080/v1",
        api_key=key,
        http_client=httpx.Client(verify=context, timeout=120),
        max_retries=0,
    )


def ask(client: openai.OpenAI, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": "What is 1+1?"}]
    return client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=16, **options
    )


def test_an_open_door_is_refused_before_anything_is_changed(
    lab: Path, wishing: Callable[..., Any]
) -> None:
    host = wishing(expect=7, infra_llm_bind="0.0.0.0")
    assert "infra_llm_api_key" in host["error"]
    assert "infra_llm_insecure" in host["error"]
    assert on_host(lab, "ls /etc/infra-llm 2>/dev/null", check=False) == ""


def test_it_is_opened_with_key_tls_and_rule(lab: Path, wishing: Callable[..., Any]) -> None:
    host = wishing(**OPEN)
    assert host["result"] == "serving", host["error"]
    assert host["endpoint"]["url"].startswith("https://10.231.0.")
    checks = {check["name"]: check for check in host["verdict"]["checks"]}
    assert checks["answer"]["ok"]
    assert checks["metrics"]["ok"]
    assert "2 at once" in checks["parallel"]["detail"]
    assert "ip saddr 10.231.0.0/24 accept" in on_host(lab, TABLE)
    files = "/etc/infra-llm/api-key /etc/infra-llm/tls/tls.key"
    assert on_host(lab, f"stat -c %a:%U {files}").split() == ["600:root"] * 2


def test_a_real_client_streams_over_tls_with_the_key(client: openai.OpenAI) -> None:
    pieces = [
        choice.delta.content or "" for event in ask(client, stream=True) for choice in event.choices
    ]
    assert "2" in "".join(pieces)
    assert len(pieces) > 2


def test_without_the_key_or_the_authority_there_is_nothing(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        ask(client.with_options(api_key="not-the-key-of-this-host"))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(str(client.base_url) + "models", timeout=20)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://{client.base_url.host}:18080/health", timeout=5)


def test_the_key_is_in_no_command_line_log_or_state(lab: Path) -> None:
    script = (
        "k=$(cat /etc/infra-llm/api-key); journalctl --no-pager >/run/log.txt; "
        'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f; done >/run/cmd.txt 2>/dev/null; '
        'grep -rlF "$k" /run/log.txt /run/cmd.txt /var/lib/infra-llm /etc/systemd /var/log; true'
    )
    assert on_host(lab, script) == ""


def test_a_second_run_finds_nothing(wishing: Callable[..., Any]) -> None:
    assert wishing(**OPEN)["result"] == "unchanged"


def test_a_new_key_that_is_not_proven_gives_the_old_one_back(
    lab: Path, wishing: Callable[..., Any], client: openai.OpenAI
) -> None:
    before = on_host(lab, SECRETS)
    wishing(expect=6, **{**OPEN, **NOT_PROVEN, "infra_llm_api_key": "another-key-of-24-letters"})
    assert on_host(lab, SECRETS) == before
    assert "2" in ask(client).choices[0].message.content
    assert wishing(**OPEN)["result"] == "unchanged"


def test_a_door_that_was_closed_in_vain_opens_with_its_key_and_certificate(
    lab: Path, wishing: Callable[..., Any], client: openai.OpenAI
) -> None:
    """Without a front their files are not wished: they go when the change is proven, not before."""
    before = on_host(lab, SECRETS)
    host = wishing(expect=6, infra_llm_context=1024, infra_llm_parallel=2, **NOT_PROVEN)
    assert "purple" in host["error"]
    assert on_host(lab, SECRETS) == before
    assert "2" in ask(client).choices[0].message.content
    assert wishing(**OPEN)["result"] == "unchanged"


def test_a_key_that_an_interrupted_run_replaced_comes_back(
    lab: Path, wishing: Callable[..., Any], client: openai.OpenAI, tmp_path: Path, data_home: Path
) -> None:
    before = on_host(lab, SECRETS)
    wishes = {**OPEN, **NOT_PROVEN, "infra_llm_api_key": "another-key-of-24-letters"}
    path = write_inventory(lab, tmp_path, wishes)
    process = subprocess.Popen(
        [sys.executable, "-m", "infra_llm", "provision", "-i", str(path), "--json"],
        cwd=ROOT, env={**os.environ, "XDG_DATA_HOME": str(data_home)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    on_host(
        lab, 'timeout 120 sh -c "until grep -q another /etc/infra-llm/api-key; do sleep 0.05; done"'
    )
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    assert "put back" in json.loads(out)["hosts"]["node1"]["error"]
    assert on_host(lab, SECRETS) == before
    assert "2" in ask(client).choices[0].message.content
    assert wishing(**OPEN)["result"] == "unchanged"


def test_going_back_in_one_instance_leaves_the_receipts_of_another(
    lab: Path, wishing: Callable[..., Any]
) -> None:
    receipt = "cat /var/lib/infra-llm{}/receipts/llm_access.json"
    second = {
        "infra_llm_instance": "second",
        "infra_llm_port": 8090,
        "infra_llm_api_key": "auto",
        "infra_llm_context": 1024,
    }
    before = on_host(lab, receipt.format(""))
    wishing(**second)
    wishing(expect=6, **{**second, **NOT_PROVEN, "infra_llm_context": 512})
    assert on_host(lab, receipt.format("")) == before
    own = json.loads(on_host(lab, receipt.format("-second")))
    assert [unit["name"] for unit in own["units"]] == ["infra-llm-second-front"]
    assert all("infra-llm-second" in file["path"] for file in own["files"])
    wishing(command="remove", **second)
    assert wishing(**OPEN)["result"] == "unchanged"


def test_rules_that_are_loaded_anew_do_not_take_ours_away(
    lab: Path, wishing: Callable[..., Any]
) -> None:
    assert "flush ruleset" in on_host(lab, "cat /etc/nftables.conf")
    for verb in ("restart", "reload"):
        on_host(lab, f"systemctl {verb} nftables; sleep 2")
        assert "ip saddr 10.231.0.0/24 accept" in on_host(lab, TABLE), verb
    assert wishing(**OPEN)["result"] == "unchanged"


def test_a_rule_that_somebody_took_away_is_set_again(
    lab: Path, wishing: Callable[..., Any]
) -> None:
    on_host(lab, "nft flush ruleset")
    # The unit can't know of it: the firewall itself is asked.
    assert on_host(lab, "systemctl is-active infra-llm-firewall").strip() == "active"
    host = wishing(**OPEN)
    assert host["result"] == "serving", host["error"]
    assert host["roles"] == ["preflight", "llm_access", "llm_verify"]
    assert "ip saddr 10.231.0.0/24 accept" in on_host(lab, TABLE)
    assert wishing(**OPEN)["result"] == "unchanged"


def test_the_rule_moves_to_the_firewall_that_is_active(
    lab: Path, wishing: Callable[..., Any], client: openai.OpenAI
) -> None:
    """ufw drops what it was not told of; the one that made a rule takes it away again."""
    ours = "ufw show added | grep infra-llm || true"
    on_host(lab, "ufw allow 22/tcp; ufw --force enable")
    assert wishing(**OPEN)["result"] == "serving"
    assert [line.split()[1] for line in on_host(lab, ours).splitlines()] == ["allow", "deny"]
    assert "infra_llm" not in on_host(lab, "nft list tables")
    assert "2" in ask(client).choices[0].message.content
    assert wishing(**OPEN)["result"] == "unchanged"
    on_host(lab, "ufw disable")
    assert wishing(**OPEN)["result"] == "serving"
    assert on_host(lab, ours) == ""
    assert "ip saddr 10.231.0.0/24 accept" in on_host(lab, TABLE)


def test_a_network_that_is_not_named_stays_out(
    lab: Path, wishing: Callable[..., Any], client: openai.OpenAI
) -> None:
    host = wishing(**{**OPEN, "infra_llm_allowed_networks": ["192.0.2.0/24"]})
    assert host["result"] == "serving", host["error"]
    assert host["roles"] == ["preflight", "llm_access", "llm_verify"]
    with pytest.raises(openai.APIConnectionError):
        ask(client.with_options(timeout=5))
    # The front says no by itself where the rule is gone.
    on_host(lab, "nft delete table inet infra_llm")
    with pytest.raises(openai.PermissionDeniedError):
        ask(client.with_options(timeout=60))


def test_a_restart_of_the_engine_is_a_503_in_between(lab: Path, wishing: Any) -> None:
    wishing(**OPEN)
    started = time.monotonic()
    pid = on_host(lab, "systemctl show infra-llm -p MainPID --value").strip()
    on_host(lab, f"kill -9 {pid}")
    while on_host(lab, "systemctl is-active infra-llm", check=False).strip() != "active":
        assert time.monotonic() - started < 90
        time.sleep(0.5)


def test_closing_takes_front_and_rule_away(lab: Path, wishing: Callable[..., Any]) -> None:
    host = wishing(infra_llm_context=1024, infra_llm_parallel=2)
    assert host["result"] == "serving", host["error"]
    assert host["endpoint"]["url"] == "http://127.0.0.1:8080/v1"
    assert "infra_llm" not in on_host(lab, "nft list ruleset")
    assert on_host(lab, "cd /etc/infra-llm; ls -d tls before 2>/dev/null || true") == ""
    units = on_host(lab, "systemctl list-units --all --plain --no-legend infra-llm*")
    assert [line.split()[0] for line in units.splitlines()] == ["infra-llm.service"]


def test_remove_leaves_nothing_of_it(lab: Path, wishing: Callable[..., Any]) -> None:
    wishing(**OPEN)
    wishing(command="remove", **OPEN)
    found = on_host(
        lab, "nft list tables | grep infra; ls -d /etc/infra-llm /opt/infra-llm "
        "/etc/systemd/system/*infra-llm* /etc/systemd/system/*/*infra-llm* 2>/dev/null; true"
    )  # fmt: skip
    assert found.strip() == ""


def test_a_door_that_is_open_by_wish_is_said(lab: Path, wishing: Callable[..., Any]) -> None:
    host = wishing(infra_llm_bind="0.0.0.0", infra_llm_insecure=True, infra_llm_context=1024)
    assert host["result"] == "serving", host["error"]
    url = host["endpoint"]["url"].removesuffix("/v1")
    assert subprocess.run(["curl", "-sf", f"{url}/health"], timeout=30).returncode == 0
