"""Documents as the stages hand them on, for tests that need a whole host and change one value."""

from __future__ import annotations

import copy
import json
from typing import Any

from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory, System
from infra_llm.core.layout import LAYOUT
from infra_llm.core.variables import defaults
from infra_llm.runner.host import Decision

RELEASE_SHA256 = "1" * 64
MODEL_SHA256 = "2" * 64
ROLES = ["preflight", "llama_cpp", "model_store", "llm_service", "llm_access", "llm_verify"]
"""What is due on a new host of llama.cpp."""


def hardware(**changes: Any) -> HostHardware:
    """A small machine without a GPU."""
    values: dict[str, Any] = {
        "system": System(
            hostname="node",
            distribution="debian",
            distribution_version="12",
            kernel="6.1.0-40-amd64",
            service_manager="systemd",
        ),
        "cpu": Cpu(
            model="Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz",
            architecture="x86_64",
            cores=16,
            threads=32,
            usable_threads=32,
            instruction_sets=["avx2", "fma", "f16c", "avx512f"],
        ),
        "memory": Memory(total_mib=65536, available_mib=60000),
        "fingerprint": {"cpu": "Xeon Gold 6130 x16", "memory": "64 GiB", "all": "aaaa"},
    }
    return HostHardware(**(values | changes))


def nvidia(**changes: Any) -> Gpu:
    """A GeForce RTX 3060."""
    values: dict[str, Any] = {
        "index": 0,
        "vendor": "nvidia",
        "name": "NVIDIA GeForce RTX 3060",
        "pci_address": "0000:01:00.0",
        "vram_total_mib": 12288,
        "compute_capability": "8.6",
        "memory_bandwidth_gbs": 360.0,
    }
    return Gpu(**(values | changes))


def wishes(**changes: Any) -> dict[str, Any]:
    """Every variable, the package index named so that pip is never asked."""
    return defaults() | {"infra_llm_package_index": "http://index.test/simple"} | changes


def audit(**changes: Any) -> dict[str, Any]:
    """What the module host_audit answers for a new machine."""
    document: dict[str, Any] = {
        "hardware": hardware().to_dict(),
        "state": None,
        "readable": [],
        "differences": {},
        "lock": None,
        "engine": {},
        "free_mib": {"opt": 100_000, "var": 100_000, "etc": 100_000},
        "models_mib": {},
        "engine_data_mib": 0.0,
        "pythons": [{"path": "/usr/bin/python3.11", "version": "3.11"}],
        "missing_libraries": [],
        "fresh": True,
        "effective_uid": 0,
        "port": {"number": 8080, "taken_by": "", "ours": False},
    }
    return document | changes


