"""The state keeps what was measured; a proof that failed leaves it alone."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

EXPECTED = {
    "bookworm": {"answer": "2", "expect": "2", "url": "http://127.0.0.1:8080"},
    "trixie": {"answer": "", "expect": "", "url": "http://127.0.0.1:8181"},
}


@pytest.fixture
def expected(host):
    return EXPECTED[host.backend.get_hostname()]


@pytest.fixture
def state(host):
    return json.loads(host.file("/var/lib/infra-llm/state.json").content_string)


def test_the_state_is_of_this_host(host, state):
    assert state["schema"] == "infra-llm/host-state/1"
    assert state["host"] == host.backend.get_hostname()
    assert state["hardware"]["fingerprint"]


def test_only_root_may_write_the_state(host):
    file = host.file("/var/lib/infra-llm/state.json")
    assert (file.user, file.mode & 0o022) == ("root", 0)
    assert not host.file("/var/lib/infra-llm/state.json.new").exists


def test_the_proof_is_the_one_that_was_wished_for(state, expected):
    wished = state["desired"]["verify"]
    assert (wished["url"], wished["expect"]) == (expected["url"], expected["expect"])
    answer = state["measured"]["answer"]
    assert answer.strip()
    assert expected["answer"] in answer
    assert state["verdict"]["passed"]
    checks = {check["name"]: check["ok"] for check in state["verdict"]["checks"]}
    assert checks["health"] and checks["answer"] and checks["speed"] and checks["layers"]


def test_the_figures_are_of_a_small_model_on_a_cpu(state):
    """Wide bounds: 98 MB of weights can't take less memory, nor run at GPU speed."""
    speed, memory = state["measured"]["speed"], state["measured"]["memory"]
    assert 1 < speed["decode_tokens_per_second"] < 2000
    assert speed["decode_tokens_per_second"] < speed["prefill_tokens_per_second"]
    assert 90 < memory["rss_mib"] < 2000


def test_the_engines_log_was_read(state):
    engine = state["measured"]["engine"]
    assert set(engine["devices"]) <= {"CPU", "CPU_Mapped", "CPU_REPACK", "CPU_AARCH64", "AMX"}
    # SmolLM2-135M Q4_1: 98 MB of weights; a KV cache of 30 layers, 3 heads of 64, f16, K and V.
    weights = sum(device.get("model", 0) for device in engine["devices"].values())
    assert 85 < weights < 200
    flags = state["desired"]["plan"]["flags"]
    cache = sum(device.get("kv_cache", 0) for device in engine["devices"].values())
    assert cache == pytest.approx(flags["ctx_size"] * 30 * 3 * 64 * 2 * 2 / 2**20, rel=0.02)


def test_the_process_that_was_measured_is_the_service(host, state):
    service = state["measured"]["service"]
    (pid,) = state["measured"]["memory"]["pids"]
    assert service["active"]
    assert "launch.py" in host.file(f"/proc/{pid}/cmdline").content_string
