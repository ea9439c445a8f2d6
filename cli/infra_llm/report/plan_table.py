"""A LaunchPlan for people: MiB for each device with bars, flags and reasons."""

from __future__ import annotations

import shlex
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra_llm.core.fit import llama_server_arguments
from infra_llm.core.plan import DeviceMemory, LaunchPlan

BAR_WIDTH = 24
MARKS = (("weights_mib", "█"), ("kv_cache_mib", "▓"), ("compute_mib", "▒"), ("overhead_mib", "░"))


def bar(entry: DeviceMemory) -> str:
    """Share of the capacity that each part takes, one character about 4 %."""
    capacity = max(entry.capacity_mib, entry.total_mib, 1.0)
    text, done = "", 0.0
    for part, mark in MARKS:
        done += getattr(entry, part)
        text += mark * (round(done / capacity * BAR_WIDTH) - len(text))
    return text.ljust(BAR_WIDTH, "·")


def print_plan(plan: LaunchPlan, stream: TextIO) -> None:
    """Write the plan to `stream`; colours only on a terminal."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    verdict = "fits" if plan.fits else "does not fit"
    name = plan.model.name or plan.model.architecture
    console.print(f"{name} {plan.model.quant}: {verdict}", markup=False)
    table = Table(box=None, pad_edge=False)
    for title in ("MiB", "weights", "KV cache", "compute", "overhead", "total", "of", ""):
        table.add_column(title, justify="left" if title in {"MiB", ""} else "right")
    for entry in [*plan.devices, plan.host]:
        figures = (
            entry.weights_mib,
            entry.kv_cache_mib,
            entry.compute_mib,
            entry.overhead_mib,
            entry.total_mib,
            entry.capacity_mib,
        )
        table.add_row(escape(entry.name), *(f"{figure:,.0f}" for figure in figures), bar(entry))
    console.print(table)
    if plan.engine == "llama.cpp":
        command = shlex.join(["llama-server", *llama_server_arguments(plan.flags)])
        console.print(command, markup=False)
    for reason in plan.why:
        console.print(f"- {reason.text} [{reason.source}]", markup=False)
