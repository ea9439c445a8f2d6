"""How long planning takes: python -m tests.bench.planner

Prints each figure with what it must reach and the ratio. The time is the processor's own
(planning is one thread), so that other jobs on the machine do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gguf import GGUFReader

from infra_llm.core.fit import FitWishes, plan_launch, planner
from infra_llm.core.fit.llama_cpp import memory
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.readers.gguf_file import read_gguf
from tests.descriptors import descriptor, profile, write_gguf

HOSTS, MODELS = 1000, 20
SHAPES = [[], [8192], [12288], [16384], [24576], [24576, 24576], [49152] * 2, [81920] * 4]
NAMES = [
    "llama-3.1-8b.Q4_K_M", "llama-3.1-8b.Q8_0", "llama-3.1-8b.F16", "qwen3-8b.Q4_K_M",
    "qwen3-14b.Q4_K_M", "qwen3-32b.Q4_K_M", "qwen2.5-7b.Q4_K_M", "qwen2.5-72b.Q4_K_M",
    "gemma-3-4b.Q4_K_M", "gemma-3-12b.Q4_K_M", "gemma-3-27b.Q4_K_M", "mistral-7b-v0.3.Q4_K_M",
    "mixtral-8x7b.Q4_K_M", "llama-2-7b.Q4_0", "llama-2-13b.Q4_K_M", "llama-2-70b.Q4_K_M",
    "llama-3.1-70b.Q4_K_M", "qwen3-30b-a3b.Q4_K_M", "tinyllama-1.1b.Q4_0", "qwen3.6-27b.Q4_K_M",
]  # fmt: skip


def machine(vram: list[int], ram: int = 131072) -> HostHardware:
    cards = [
        Gpu(
            index=n,
            vendor="nvidia",
            name=f"card {n}",
            vram_total_mib=size,
            memory_bandwidth_gbs=800,
            compute_capability="8.6",
        )
        for n, size in enumerate(vram)
    ]
    cpu = Cpu(cores=16, threads=32, usable_threads=32)
    return HostHardware(gpus=cards, memory=Memory(total_mib=ram), cpu=cpu)


def took(work: Callable[[], object], times: int = 5) -> float:
    seen = []
    for _ in range(times):
        start = time.process_time()
        work()
        seen.append(time.process_time() - start)
    return statistics.median(seen)


def show(name: str, seconds: float, goal: float) -> None:
    verdict = "ok" if seconds <= goal else "MISSED"
    ratio = seconds / goal
    print(f"{name:40} {seconds * 1000:9.1f} ms  goal {goal * 1000:6.0f} {ratio:6.2f} {verdict}")


def fresh(host: HostHardware, model: ModelProfile) -> LaunchPlan:
    """A plan that was not made before."""
    planner._PLANS.clear()
    memory.COMPUTE.clear()
    return plan_launch(host, model, FitWishes())


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "big.gguf"
        write_gguf(descriptor("llama-3.1-70b.Q4_K_M"), path, tokens=128_256, merges=280_147)
        show("header of a 70B, 128,256 tokens", took(lambda: read_gguf(path)), 0.15)
        start = time.process_time()
        GGUFReader(path)
        own = (time.process_time() - start) * 1000
        print(f"{'  the same with gguf own reader':40} {own:9.1f} ms")
        models = [profile(model, folder) for model in NAMES]
        for label, index, vram in (
            ("8B on one card", 0, [24576]),
            ("70B on two uneven cards", 16, [24576, 49152]),
            ("70B, part of the layers on 12 GB", 16, [12288]),
            ("30B MoE, experts on the host", 17, [12288]),
        ):
            host, model = machine(vram), models[index]
            show(f"plan: {label}", took(lambda h=host, m=model: fresh(h, m)), 0.05)  # type: ignore[misc]
        hosts = [machine(SHAPES[n % len(SHAPES)], 65536 + 8192 * (n % 3)) for n in range(HOSTS)]
        start = time.process_time()
        for host in hosts:
            for model in models:
                plan_launch(host, model, FitWishes())
        show(f"{HOSTS} hosts x {MODELS} models", time.process_time() - start, 10.0)


if __name__ == "__main__":
    main()
