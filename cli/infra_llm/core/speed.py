"""Tokens per second from bytes, bandwidth and layers.

One token reads every active weight once: t = bytes / (efficiency x bandwidth) + layers x launch.
The second term is what kernels take besides the reading (launch, norms, small products). Both
constants belong to a class of GPU and were fitted to published llama-bench rows by
tests/accuracy/fit_speed.py; the bounds are the tenth and ninetieth percentile of its errors with
one card left out at a time. Prefill is computing: 2 operations a weight and token at a share of the
tensor throughput.
"""

from __future__ import annotations

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
    "ada": SpeedClass(0.91, 37, 35),
    "amd": SpeedClass(0.72, 39, 35),
    "ampere": SpeedClass(0.83, 39, 35),
    "ampere-hbm": SpeedClass(0.60, 49, 35),
    "apple": SpeedClass(0.72, 57, 35),
    "blackwell": SpeedClass(0.90, 35, 35),
    "hopper": SpeedClass(0.63, 47, 35),
    "intel": SpeedClass(0.59, 46, 35),
    "pascal": SpeedClass(0.60, 55, 35),
    "turing": SpeedClass(0.76, 49, 35),
    "volta": SpeedClass(0.71, 43, 35),
}
LOW, HIGH = 0.77, 1.12
"""Bounds of decode on a GPU of a known class, as factors."""
CPU_EFFICIENCY = 0.75
CPU_LOW, CPU_HIGH = 0.5, 1.6
CPU_CORE_GBS = 11.0
"""Bandwidth that one core pulls, where none was measured."""
CPU_LAYER_US = 45.0
PCIE_GBS = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}
"""GB/s a lane and direction by PCIe generation."""
PREFILL_SHARE = 0.35
"""Share of the tensor throughput that prompt processing reaches."""
CPU_PREFILL_GFLOPS = 28.0
"""A core's, with AVX2 kernels."""


def speed_class(gpu: Gpu) -> str:
    """The class of a card by its compute capability, else by vendor and architecture."""
    capability = gpu.compute_capability or ""
    major, _, minor = capability.partition(".")
    if major.isdigit():
        number = int(major) * 10 + int(minor or 0)
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
        return "pascal"
    return {"amd": "amd", "intel": "intel", "apple": "apple"}.get(gpu.vendor, "ampere")


def bandwidth(gpu: Gpu) -> float | None:
    """GB/s: measured where it was, else the data sheet's."""
    return gpu.memory_bandwidth_measured_gbs or gpu.memory_bandwidth_gbs


def gpu_seconds(gpu: Gpu, weights: int, cache: int, layers: float, *, k_quant: bool) -> float:
    """Seconds that a card takes for its part of one token; `weights` and `cache` are bytes read.

    A card of unknown bandwidth counts as 300 GB/s.
    """
    kind = CLASSES[speed_class(gpu)]
    rate = (bandwidth(gpu) or 300.0) * 1e9
    share = 0.9 if gpu.memory_bandwidth_measured_gbs else kind.efficiency
    extra = kind.layer_us + (kind.k_quant_us if k_quant else 0.0)
    return (weights + cache) / (share * rate) + layers * extra * 1e-6


def cpu_bandwidth(cpu: Cpu, threads: int) -> float:
    """GB/s that decoding can pull: measured, else an assumption by cores."""
    if cpu.memory_bandwidth_gbs:
        return cpu.memory_bandwidth_gbs
    return min(CPU_CORE_GBS * max(1, threads), 50.0 * max(1, cpu.sockets))


def cpu_seconds(cpu: Cpu, threads: int, weights: int, cache: int, layers: float) -> float:
    """Seconds that the processor takes for its part of one token."""
    rate = cpu_bandwidth(cpu, threads) * 1e9 * CPU_EFFICIENCY
    return (weights + cache) / rate + layers * CPU_LAYER_US * 1e-6


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
