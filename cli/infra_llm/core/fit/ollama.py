"""Ollama: current releases run llama-server, so its plan holds; the names differ.

Source: ollama's envconfig/config.go (variables) and docs/modelfile.md (parameters). Ollama decides
the number of layers itself unless num_gpu is given, so the plan always gives it.
"""

from __future__ import annotations

from typing import Any

from infra_llm.core.fit.llama_cpp.estimate import DRIVER_HIGH_MIB
from infra_llm.core.fit.llama_cpp.explain import plan_of
from infra_llm.core.fit.llama_cpp.search import Search
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan, Reason

MIB = 1 << 20


def plan_ollama(hardware: HostHardware, model: ModelProfile, wishes: FitWishes) -> LaunchPlan:
    """The llama.cpp plan in Ollama's terms; experts can't be placed, so whole layers are."""
    search = Search(hardware, model, wishes)
    search.pinned.setdefault("n_cpu_moe", 0)
    plan = plan_of(search, search.best())
    plan.engine = "ollama"
    plan.engine_estimate = []
    plan.flags = ollama_flags(plan.flags, plan)
    plan.why.append(Reason("Ollama runs llama-server: its memory rules hold", "assumed"))
    return plan


def ollama_flags(flags: dict[str, Any], plan: LaunchPlan) -> dict[str, Any]:
    """`environment` is the service's, `parameters` the Modelfile's."""
    slots = int(flags["parallel"])
    return {
        "environment": {
            "OLLAMA_NUM_PARALLEL": slots,
            "OLLAMA_KV_CACHE_TYPE": flags["cache_type_k"],
            "OLLAMA_FLASH_ATTENTION": 1 if flags["flash_attn"] == "on" else 0,
            "OLLAMA_CONTEXT_LENGTH": int(flags["ctx_size"]) // slots,
            "OLLAMA_MAX_LOADED_MODELS": 1,
            "OLLAMA_GPU_OVERHEAD": int(DRIVER_HIGH_MIB * MIB) if plan.devices else 0,
        },
        "parameters": {
            "num_ctx": int(flags["ctx_size"]) // slots,
            "num_gpu": int(flags["n_gpu_layers"]),
            "num_thread": int(flags["threads"]),
            "num_batch": int(flags["ubatch_size"]),
        },
    }
