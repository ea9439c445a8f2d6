"""The plan against llama-fit-params: its real lines agree, what differs leads to another plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import profile

from infra_llm.core.errors import BadInputError, DoesNotFitError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.calibration import Calibration, Figure
from infra_llm.core.fit.confirm import compare, corrections, estimate_arguments
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.target.engine_estimate import parse

REAL = {
    ("tinyllama-1.1b.Q4_K_M", ()): "Host 35 44 70 \n",
    ("gemma-3-4b.Q4_K_M", ()): "Host 526 334 522 \n",
    ("llama-3.1-8b.Q4_K_M", (24576,)): "RPC0 4403 4096 258 \nHost 281 0 48 \n",
    ("gemma-3-12b.Q4_K_M", (12288,)): "RPC0 6956 2528 519 \nHost 787 0 48 \n",
    ("qwen3-14b.Q4_K_M", (9000, 7000)): (
        "RPC0 4508 3072 300 \nRPC1 3653 2048 514 \nHost 417 0 178 \n"
    ),
    ("qwen3.5-35b-a3b.Q4_K_M", (24576,)): "RPC0 19902 702 493 \nHost 272 0 40 \n",
}
"""What llama-fit-params of build 11434 printed for the plans below (weightless files, RPC servers
in place of the GPUs)."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def machine(*vram: int) -> HostHardware:
    return HostHardware(
        gpus=[
            Gpu(
                index=n,
                vendor="nvidia",
                name=f"card {n}",
                vram_total_mib=size,
                memory_bandwidth_gbs=800,
                compute_capability="8.6",
            )
            for n, size in enumerate(vram)
        ],
        memory=Memory(total_mib=65536),
        cpu=Cpu(cores=16, threads=32, usable_threads=32, instruction_sets=["avx2"]),
    )


def planned(folder: Path, name: str, vram: tuple[int, ...]) -> tuple[ModelProfile, LaunchPlan]:
    model = profile(name, folder)
    return model, plan_launch(machine(*vram), model, FitWishes())


@pytest.mark.parametrize(("launch", "text"), REAL.items(), ids=[name for name, _ in REAL])
def test_what_the_real_program_printed_confirms_the_plan(
    folder: Path, launch: tuple[str, tuple[int, ...]], text: str
) -> None:
    _model, plan = planned(folder, *launch)
    found = compare(plan, parse(text))
    assert found.agrees, found.words
    assert found.engine_mib == pytest.approx(found.planned_mib, abs=1.5 * len(text.split("\n")))


def test_it_is_asked_about_the_plan_and_nothing_else(folder: Path) -> None:
    _model, plan = planned(folder, "qwen3-14b.Q4_K_M", (9000, 7000))
    arguments = estimate_arguments(plan.flags)
    for name in ("ctx_size", "n_gpu_layers", "batch_size", "ubatch_size", "flash_attn", "fit"):
        option = "--" + name.replace("_", "-")
        assert arguments[arguments.index(option) + 1] == str(plan.flags[name])
    assert "--tensor-split" in arguments
    assert not {"--no-kv-unified", "--cache-ram", "--metrics"} & set(arguments)
    with pytest.raises(BadInputError, match="unified"):
        estimate_arguments({"kv_unified": True, "parallel": 4})
    assert estimate_arguments({"kv_unified": True, "parallel": 1})


def changed(text: str, place: int, part: str, by: int) -> list[dict[str, Any]]:
    rows = parse(text)
    rows[place][part] += by
    return rows


@pytest.mark.parametrize(
    ("part", "by", "agrees"),
    [
        ("compute_mib", 2, True),  # 258 MiB with a doubt of 1 %
        ("compute_mib", 6, False),
        ("compute_mib", -20, False),
        ("model_mib", 1, True),
        ("model_mib", 8, False),
        ("context_mib", 64, False),
    ],
)
def test_the_bound_is_the_tools_rounding_and_the_plans_own_doubt(
    folder: Path, part: str, by: int, agrees: bool
) -> None:
    launch = ("llama-3.1-8b.Q4_K_M", (24576,))
    _model, plan = planned(folder, *launch)
    found = compare(plan, changed(REAL[launch], 0, part, by))
    assert found.agrees is agrees
    if not agrees:
        assert found.short is (by > 0)
        assert found.differences[0] == pytest.approx(by, abs=2)
        assert found.words[0].startswith("card 0: ")


