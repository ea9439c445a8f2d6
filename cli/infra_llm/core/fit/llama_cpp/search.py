"""Search for the best llama.cpp launch."""

from __future__ import annotations

from typing import Any

from infra_llm.core.fit.llama_cpp.arguments import parse_arguments
from infra_llm.core.fit.llama_cpp.hyper import Hyper, read_hyper
from infra_llm.core.fit.llama_cpp.memory import MIB, Footprint, footprint
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import DeviceMemory, LaunchPlan, PlannedModel, Reason

SLOT_CONTEXT = 8192
"""Tokens a slot gets where nobody asked for more."""
CONTEXT_STEP = 256
MOST_SLOTS = 4
PROCESS_MIB = 26.0
"""RSS of llama-server without model: code pages and heap (measured, build 11549, x86-64)."""
VOCAB_BYTES = 250
"""RAM the tokenizer takes for each token."""
DRIVER_MIB, DRIVER_HIGH_MIB = 300.0, 512.0
"""CUDA context of a process on a GPU: assumed until measured; seen 140 to 456."""
HOST_RESERVE_MIB = 512.0
"""RAM left to the operating system."""


def plan_llama_cpp(hardware: HostHardware, model: ModelProfile, wishes: FitWishes) -> LaunchPlan:
    """The launch of llama-server on this machine."""
    hyper = read_hyper(model)
    pinned = pinned_flags(wishes)
    gpus = [gpu for gpu in hardware.gpus if gpu.vram_total_mib]
    flags = default_flags(hardware, wishes, pinned)
    chosen: LaunchPlan | None = None
    for context in contexts(hyper, flags, pinned):
        flags["ctx_size"] = context
        chosen = best_layers(hardware, model, hyper, dict(flags), gpus, pinned)
        if chosen.fits:
            break
    assert chosen is not None
    return chosen