def desired() -> dict[str, Any]:
    """What a host should be, small and complete."""
    artifact = {
        "name": "llama.cpp",
        "version": "b11194",
        "filename": "llama.tar.gz",
        "sha256": RELEASE_SHA256,
        "size": 20 * 2**20,
        "licence": "MIT",
        "places": [{"kind": "url", "url": "http://site.test/llama.tar.gz"}],
    }
    model = {
        "name": "SmolLM2-135M-Instruct",
        "version": "1",
        "filename": "model.gguf",
        "sha256": MODEL_SHA256,
        "size": 100 * 2**20,
        "licence": "Apache-2.0",
        "places": [{"kind": "url", "url": "http://site.test/model.gguf"}],
    }
    row = {
        "name": "host",
        "weights_mib": 100.0,
        "kv_cache_mib": 60.0,
        "compute_mib": 20.0,
        "overhead_mib": 20.0,
        "total_mib": 200.0,
        "low_mib": 190.0,
        "high_mib": 210.0,
        "capacity_mib": 60000.0,
    }
    plan = {
        "schema": "infra-llm/launch-plan/1",
        "engine": "llama.cpp",
        "fits": True,
        "model": {"name": "SmolLM2-135M-Instruct", "architecture": "llama", "quant": "Q4_1"},
        "flags": {"ctx_size": 8192, "n_gpu_layers": 0, "threads": 16},
        "devices": [],
        "host": row,
        "tokens_per_second": {"decode": 90.0, "prefill": 400.0, "low": 60.0, "high": 120.0},
        "max_context": 8192,
        "max_parallel": 4,
        "binding_constraint": "",
        "alternatives": [],
        "why": [{"text": "context 8192: what the model was made for", "source": "header"}],
    }
    document: dict[str, Any] = {
        "inputs": {
            "fingerprint": dict(hardware().fingerprint),
            "wishes": {"infra_llm_context": "auto"},
            "model_sha256": MODEL_SHA256,
            "planner": "1",
        },
        "plan": plan,
        "launch": {
            "engine": "llama.cpp",
            "release": "/opt/infra-llm/llama_cpp/current",
            "model": "/var/lib/infra-llm/models/model.gguf",
            "alias": "smollm2",
            "host": "127.0.0.1",
            "port": 8080,
            "flags": dict(plan["flags"]),
            "arguments": ["--ctx-size", "8192"],
        },
        "model": model,
        "engine": {
            "name": "llama.cpp",
            "methods": [
                {"method": "release", "artifact": artifact, "release": "release-b11194-11111111"}
            ],
            "os_family": "debian",
        },
        "service": {
            "manager": "systemd",
            "supervisor": None,
            "user": "infra-llm",
            "python": "/usr/bin/python3.11",
        },
        "verify": {
            "url": "http://127.0.0.1:8080",
            "prompt": "What is 1+1?",
            "expect": "2",
            "health": "/health",
            "context_length": 8192,
        },
        "site": {"index_urls": ["http://index.test/simple"], "folders": []},
        "layout": dict(LAYOUT),
    }
    return copy.deepcopy(document)


def measured(**changes: Any) -> dict[str, Any]:
    """What the module verify_endpoint answers for a healthy CPU host."""
    document: dict[str, Any] = {
        "answered": True,
        "answer": "1 + 1 = 2",
        "reasoning": "",
        "healthy_after_seconds": 1.5,
        "speed": {
            "prefill_tokens_per_second": 410.0,
            "decode_tokens_per_second": 88.0,
            "first_token_seconds": 0.25,
        },
        "memory": {"rss_mib": 205.0},
        "engine": {
            "devices": {"CPU_Mapped": {"model": 94.0}, "CPU": {"kv_cache": 60.0}},
            "layers_offloaded": None,
            "layers_total": None,
        },
        "notes": [],
    }
    return document | changes


def state(wished: dict[str, Any] | None = None) -> dict[str, Any]:
    """HostState as a good run leaves it."""
    return {
        "schema": "infra-llm/host-state/1",
        "host": "node",
        "written_at": "2026-11-01T10:00:00+00:00",
        "desired": wished if wished is not None else desired(),
        "hardware": hardware().to_dict(),
        "measured": measured(),
        "verdict": {"passed": True, "checks": []},
        "history": [],
    }


def decision(due: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """What the action plugin audit decided for a host; by default nothing is due."""
    document: dict[str, Any] = {
        "schema": "infra-llm/decision/1",
        "hardware": hardware().to_dict(),
        "desired": desired(),
        "due": due or [],
        "changes": [{"role": role, "text": f"{role} differs"} for role in due or []],
        "problems": [],
        "missing_libraries": [],
        "previous": None,
    }
    return document | changes


def documents(due: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """What the plays of `provision` write for one host that went well."""
    found: dict[str, Any] = {
        "audit": audit(state=None if due else state()),
        "decision": decision(due),
    }
    if due:
        checks = [
            {"name": "health", "ok": True, "detail": "ready after 1.5 s", "required": True},
            {"name": "memory", "ok": False, "detail": "+12.0%", "required": False},
        ]
        found["verify"] = {"measured": measured(), "verdict": {"passed": True, "checks": checks}}
    return found | changes


def applied(decided: Decision, **changes: Any) -> dict[str, Any]:
    """The audit of the same host after `decided` was applied."""
    method = decided.desired["engine"]["methods"][0]
    return audit(
        state=json.loads(json.dumps(state(decided.desired))),
        engine={"release": method["release"], "sha256": method["artifact"]["sha256"]},
        port={"number": 8080, "taken_by": "", "ours": True},
        **changes,
    )
