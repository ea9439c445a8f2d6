"""Real runs of the whole read-only path on this machine itself: no root, no network.

Hosts of one inventory are all this machine; they differ in their wishes, so that one run shows what
each kind of bad input becomes after the audit.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import descriptors

ROOT = Path(__file__).parents[3]
COMMON = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
    "infra_llm_package_index": "http://127.0.0.1:9/simple",
}


def infra_llm(cache: Path, *arguments: str) -> tuple[int, Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "infra_llm", *arguments, "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "cli"), "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done.returncode, json.loads(done.stdout), done.stderr


def artifact(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "filename": path.name,
        "sha256": hashlib.sha256(path.name.encode()).hexdigest(),
        "size": path.stat().st_size,
        "places": [{"kind": "path", "path": str(path)}],
    } | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files: a good header without weights, and broken ones."""
    folder = tmp_path_factory.mktemp("models")
    good = folder / "good.gguf"
    described = descriptors.descriptor("tinyllama-1.1b.Q4_K_M")
    descriptors.write_gguf(described, good)
    (folder / "truncated.gguf").write_bytes(good.read_bytes()[:300])
    (folder / "text.gguf").write_text("<html>not found</html>" * 50)
    text = json.dumps(described).replace('"llama"', '"gizmo"').replace("llama.", "gizmo.")
    descriptors.write_gguf(json.loads(text), folder / "gizmo.gguf")
    return folder


WISHES: dict[str, dict[str, Any]] = {
    "good": {"infra_llm_context": "{{ 1024 * 2 }}"},
    "huge": {"infra_llm_context": 16_777_216, "infra_llm_parallel": 64},
    "template": {"infra_llm_port": "{{ 40 + 2 }}"},
    "truncated": {"infra_llm_model": "truncated"},
    "text": {"infra_llm_model": "text"},
    "gizmo": {"infra_llm_model": "gizmo"},
}


@pytest.fixture(scope="module")
def planned(folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of one `plan` over all hosts, and the entry of each."""
    models = {path.stem: artifact(path) for path in folder.glob("*.gguf")}
    common = COMMON | {"infra_llm_models": models, "infra_llm_model": "good"}
    inventory = folder / "lab.yml"
    inventory.write_text(yaml.safe_dump({"all": {"vars": common, "hosts": WISHES}}))
    code, entries, _ = infra_llm(folder / "cache", "plan", "-i", str(inventory), "--forks", "2")
    return code, {entry["name"]: entry for entry in entries}


def test_the_exit_code_is_that_of_the_worst_host(
    planned: tuple[int, dict[str, dict[str, Any]]],
) -> None:
    code, entries = planned
    assert set(entries) == set(WISHES)
    assert code == 2


def test_a_good_host_has_a_plan_whatever_the_others_wish(
    planned: tuple[int, dict[str, dict[str, Any]]],
) -> None:
    entry = planned[1]["good"]
    assert "error" not in entry, entry["error"]
    assert entry["schema"] == "infra-llm/launch-plan/1"
    assert entry["fits"] is True
    assert entry["host"]["total_mib"] > 0
    assert entry["flags"]["ctx_size"] == 2048, "a template is resolved for the host"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("huge", 3, "does not fit"),
        ("template", 2, "infra_llm_port is 42: it must be from 1024 to 65535"),
        ("truncated", 2, "truncated"),
        ("text", 2, "GGUF"),
        ("gizmo", 2, "gizmo"),
    ],
)
def test_bad_input_is_told_with_its_code(
    name: str, code: int, words: str, planned: tuple[int, dict[str, dict[str, Any]]]
) -> None:
    entry = planned[1][name]
    assert words in entry["error"]
    assert entry["exit_code"] == code
    assert "\n  " in entry["error"], "what to do"


def test_probe_gives_this_machine(folder: Path) -> None:
    inventory = folder / "probe.yml"
    inventory.write_text(yaml.safe_dump({"all": {"vars": COMMON, "hosts": {"me": {}}}}))
    code, documents, error = infra_llm(folder / "cache", "probe", "-i", str(inventory))
    assert code == 0
    (document,) = documents
    assert document["name"] == "me"
    assert document["schema"] == "infra-llm/host-hardware/1"
    assert document["cpu"]["architecture"] == os.uname().machine
    assert document["system"]["kernel"] == os.uname().release
    assert document["memory"]["total_mib"] > 0
    assert "me: audited" in error


def test_a_taken_port_is_found_before_anything_is_changed(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        wishes = {
            "infra_llm_port": port,
            "infra_llm_model": "good",
            "infra_llm_models": {"good": artifact(folder / "good.gguf")},
        }
        inventory = folder / "port.yml"
        inventory.write_text(
            yaml.safe_dump({"all": {"vars": COMMON | wishes, "hosts": {"me": {}}}})
        )
        code, document, _ = infra_llm(
            folder / "cache", "provision", "-i", str(inventory), "--check"
        )
    assert code == 2
    entry = document["hosts"]["me"]
    assert f"port {port} is taken by" in entry["error"]
    assert "infra_llm_port" in entry["error"]
    assert entry["changed_tasks"] == 0