def pinned_flags(wishes: FitWishes) -> dict[str, Any]:
    """Wishes and engine flags as one set of flags that the search must keep."""
    fields = {
        "ctx_size": wishes.context,
        "parallel": wishes.parallel,
        "cache_type_k": wishes.kv_type,
        "cache_type_v": wishes.kv_type_v or wishes.kv_type,
        "n_gpu_layers": wishes.gpu_layers,
        "n_cpu_moe": wishes.cpu_moe_layers,
        "threads": wishes.threads,
        "batch_size": wishes.batch,
        "ubatch_size": wishes.ubatch,
        "flash_attn": None
        if wishes.flash_attention is None
        else ("on" if wishes.flash_attention else "off"),
        "tensor_split": list(wishes.tensor_split) if wishes.tensor_split else None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return {**given, **parse_arguments(wishes.engine_flags)}


def default_flags(
    hardware: HostHardware, wishes: FitWishes, pinned: dict[str, Any]
) -> dict[str, Any]:
    """Explicit flags before the search; the engine's own fitting is off."""
    threads = max(1, min(hardware.cpu.cores, hardware.cpu.usable_threads))
    flags: dict[str, Any] = {
        "ctx_size": 0,
        "parallel": min(wishes.users, MOST_SLOTS),
        "kv_unified": False,
        "cache_type_k": "f16",
        "cache_type_v": "f16",
        "flash_attn": "on",
        "n_gpu_layers": 0,
        "batch_size": 2048,
        "ubatch_size": 512,
        "threads": threads,
        "threads_batch": max(threads, hardware.cpu.usable_threads),
        "mmap": True,
        "mlock": False,
        "cache_ram": 0,
        "fit": "off",
    }
    if "threads" in pinned:
        flags["threads_batch"] = pinned["threads"]
    return {**flags, **pinned}


def contexts(hyper: Hyper, flags: dict[str, Any], pinned: dict[str, Any]) -> list[int]:
    """Contexts to try, the largest first; only the pinned one if there is one."""
    if pinned.get("ctx_size"):
        return [int(pinned["ctx_size"])]
    slots = int(flags["parallel"])
    largest = min(hyper.context or SLOT_CONTEXT, SLOT_CONTEXT)
    steps = [largest]
    while steps[-1] > 1024:
        steps.append(max(512, steps[-1] // 2 // CONTEXT_STEP * CONTEXT_STEP))
    return [step * slots for step in steps]


def best_layers(
    hardware: HostHardware,
    model: ModelProfile,
    hyper: Hyper,
    flags: dict[str, Any],
    gpus: list[Gpu],
    pinned: dict[str, Any],
) -> LaunchPlan:
    """The most layers on the GPUs that fit."""
    if gpus and "tensor_split" not in flags and len(gpus) > 1:
        flags["tensor_split"] = [float(gpu.vram_total_mib or 0) for gpu in gpus]
    if "n_gpu_layers" in pinned or not gpus:
        return assess(hardware, model, hyper, flags, gpus)
    for layers in range(hyper.layers_all + 1, -1, -1):
        flags["n_gpu_layers"] = layers
        plan = assess(hardware, model, hyper, flags, gpus)
        if plan.fits:
            return plan
    return plan


def assess(
    hardware: HostHardware,
    model: ModelProfile,
    hyper: Hyper,
    flags: dict[str, Any],
    gpus: list[Gpu],
) -> LaunchPlan:
    """The plan of these flags, fitting or not."""
    used = footprint(model, hyper, flags, len(gpus))
    devices = [gpu_memory(used, index, gpu) for index, gpu in enumerate(gpus)]
    host = host_memory(used, hardware, hyper, float(flags.get("cache_ram") or 0))
    over = [entry for entry in [*devices, host] if entry.high_mib > entry.capacity_mib]
    tightest = min([*devices, host], key=lambda entry: entry.capacity_mib - entry.high_mib)
    return LaunchPlan(
        engine="llama.cpp",
        fits=not over,
        model=PlannedModel(
            model.name,
            model.architecture,
            model.quant,
            model.sha256,
            model.file_bytes,
            model.parameters,
        ),
        flags=dict(flags),
        devices=devices,
        host=host,
        max_context=int(flags["ctx_size"]),
        max_parallel=int(flags["parallel"]),
        binding_constraint=f"memory of {tightest.name}",
        why=reasons(used, hyper, flags),
    )


def gpu_memory(used: Footprint, index: int, gpu: Gpu) -> DeviceMemory:
    """One GPU's share with the driver's own part."""
    parts = (used.weights[index], used.cache[index], used.compute[index])
    weights, cache, compute = (part / MIB for part in parts)
    busy = any(parts)
    overhead = DRIVER_MIB if busy else 0.0
    total = weights + cache + compute + overhead
    return DeviceMemory(
        name=gpu.name or f"GPU {gpu.index}",
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute,
        overhead_mib=overhead,
        total_mib=total,
        low_mib=total - overhead / 2,
        high_mib=total + (DRIVER_HIGH_MIB - DRIVER_MIB if busy else 0.0) + 0.05 * compute,
        capacity_mib=float((gpu.vram_total_mib or 0) - (gpu.vram_reserved_mib or 0)),
    )


def host_memory(
    used: Footprint, hardware: HostHardware, hyper: Hyper, cache_ram: float
) -> DeviceMemory:
    """The server process in RAM: RSS after the first completion; the prompt cache is in `high`."""
    weights, cache = used.weights[-1] / MIB, used.cache[-1] / MIB
    compute = (used.compute[-1] + used.output) / MIB
    overhead = PROCESS_MIB + hyper.vocab * VOCAB_BYTES / MIB
    total = weights + cache + compute + overhead
    limit = hardware.memory.limit_mib or hardware.memory.total_mib
    return DeviceMemory(
        name="host",
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute,
        overhead_mib=overhead,
        total_mib=total,
        low_mib=total * 0.97,
        high_mib=total * 1.03 + cache_ram,
        capacity_mib=max(0.0, min(limit, hardware.memory.total_mib) - HOST_RESERVE_MIB),
    )


def reasons(used: Footprint, hyper: Hyper, flags: dict[str, Any]) -> list[Reason]:
    """Why in words, each with its source."""
    cache = sum(used.cache) / MIB
    return [
        Reason(
            f"weights {sum(used.weights) / MIB:.2f} MiB, summed over the tensor table", "header"
        ),
        Reason(
            f"KV cache {cache:.2f} MiB: {flags['ctx_size']} tokens in {flags['parallel']} slots, "
            f"{sum(hyper.caches)} layers, K {flags['cache_type_k']}, V {flags['cache_type_v']}",
            "header",
        ),
        Reason(f"{flags['threads']} threads: one a physical core that may be used", "probe"),
    ]
