"""vLLM's CPU build on a systemd host: a tiny model that the test makes, real clients.

The packages are 860 MB to download and 3.1 GB on the host, so this is not part of `make test`
(see docs/test-hosts.md). torch for the CPU is on its publisher's index only: where pip on this
machine has it, it is carried to the host, as a site without internet would.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests import tiny_llama
from tests.e2e.clients import talk
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.model_source import cache_folder

HOST = "v1"
MODELS, WHEELS = "/srv/models", "/srv/wheels"
TORCH = load_catalogue()["engines"]["vllm"]["torch"]["3.11"]
WISHES = {
    "infra_llm_engine": "vllm",
    "infra_llm_model": "tiny",
    "infra_llm_context": 4096,
    "infra_llm_parallel": 4,
    "infra_llm_verify_expect": "",
    "infra_llm_artifact_folders": [MODELS, WHEELS],
}


def torch_wheel() -> Path | None:
    """torch from wherever pip of this machine has it, kept between runs."""
    kept = cache_folder() / "wheels" / str(TORCH["filename"])
    if not kept.exists():
        words = ("--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--quiet")
        wanted = f"torch=={TORCH['version']}"
        run(sys.executable, "-m", "pip", "download", *words, "-d", str(kept.parent), wanted,
            check=False)  # fmt: skip
    return kept if kept.exists() else None


def artifact(folder: Path) -> dict[str, Any]:
    files = [
        {
            "filename": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
    ]
    return {"files": files, "places": [{"kind": "path", "path": str(folder)}], "licence": "none"}


def carry(lab: Path, folder: Path, name: str, to: str) -> None:
    ssh = ssh_words(lab, HOST)
    run(*ssh, f"sudo mkdir -p {to}")
    with subprocess.Popen(["tar", "-C", str(folder), "-c", name], stdout=subprocess.PIPE) as tar:
        subprocess.run([*ssh, f"sudo tar -x --no-same-owner -C {to}"], stdin=tar.stdout, check=True)
    assert tar.returncode == 0


def on_host(lab: Path, command: str, check: bool = True) -> str:
    return run(*ssh_words(lab, HOST), f"sudo {command}", check=check)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A host that has the model and torch in folders of its site, and nothing else."""
    folder = tmp_path_factory.mktemp("vllm")
    inventory = folder / "lab.ini"
    tiny = tiny_llama.write_folder(folder / "tiny", parts=2)
    (folder / "host_vars").mkdir()
    wishes = {**WISHES, "infra_llm_models": {"tiny": artifact(tiny)}}
    (folder / "host_vars" / f"{HOST}.json").write_text(json.dumps(wishes))
    words = ("--name", "e2e-vllm", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", HOST)
    wheel = torch_wheel()
    if wheel:
        carry(inventory, wheel.parent, wheel.name, WHEELS)
    carry(inventory, folder, "tiny", MODELS)
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "e2e-vllm")


@pytest.fixture(scope="module")
def served(lab: Path) -> dict[str, Any]:
    started = time.monotonic()
    done = Cli(lab)("provision", expect=None, timeout=3000)
    host: dict[str, Any] = done["report"]["hosts"][HOST]
    assert done["code"] == 0, host.get("error")
    sys.stdout.write(f"cold provision: {time.monotonic() - started:.0f} s\n")
    return host


def test_it_serves_and_its_cache_is_as_planned(served: dict[str, Any]) -> None:
    assert served["result"] == "serving"
    assert "vllm" in served["roles"]
    checks = {check["name"]: check for check in served["verdict"]["checks"]}
    assert checks["placement"]["ok"], checks["placement"]
    assert "on the CPU" in checks["placement"]["detail"]
    log, flags = served["measured"]["engine"], served["plan"]["flags"]
    assert log["context"] == flags["max_model_len"] == 4096
    assert log["kv_cache_tokens"] >= 4 * 4096
    assert served["measured"]["speed"]["decode_tokens_per_second"] > 1


def test_the_plan_bounds_what_it_takes(served: dict[str, Any]) -> None:
    row, used = served["plan"]["host"], served["measured"]["memory"]["rss_mib"]
    assert row["low_mib"] <= used <= row["high_mib"], (row, used)


def test_a_second_run_finds_nothing(lab: Path, served: dict[str, Any]) -> None:
    host = Cli(lab)("provision")["report"]["hosts"][HOST]
    assert host["result"] == "unchanged"
    assert host["changed_tasks"] == 0


def test_real_clients_talk_to_it_and_metrics_count(lab: Path, served: dict[str, Any]) -> None:
    with tunnel(lab, HOST, 8080) as port:
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["tiny"]
        before = requests_counted(url)
        talk(f"{url}/v1", "tiny")
        assert requests_counted(url) == before + 6


def requests_counted(url: str) -> float:
    rows = httpx.get(f"{url}/metrics").text.splitlines()
    counted = (row for row in rows if row.startswith("vllm:request_success_total{"))
    return sum(float(row.rpartition(" ")[2]) for row in counted)


def test_a_killed_server_is_back_with_what_it_compiled(lab: Path, served: dict[str, Any]) -> None:
    assert "vllm" in on_host(lab, "ls /var/lib/infra-llm/engine")
    on_host(lab, "systemctl kill --signal=KILL infra-llm")
    started = time.monotonic()
    state = "activating"
    while time.monotonic() - started < 600 and state != "active":
        time.sleep(2)
        state = on_host(lab, "systemctl is-active infra-llm", check=False).strip()
    assert state == "active"
    sys.stdout.write(f"back after {time.monotonic() - started:.0f} s\n")


def test_a_damaged_package_is_mended(lab: Path, served: dict[str, Any]) -> None:
    package = "/opt/infra-llm/vllm/current/lib/python3.11/site-packages/regex"
    on_host(lab, f"rm -r {package}")
    done = on_host(
        lab, f"python3 -c \"import os; print(os.path.exists('{package}'))\"", check=False
    )
    assert done.strip() == "False"
    host = Cli(lab)("provision", "--full", timeout=3000)["report"]["hosts"][HOST]
    assert host["result"] == "serving"
    assert on_host(lab, f"ls {package}")


def test_removal_leaves_nothing(lab: Path, served: dict[str, Any]) -> None:
    Cli(lab)("remove")
    assert on_host(lab, "find / -xdev -name '*infra-llm*' -not -path '/proc/*'").split() == []
    assert not on_host(lab, "dpkg-query --show libnuma1", check=False).strip()
