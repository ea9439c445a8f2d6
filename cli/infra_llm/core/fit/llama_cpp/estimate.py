"""What one set of flags needs and gives on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.fit.calibration import (
    SPEED_SPREAD,
    Measurement,
    decode_ratio,
    overhead_of,
)
from infra_llm.core.fit.llama_cpp.builder import PINNED, Release
from infra_llm.core.fit.llama_cpp.graphs import APPROXIMATE
from infra_llm.core.fit.llama_cpp.hyper import Hyper
from infra_llm.core.fit.llama_cpp.memory import MIB, Footprint, cache_options, footprint
from infra_llm.core.fit.llama_cpp.tables import active_bytes, repacked_bytes, table_of
from infra_llm.core.fit.llama_cpp.weights import HOST, INPUT_TENSORS, skipped
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import DeviceMemory, TokensPerSecond
from infra_llm.core.speed import (
    CPU_HIGH,
    CPU_LOW,
    HIGH,
    LOW,
    cpu_seconds,
    gpu_seconds,
    prefill_rate,
)

PROCESS_MIB, TOKEN_BYTES = 34.0, 166
"""llama-server without a model, and what its tokenizer takes for each token: RSS minus buffers of
SmolLM2-135M (49,152 tokens) and Gemma 3 270M (262,144) at 2,048 and 8,192 tokens, build 11549."""
PROCESS_HIGH_MIB, TOKEN_HIGH_BYTES = 12.0, 60
"""What the heap grows by with longer prompts (measured likewise)."""
DRIVER_MIB, DRIVER_LOW_MIB, DRIVER_HIGH_MIB = 300.0, 140.0, 512.0
"""CUDA context of a process on a GPU, assumed until measured; public logs show 140 to 456."""
HOST_RESERVE_MIB = 512.0
"""RAM left to the operating system."""
COMPUTE_BOUND, APPROXIMATE_BOUND = 0.01, 0.15
"""Error bounds of compute buffers: families met by the oracle, and those met in part."""
HOST_BOUND = 0.03
USUAL_DEPTH = 1024
"""Tokens of context at which decode speed is given."""
HOP_SECONDS = 25e-6
"""Handing one token's row to the next device."""


@dataclass(frozen=True)
class Machine:
    """The part of the hardware that a plan depends on."""

    hardware: HostHardware
    gpus: tuple[Gpu, ...]
    measured: tuple[Measurement, ...] = ()

    def driver_mib(self, index: int, build: int | None = None) -> tuple[float, float, float]:
        """(low, usual, high) of the driver's part on a GPU: measured, or assumed."""
        known = overhead_of(self.measured, self.gpus[index].name, build)
        return known or (DRIVER_LOW_MIB, DRIVER_MIB, DRIVER_HIGH_MIB)

    @property
    def ram_mib(self) -> float:
        """RAM that the server may use: the cgroup's limit or all, less the system's share."""
        memory = self.hardware.memory
        total = min(memory.limit_mib or memory.total_mib, memory.total_mib)
        return max(0.0, total - HOST_RESERVE_MIB)

    def vram_mib(self, index: int) -> float:
        """Memory of one GPU without what the driver reserves."""
        gpu = self.gpus[index]
        return float((gpu.vram_total_mib or 0) - (gpu.vram_reserved_mib or 0))


@dataclass
class Estimate:
    """Memory and speed of one launch."""

    flags: dict[str, Any]
    devices: list[DeviceMemory]
    host: DeviceMemory
    speed: TokensPerSecond
    used: Footprint

    @property
    def entries(self) -> list[DeviceMemory]:
        return [*self.devices, self.host]

    @property
    def fits(self) -> bool:
        return all(entry.high_mib <= entry.capacity_mib for entry in self.entries)

    @property
    def tightest(self) -> DeviceMemory:
        """The device with the least room left, as a share of what it has."""
        return min(
            self.entries,
            key=lambda entry: (entry.capacity_mib - entry.high_mib) / max(entry.capacity_mib, 1.0),
        )


def estimate(
    machine: Machine,
    model: ModelProfile,
    hyper: Hyper,
    flags: Mapping[str, Any],
    release: Release = PINNED,
    compute: tuple[int, ...] | None = None,
) -> Estimate:
    """Memory with bounds on each device, and tokens/s; `compute` as in `footprint`."""
    cuda = all(gpu.vendor == "nvidia" for gpu in machine.gpus)
    used = footprint(model, hyper, flags, len(machine.gpus), release, cuda=cuda, compute=compute)
    bound = APPROXIMATE_BOUND if hyper.architecture in APPROXIMATE else COMPUTE_BOUND
    devices = [_gpu(used, n, machine, bound) for n in range(len(machine.gpus))]
    host = _host(used, machine, model, flags, bound)
    # A MiB that a GPU of a unified-memory system takes is gone for the CPU.
    pairs = zip(devices, machine.gpus, strict=True)
    taken = sum(device.high_mib for device, gpu in pairs if gpu.unified_memory)
    host.capacity_mib = max(0.0, host.capacity_mib - taken)
    return Estimate(
        flags=dict(flags),
        devices=devices,
        host=host,
        speed=speed(machine, model, hyper, flags, used),
        used=used,
    )


