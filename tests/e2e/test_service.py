"""The service of one real host: out of memory, edits by hand, somebody else's user, a reboot."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import ssh_words
from tests.tiny_gguf import write

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

STANDIN = ROOT / "tests" / "standins" / "llama_server_oom.py"
PLACE = "/opt/infra-llm/llama_cpp/current/llama-server"
NAME = "smollm2-135m-instruct-q4_1"
MODEL = Path("/var/tmp/infra-llm-tiny.gguf")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("service") / "lab.ini"
    words = ("--name", "service", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1", "--reboots")
    vocabulary = Path.home() / ".cache/infra-llm/e2e/vocabulary.gguf"
    fetch(load_catalogue()["models"][NAME], str(vocabulary), Settings(package_indexes()))
    write(MODEL, vocabulary)
    with MODEL.open("rb") as file:
        copy = f"sudo tee {MODEL} >/dev/null"
        subprocess.run([*ssh_words(inventory, "node1"), copy], stdin=file, check=True, timeout=60)
    yield inventory
    MODEL.unlink()
    run(sys.executable, "-m", "tests.lab", "down", "--name", "service")


def tiny() -> dict[str, Any]:
    """The tiny model as an artifact of the site's own."""
    content = MODEL.read_bytes()
    return {
        "filename": "tiny.gguf",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "places": [{"kind": "path", "path": str(MODEL)}],
    }


