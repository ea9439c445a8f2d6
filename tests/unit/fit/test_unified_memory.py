"""On a unified-memory system the GPU and the CPU share one memory: it is counted once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory

TOTAL = 122_000
"""MiB; about what a GB10 shows of its 128 GB."""


def gb10(*, unified: bool) -> HostHardware:
    gpu = Gpu(
        index=0,
        vendor="nvidia",
        name="NVIDIA GB10",
        vram_total_mib=TOTAL,
        compute_capability="12.1",
        memory_bandwidth_gbs=273.0,
        unified_memory=unified,
    )
    return HostHardware(
        cpu=Cpu(cores=20, threads=20, usable_threads=20),
        memory=Memory(total_mib=TOTAL),
        gpus=[gpu],
    )


@pytest.mark.parametrize(
    # 70B: 134,571 MiB in F16 do not fit 122,000 MiB once, but would fit them twice.
    ("name", "unified", "fits"),
    [
        ("llama-3-70b.F16", True, False),
        ("llama-3-70b.F16", False, True),
        ("llama-3-70b.Q6_K", True, True),
    ],
)
def test_memory_is_counted_once(tmp_path: Path, name: str, unified: bool, fits: bool) -> None:
    plan = plan_launch(gb10(unified=unified), profile(name, tmp_path), FitWishes(context=4096))
    assert plan.fits is fits
    if fits and unified:
        rows = [*plan.devices, plan.host]
        assert sum(row.high_mib for row in rows) <= TOTAL