def _gpu(used: Footprint, index: int, machine: Machine, bound: float) -> DeviceMemory:
    parts = (used.weights[index], used.cache[index], used.compute[index])
    weights, cache, compute = (part / MIB for part in parts)
    busy = any(parts)
    low, overhead, high = machine.driver_mib(index) if busy else (0.0, 0.0, 0.0)
    total = weights + cache + compute + overhead
    gpu = machine.gpus[index]
    return DeviceMemory(
        name=gpu.name or f"GPU {gpu.index}",
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute,
        overhead_mib=overhead,
        total_mib=total,
        low_mib=total - bound * compute - (overhead - low),
        high_mib=total + bound * compute + (high - overhead),
        capacity_mib=machine.vram_mib(index),
    )


def _host(
    used: Footprint,
    machine: Machine,
    model: ModelProfile,
    flags: Mapping[str, Any],
    bound: float,
) -> DeviceMemory:
    """The server's RSS after a first completion; what the prompt cache may take is in `high`."""
    weights, cache = used.weights[-1] / MIB, used.cache[-1] / MIB
    compute = (used.compute[-1] + used.output) / MIB
    if not machine.gpus and flags.get("repack", True):
        weights += repacked_bytes(model, machine.hardware.cpu.instruction_sets) / MIB
    tokens = model.vocab_size
    overhead = PROCESS_MIB + tokens * TOKEN_BYTES / MIB + model.projector_bytes / MIB
    total = weights + cache + compute + overhead
    spread = HOST_BOUND * total
    grows = PROCESS_HIGH_MIB + tokens * TOKEN_HIGH_BYTES / MIB + bound * compute
    cache_ram = float(flags.get("cache_ram") or 0)
    return DeviceMemory(
        name="host",
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute,
        overhead_mib=overhead,
        total_mib=total,
        low_mib=total - spread,
        high_mib=total + max(spread, grows) + cache_ram,
        capacity_mib=machine.ram_mib,
    )


def speed(
    machine: Machine, model: ModelProfile, hyper: Hyper, flags: Mapping[str, Any], used: Footprint
) -> TokensPerSecond:
    """Decode of one user at 1,024 tokens of context, and prefill."""
    count = len(machine.gpus)
    work, layers = used.work, [0.0] * (count + 1)
    cpu, threads = machine.hardware.cpu, int(flags.get("threads") or 1)
    options = cache_options(flags)
    depth = min(1.0, USUAL_DEPTH * options.sequences / max(1, options.context))
    cache = [0.0] * (count + 1)
    for layer, size in enumerate(used.layer_cache):
        cache[used.placement.layer_device[layer]] += size * depth / options.sequences
        layers[used.placement.layer_device[layer]] += 1.0 if layer < hyper.layers else 0.0
    k_quant = "_K" in model.quant
    seconds = [
        gpu_seconds(gpu, work[n], int(cache[n]), layers[n], k_quant=k_quant)
        for n, gpu in enumerate(machine.gpus)
    ]
    on_host = cpu_seconds(cpu, threads, work[-1], int(cache[-1]), layers[-1])
    busy = [n for n in range(count) if used.weights[n]]
    hops = max(0, len(busy) - 1 + (1 if work[-1] and busy else 0))
    total = sum(seconds) + on_host + hops * HOP_SECONDS
    decode = 1.0 / total if total > 0 else 0.0
    names = [gpu.name for gpu in machine.gpus] or [""]
    ratio = decode_ratio(machine.measured, hyper.architecture, names)
    if ratio:
        decode *= ratio
        spread = SPEED_SPREAD * decode
        prefill = prefill_rate(None, threads, table_of(model, hyper).active_parameters)
        if busy:
            prefill = prefill_rate(
                machine.gpus[busy[-1]], threads, table_of(model, hyper).active_parameters
            )
        return TokensPerSecond(decode, prefill, decode - spread, decode + spread)
    share = on_host / total if total else 0.0
    parameters = table_of(model, hyper).active_parameters
    slowest = None if share > 0.5 or not busy else machine.gpus[busy[-1]]
    prefill = prefill_rate(slowest, threads, parameters)
    return TokensPerSecond(
        decode=decode,
        prefill=prefill,
        low=decode * (share * CPU_LOW + (1 - share) * LOW),
        high=decode * (share * CPU_HIGH + (1 - share) * HIGH),
    )


def layer_costs(
    machine: Machine, model: ModelProfile, hyper: Hyper, used: Footprint
) -> tuple[list[int], list[list[float]]]:
    """Bytes of each layer on a GPU (the output last) and the seconds each GPU takes for it."""
    table = table_of(model, hyper)
    sizes, reads = [*used.layer_cache, 0], [0] * (hyper.layers_all + 1)
    if used.placement.overrides:
        for tensor in model.all_tensors:
            on_host = used.placement.device_of(tensor) == HOST
            if tensor.name in INPUT_TENSORS or skipped(tensor, hyper) or on_host:
                continue
            place = hyper.layers_all if tensor.layer is None else tensor.layer
            sizes[place] += tensor.bytes
            reads[place] += active_bytes(tensor, hyper)
    else:
        for layer, sums in enumerate(table.layers):
            sizes[layer] += sums.plain_gpu
            reads[layer] += sums.active
            if layer not in used.placement.expert_hosts:
                sizes[layer] += sums.experts_gpu
                reads[layer] += sums.active_experts
    sizes[-1] += table.tied_gpu
    reads[-1] += table.tied
    seconds = [
        [gpu_seconds(gpu, read, 0, 1.0, k_quant=False) for read in reads] for gpu in machine.gpus
    ]
    return sizes, seconds
