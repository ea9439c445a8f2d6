"""Ollama: current releases run llama-server, so its plan holds; the names differ.

Source: ollama's envconfig/config.go (variables), docs/modelfile.md (parameters), server/sched.go
(models with one slot) and llm/llama_server.go: what Ollama has no name for reaches llama-server as
its own LLAMA_ARG_ variables, which Ollama passes on. Ollama decides the number of layers itself
unless num_gpu is given, so the plan always gives it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from infra_llm.core.fit.calibration import Calibration
from infra_llm.core.fit.llama_cpp.estimate import DRIVER_HIGH_MIB
from infra_llm.core.fit.llama_cpp.explain import plan_of
from infra_llm.core.fit.llama_cpp.search import Search
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan, Reason

MIB = 1 << 20
ONE_SLOT = (
    "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe",
    "nemotron_h", "nemotron_h_moe", "nemotron_h_omni",
)  # fmt: skip
"""Architectures that Ollama serves one request at a time, whatever it is told (sched.go, load)."""
NO_CALIBRATIONS: Mapping[str, Calibration] = MappingProxyType({})


def plan_ollama(
    hardware: HostHardware,
    model: ModelProfile,
    wishes: FitWishes,
    calibrations: Mapping[str, Calibration] = NO_CALIBRATIONS,
) -> LaunchPlan:
    """The llama.cpp plan in Ollama's terms; experts can't be placed, so whole layers are."""
    one = model.architecture in ONE_SLOT
    asked = wishes.parallel or 1
    if one:
        context = wishes.context // asked if wishes.context else None
        wishes = dataclasses.replace(wishes, parallel=1, context=context)
    search = Search(hardware, model, wishes, calibrations)
    search.pinned.setdefault("n_cpu_moe", 0)
    plan = plan_of(search, search.best())
    plan.engine = "ollama"
    plan.engine_estimate = []
    plan.flags = ollama_flags(plan.flags, plan)
    plan.why.append(Reason("Ollama runs llama-server: its memory rules hold", "assumed"))
    if one and asked > 1:
        text = f"one slot in place of {asked}: Ollama serves {model.architecture} no other way"
        plan.why.append(Reason(text, "assumed"))
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
            **_passed_on(flags),
        },
        "parameters": {
            "num_ctx": int(flags["ctx_size"]) // slots,
            "num_gpu": int(flags["n_gpu_layers"]),
            "num_thread": int(flags["threads"]),
            "num_batch": int(flags["ubatch_size"]),
        },
    }


def _passed_on(flags: dict[str, Any]) -> dict[str, Any]:
    """llama-server's variables (common/arg.cpp): left alone it fits anew, and keeps up to 8 GiB of
    old prompts in RAM that the plan has not counted."""
    given = {"LLAMA_ARG_FIT": flags["fit"], "LLAMA_ARG_CACHE_RAM": int(flags["cache_ram"])}
    if "repack" in flags:
        given["LLAMA_ARG_REPACK"] = int(flags["repack"])
    return given
