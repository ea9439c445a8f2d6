"""What was measured corrects the next plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.fit import FitWishes, Measurement, parse_buffers, plan_launch
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory

LOG = """
0.00.319.781 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
load_tensors:        CUDA0 model buffer size =  4403.49 MiB
0.00.323.342 I llama_context:        CPU  output buffer size =     0.19 MiB
llama_kv_cache:      CUDA0 KV buffer size =   288.00 MiB
llama_kv_cache:      CUDA0 KV buffer size =    12.50 MiB
llama_memory_recurrent:      CUDA0 RS buffer size =    41.41 MiB
sched_reserve:      CUDA0 compute buffer size =   966.50 MiB
sched_reserve:  CUDA_Host compute buffer size =    44.02 MiB
"""


def machine() -> HostHardware:
    card = Gpu(
        index=0,
        vendor="nvidia",
        name="card",
        vram_total_mib=8192,
        memory_bandwidth_gbs=500,
        compute_capability="8.6",
    )
    return HostHardware(
        gpus=[card],
        memory=Memory(total_mib=65536),
        cpu=Cpu(cores=8, threads=8, usable_threads=8),
    )


def test_buffer_lines_add_up_by_device() -> None:
    found = parse_buffers(LOG)
    assert found["CUDA0"].model == 4403.49
    assert found["CUDA0"].cache == pytest.approx(288 + 12.5 + 41.41)
    assert found["CUDA0"].compute == 966.5
    assert found["CUDA_Host"].compute == 44.02
    assert found["CPU_Mapped"].total == 92.1
    assert parse_buffers("nothing of the kind") == {}


def test_a_measured_driver_takes_the_place_of_the_assumption(tmp_path: Path) -> None:
    model = profile("llama-3.1-8b.Q4_K_M", tmp_path)
    before = plan_launch(machine(), model, FitWishes(context=8192))
    figures = (Measurement(gpu="card", overhead_mib=451.0),)
    after = plan_launch(machine(), model, FitWishes(context=8192), measured=figures)
    assert before.devices[0].overhead_mib == 300
    assert after.devices[0].overhead_mib == 451
    assert after.devices[0].high_mib - after.devices[0].low_mib < 140
    assert any(reason.source == "measured" for reason in after.why)


def test_another_card_is_not_corrected(tmp_path: Path) -> None:
    model = profile("llama-3.1-8b.Q4_K_M", tmp_path)
    figures = (Measurement(gpu="other card", overhead_mib=451.0),)
    plan = plan_launch(machine(), model, FitWishes(context=8192), measured=figures)
    assert plan.devices[0].overhead_mib == 300


def test_measured_speed_scales_the_prediction_and_narrows_it(tmp_path: Path) -> None:
    model = profile("llama-3.1-8b.Q4_K_M", tmp_path)
    before = plan_launch(machine(), model, FitWishes(context=8192)).tokens_per_second
    figures = (Measurement(gpu="card", architecture="llama", decode_ratio=0.9),)
    after = plan_launch(machine(), model, FitWishes(context=8192), measured=figures)
    assert after.tokens_per_second.decode == pytest.approx(before.decode * 0.9)
    spread = after.tokens_per_second.high - after.tokens_per_second.low
    assert spread < before.high - before.low