@pytest.fixture
def provision(lab: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def provision(expect: int = 0, **wishes: Any) -> dict[str, Any]:
        usual = {
            "infra_llm_threads": 1,
            "infra_llm_model": "tiny",
            "infra_llm_models": {"tiny": tiny()},
            "infra_llm_verify_expect": "",
        }
        text = lab.read_text() + "\n[all:vars]\n"
        text += "".join(f"{name}={json.dumps(v)}\n" for name, v in {**usual, **wishes}.items())
        path = tmp_path / "lab.ini"
        path.write_text(text)
        found: dict[str, Any] = Cli(path)("provision", expect=expect)["report"]["hosts"]["node1"]
        return found

    return provision


def on_host(lab: Path, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c '{script}'", check=check)


def put_standin(lab: Path, limit: int) -> None:
    """A GPU that is too small for more than `limit` tokens takes the place of the machine."""
    subprocess.run(
        [*ssh_words(lab, "node1"), f"sudo sh -c 'cat >{PLACE}; chmod 755 {PLACE}'"],
        input=STANDIN.read_text(),
        text=True,
        check=True,
        timeout=60,
    )
    on_host(lab, f"echo {limit} >/run/oom-limit")


def test_somebody_elses_user_is_refused(lab: Path, provision: Callable[..., Any]) -> None:
    on_host(lab, "useradd --create-home --uid 4242 infra-llm")
    host = provision(expect=2)
    assert "exists with uid 4242 and home /home/infra-llm" in host["error"]
    assert on_host(lab, "getent passwd infra-llm").split(":")[5] == "/home/infra-llm"
    on_host(lab, "userdel --remove infra-llm 2>/dev/null")


def test_out_of_memory_is_stepped_down_until_it_fits(
    lab: Path, provision: Callable[..., Any]
) -> None:
    first = provision()
    assert first["result"] == "serving", first["error"]
    assert first["plan"]["flags"]["ctx_size"] == 8192
    put_standin(lab, 2048)
    host = provision(infra_llm_port=8090)
    assert host["result"] == "serving", host["error"]
    assert [step.split(",")[0] for step in host["steps"]] == [
        "cache type q8_0", "context 8192 -> 4096", "context 4096 -> 2048",
    ]  # fmt: skip
    assert "cudaMalloc failed: out of memory" in host["steps"][0]
    assert host["plan"]["flags"]["ctx_size"] == 2048
    assert provision(infra_llm_port=8090)["result"] == "unchanged"


def test_after_three_steps_the_previous_service_is_back(
    lab: Path, provision: Callable[..., Any]
) -> None:
    before = on_host(lab, "cat /etc/infra-llm/launch.json")
    # So many slots that three steps are not enough.
    host = provision(expect=5, infra_llm_port=8090, infra_llm_parallel=16)
    assert "tried smaller plans: cache type q8_0" in host["error"]
    assert "cudaMalloc failed: out of memory" in host["error"]
    assert on_host(lab, "cat /etc/infra-llm/launch.json") == before
    assert on_host(lab, "systemctl is-active infra-llm").strip() == "active"
    on_host(lab, f"rm {PLACE}")


def test_a_unit_that_was_edited_is_shown_kept_and_replaced(
    lab: Path, provision: Callable[..., Any]
) -> None:
    provision(infra_llm_port=8092)
    on_host(lab, "echo Nice=5 >>/etc/systemd/system/infra-llm.service")
    host = provision(infra_llm_port=8092)
    assert any("infra-llm.service" in c["text"] and "edited" in c["text"] for c in host["changes"])
    assert "Nice=5" in on_host(lab, "cat /var/lib/infra-llm/orig/infra-llm.service.orig-*")
    assert "Nice=5" not in on_host(lab, "cat /etc/systemd/system/infra-llm.service")


def test_what_the_host_remembers_is_for_root_alone(
    lab: Path, provision: Callable[..., Any]
) -> None:
    """Earlier versions left it readable: the next run closes it, and restarts nothing for that."""
    provision(infra_llm_port=8092)
    state = "/var/lib/infra-llm/state.json"
    assert on_host(lab, f"stat -c %a {state}").strip() == "600"
    serving = on_host(lab, "systemctl show infra-llm -p InvocationID")
    on_host(lab, f"chmod 644 {state}")
    assert provision(infra_llm_port=8092)["result"] == "unchanged"
    assert on_host(lab, f"stat -c %a {state}").strip() == "600"
    assert on_host(lab, "systemctl show infra-llm -p InvocationID") == serving


def managers(lab: Path) -> dict[str, Any]:
    """What either manager has of the service, and how many engines run."""

    def says(script: str) -> str:
        return on_host(lab, script, check=False).strip()

    return {
        "unit": says("ls /etc/systemd/system/infra-llm.service") != "",
        "systemd": says("systemctl is-active infra-llm") == "active",
        "config": says("ls /etc/infra-llm/supervisord.conf") != "",
        "supervisord": int(says("pgrep -cf [s]upervisor.supervisord")),
        "engines": int(says("pgrep -cf ^/usr/bin/python3.*/bin/launch.py")),
    }


SYSTEMD = {"unit": True, "systemd": True, "config": False, "supervisord": 0, "engines": 1}
SUPERVISOR = {"unit": False, "systemd": False, "config": True, "supervisord": 1, "engines": 1}


def test_another_manager_takes_over_and_gives_back(
    lab: Path, provision: Callable[..., Any]
) -> None:
    provision(infra_llm_port=8092)
    assert managers(lab) == SYSTEMD
    other: dict[str, Any] = {"infra_llm_port": 8092, "infra_llm_service_manager": "supervisor"}
    # It runs under supervisor, and fails only then: systemd gets it back.
    failed = provision(expect=6, **other, infra_llm_verify_expect="what no model says")
    assert "verification failed" in failed["error"]
    assert managers(lab) == SYSTEMD
    host = provision(**other)
    assert host["result"] == "serving", host["error"]
    assert managers(lab) == SUPERVISOR
    failed = provision(expect=6, infra_llm_port=8092, infra_llm_verify_expect="what no model says")
    assert managers(lab) == SUPERVISOR, failed["error"]
    host = provision(infra_llm_port=8092)
    assert host["result"] == "serving", host["error"]
    assert managers(lab) == SYSTEMD


def test_it_serves_again_after_a_reboot(lab: Path, provision: Callable[..., Any]) -> None:
    provision(infra_llm_port=8092)
    boot = on_host(lab, "cat /proc/sys/kernel/random/boot_id; systemctl show -p UserspaceTimestamp")
    on_host(lab, "systemd-run --quiet --on-active=1 systemctl reboot")
    deadline = time.monotonic() + 240
    while True:
        time.sleep(2)
        words = ssh_words(lab, "node1")
        words[1:1] = ["-o", "ConnectTimeout=5"]
        ask = "systemctl show -p UserspaceTimestamp; systemctl is-active infra-llm"
        done = subprocess.run([*words, ask], capture_output=True, text=True)
        if done.stdout.endswith("\nactive\n") and done.stdout.split("\n")[0] not in boot:
            break
        assert time.monotonic() < deadline, done.stdout + done.stderr
    assert on_host(lab, "curl -s http://127.0.0.1:8092/health || python3 -c \"import "
                   "urllib.request as u; print(u.urlopen(\\\"http://127.0.0.1:8092/health\\\")"
                   ".read().decode())\"").strip() == '{"status":"ok"}'  # fmt: skip
