"""Tokens per second from bytes, bandwidth and layers.

One token reads every active weight once: t = bytes / (efficiency x bandwidth) + layers x launch.
The second term is what kernels take besides the reading (launch, norms, small products). Both
constants belong to a class of GPU and were fitted to published llama-bench rows by
tests/accuracy/fit_speed.py; the bounds are the tenth and ninetieth percentile of its errors with
one card left out at a time. Prefill is computing: 2 operations a weight and token at a share of the
tensor throughput.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from infra_llm.core.hardware import Cpu, Gpu


@dataclass(frozen=True)
class SpeedClass:
    """How a kind of device decodes."""

    efficiency: float
    """Share of the data-sheet bandwidth that reading weights reaches."""
    layer_us: float
    """Microseconds a layer costs besides."""
    k_quant_us: float = 0.0
    """More microseconds a layer for K-quants, which take longer to unpack."""


CLASSES = {
    "ada": SpeedClass(0.92, 38, 35),
    "alchemist": SpeedClass(0.42, 41, 35),
    "amd": SpeedClass(0.72, 39, 35),
    "ampere": SpeedClass(0.83, 40, 35),
    "ampere-hbm": SpeedClass(0.57, 42, 35),
    "apple": SpeedClass(0.71, 45, 35),
    "blackwell": SpeedClass(0.92, 38, 35),
    "hopper": SpeedClass(0.61, 42, 35),
    "intel": SpeedClass(0.66, 41, 35),
    "no-dp4a": SpeedClass(0.37, 42, 35),
    "pascal": SpeedClass(0.60, 42, 35),
    "turing": SpeedClass(0.74, 43, 35),
    "volta": SpeedClass(0.69, 41, 35),
}
LOW, HIGH = 0.78, 1.14
"""Bounds of decode on a GPU of a known class, as factors."""
UNKNOWN_GBS = 300.0
"""Of a card that neither a probe nor the table knows."""
CPU_EFFICIENCY = 0.75
CPU_LOW, CPU_HIGH = 0.5, 1.6
CPU_CORE_GBS = 11.0
"""Bandwidth that one core pulls, where none was measured."""
CPU_LAYER_US = 45.0
CPU_CORE_WEIGHTS = 7e9
"""Quantized weights that a core unpacks and multiplies in a second: 32 of them (a block) take
about ten cycles with AVX2 (`ggml_vec_dot_q4_1_q8_1` and its like in ggml/src/ggml-cpu/arch/x86)."""
QUANTIZED_BITS = 9.0
"""Weights of fewer bits have to be unpacked."""
PCIE_GBS = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}
"""GB/s a lane and direction by PCIe generation."""
PREFILL_SHARE = 0.35
"""Share of the tensor throughput that prompt processing reaches."""
CPU_PREFILL_GFLOPS = 28.0
"""A core's, with AVX2 kernels."""


_CAPABILITY = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")


def compute_capability(gpu: Gpu) -> tuple[int, int] | None:
    """Major and minor of a card's compute capability ("8.6"), None where no number leads it."""
    match = _CAPABILITY.match(gpu.compute_capability or "")
    return (int(match[1]), int(match[2] or 0)) if match else None


def speed_class(gpu: Gpu) -> str:
    """The class of a card by its compute capability, else by vendor and architecture."""
    capability = compute_capability(gpu)
    if capability:
        number = capability[0] * 10 + capability[1]
        for least, name in (
            (100, "blackwell"),
            (90, "hopper"),
            (89, "ada"),
            (81, "ampere"),
            (80, "ampere-hbm"),
            (75, "turing"),
            (70, "volta"),
        ):
            if number >= least:
                return name
        # Products of 8-bit numbers are one instruction (dp4a) from 6.1 on (GGML_CUDA_CC_DP4A in
        # ggml/src/ggml-cuda/common.cuh); older cards compute longer than they read.
        return "pascal" if number >= 61 else "no-dp4a"
    if gpu.architecture == "Alchemist":
        # Vector units of 8 lanes, half as many threads as Battlemage to hide the reading behind.
        return "alchemist"
    return {"amd": "amd", "intel": "intel", "apple": "apple"}.get(gpu.vendor, "ampere")


def bandwidth(gpu: Gpu) -> float | None:
    """GB/s: measured where it was, else the data sheet's."""
    return gpu.memory_bandwidth_measured_gbs or gpu.memory_bandwidth_gbs


def gpu_seconds(gpu: Gpu, weights: int, cache: int, layers: float, *, k_quant: bool) -> float:
    """Seconds that a card takes for its part of one token; `weights` and `cache` are bytes read.

    A card of unknown bandwidth counts as UNKNOWN_GBS.
    """
    kind = CLASSES[speed_class(gpu)]
    rate = (bandwidth(gpu) or UNKNOWN_GBS) * 1e9
    share = 0.9 if gpu.memory_bandwidth_measured_gbs else kind.efficiency
    extra = kind.layer_us + (kind.k_quant_us if k_quant else 0.0)
    return (weights + cache) / (share * rate) + layers * extra * 1e-6


def cpu_bandwidth(cpu: Cpu, threads: int) -> float:
    """GB/s that decoding can pull: measured, else an assumption by cores."""
    if cpu.memory_bandwidth_gbs:
        return cpu.memory_bandwidth_gbs
    return min(CPU_CORE_GBS * max(1, threads), 50.0 * max(1, cpu.sockets))


def cpu_seconds(
    cpu: Cpu, threads: int, weights: int, cache: int, layers: float, *, bits: float = 16.0
) -> float:
    """Seconds that the processor takes for its part of one token.

    Few cores take longer to unpack quantized weights (`bits` each) than memory to deliver them.
    """
    rate = cpu_bandwidth(cpu, threads) * 1e9 * CPU_EFFICIENCY
    read, unpack = weights / rate, 0.0
    if bits < QUANTIZED_BITS:
        unpack = 8 * weights / bits / (CPU_CORE_WEIGHTS * max(1, threads))
    return max(read, unpack) + cache / rate + layers * CPU_LAYER_US * 1e-6


def prefill_rate(gpu: Gpu | None, threads: int, active_parameters: float) -> float:
    """Tokens/s of prompt processing on one device."""
    if gpu is not None:
        tflops = gpu.fp16_tflops or 20.0
        return PREFILL_SHARE * tflops * 1e12 / (2 * active_parameters)
    return CPU_PREFILL_GFLOPS * 1e9 * threads / (2 * active_parameters)


def link_gbs(gpu: Gpu) -> float:
    """GB/s between the host and a card; PCIe 3 x16 where nothing is known."""
    generation = gpu.pcie_generation_max or gpu.pcie_generation or 3
    return PCIE_GBS.get(generation, 1.0) * (gpu.pcie_width_max or gpu.pcie_width or 16) * 0.85