def test_copies_that_the_cpu_reorders_are_missed_by_the_tool_only(folder: Path) -> None:
    launch = ("tinyllama-1.1b.Q4_K_M", ())
    _model, plan = planned(folder, *launch)
    assert plan.engine_estimate[-1].model_mib > 600, "of which the tool prints 35"
    more = changed(REAL[launch], 0, "model_mib", 700)
    assert not compare(plan, more).agrees


def test_other_devices_than_planned_are_an_error(folder: Path) -> None:
    _model, plan = planned(folder, "llama-3.1-8b.Q4_K_M", (24576,))
    with pytest.raises(DoesNotFitError, match="the plan uses card 0, the engine sees no GPU"):
        compare(plan, parse("Host 282 1024 266 \n"))
    with pytest.raises(BadInputError, match="printed no device"):
        compare(plan, [])
    plain = plan_launch(
        machine(24576), profile("tinyllama-1.1b.Q4_K_M", folder), FitWishes(gpu_layers=0)
    )
    rows = [
        {
            "name": "Host",
            "model_mib": int(plain.engine_estimate[-1].model_mib),
            "context_mib": int(plain.engine_estimate[-1].context_mib),
            "compute_mib": int(plain.engine_estimate[-1].compute_mib),
        }
    ]
    assert compare(plain, rows).engine_mib


def test_the_engines_figures_come_back_as_a_calibration(folder: Path) -> None:
    launch = ("llama-3.1-8b.Q4_K_M", (24576,))
    model, plan = planned(folder, *launch)
    rows = changed(REAL[launch], 0, "compute_mib", 900)
    found = corrections(plan, compare(plan, rows), machine(24576), {})
    again = plan_launch(machine(24576), model, FitWishes(context=32768), "llama.cpp", found)
    first, second = plan.devices[0], again.devices[0]
    assert second.compute_mib == pytest.approx(first.compute_mib + 900, abs=3)
    assert compare(again, rows).agrees
    assert second.overhead_mib == first.overhead_mib, "the tool says nothing of the driver"


def test_a_smaller_figure_of_the_engine_makes_no_plan_bolder(folder: Path) -> None:
    launch = ("llama-3.1-8b.Q4_K_M", (24576,))
    model, plan = planned(folder, *launch)
    rows = changed(REAL[launch], 0, "compute_mib", -100)
    found = corrections(plan, compare(plan, rows), machine(24576), {})
    again = plan_launch(machine(24576), model, FitWishes(context=32768), "llama.cpp", found)
    assert again.devices[0].compute_mib < plan.devices[0].compute_mib - 95
    assert again.devices[0].high_mib >= plan.devices[0].total_mib


def test_what_earlier_runs_measured_stays(folder: Path) -> None:
    launch = ("llama-3.1-8b.Q4_K_M", (24576,))
    model = profile(launch[0], folder)
    driver, buffers = Figure(3, -20.0, -25.0, -15.0), Figure(3, 1.1, 1.0, 1.2)
    known = {"card 0": Calibration(driver, {"on": buffers, "off": buffers})}
    plan = plan_launch(machine(24576), model, FitWishes(), "llama.cpp", known)
    rows = changed(REAL[launch], 0, "compute_mib", 500)
    card = corrections(plan, compare(plan, rows), machine(24576), known)["card 0"]
    assert (card.overhead, card.compute["off"]) == (driver, buffers)
    assert card.compute["on"].mean > 2
    assert card.compute["on"].low == 1.0


def test_alike_cards_get_the_larger_correction(folder: Path) -> None:
    host = machine(24576, 24576)
    for gpu in host.gpus:
        gpu.name = "card"
    plan = plan_launch(host, profile("qwen3-14b.Q4_K_M", folder), FitWishes())
    rows = [
        {
            "name": row.name,
            "model_mib": int(row.model_mib),
            "context_mib": int(row.context_mib),
            "compute_mib": int(row.compute_mib) + more,
        }
        for row, more in zip(plan.engine_estimate, (100, 300, 0), strict=True)
    ]
    found = corrections(plan, compare(plan, rows), host, {})
    last = plan.devices[1].compute_mib
    assert found.keys() == {"card"}
    assert found["card"].compute["on"].mean >= (last + 300) / last - 0.02
