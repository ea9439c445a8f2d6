"""A LaunchPlan for people: MiB for each device with bars, flags, reasons, what else is possible."""

from __future__ import annotations

import json
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra_llm.core.fit import llama_server_arguments
from infra_llm.core.plan import DeviceMemory, LaunchPlan
from infra_llm.core.swap import plan_rows

BAR_WIDTH = 24
NAME_WIDTH = 30
WIDTH = 120
MARKS = (("weights_mib", "█"), ("kv_cache_mib", "▓"), ("compute_mib", "▒"), ("overhead_mib", "░"))
LEGEND = "█ weights ▓ KV cache ▒ compute ░ overhead · free"


def bar(entry: DeviceMemory) -> str:
    """Share of the capacity that each part takes, one character about 4 %."""
    capacity = max(entry.capacity_mib, entry.total_mib, 1.0)
    text, done = "", 0.0
    for part, mark in MARKS:
        done += getattr(entry, part)
        text += mark * (round(done / capacity * BAR_WIDTH) - len(text))
    return text.ljust(BAR_WIDTH, "·")


def command(plan: LaunchPlan) -> str:
    """The launch as the engine is told it."""
    if plan.engine == "llama.cpp":
        return shlex.join(["llama-server", *llama_server_arguments(plan.flags)])
    if plan.engine == "vllm":
        flags = (
            f"--{name.replace('_', '-')} {value}"
            for name, value in plan.flags.items()
            if not isinstance(value, bool)
        )
        return "vllm serve " + " ".join(flags)
    return json.dumps(plan.flags)


def print_comparison(before: LaunchPlan, after: LaunchPlan, console: Console) -> None:
    """Two plans of one host side by side: only what a person compares and what differs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "before", "now"):
        table.add_column(title, overflow="fold")
    for row in plan_rows(before, after):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def print_plan(plan: LaunchPlan, console: Console) -> None:
    """Print the plan: where the memory goes, the command, and why."""

    def line(text: str) -> None:
        console.print(text, markup=False)

    verdict = "fits" if plan.fits else "does not fit"
    name = plan.model.name or plan.model.architecture
    line(f"{name} {plan.model.quant}: {verdict}")
    table = Table(box=None, pad_edge=False)
    for title in ("MiB", "weights", "KV cache", "compute", "overhead", "total", "of", ""):
        left = title in {"MiB", ""}
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for entry in [*plan.devices, plan.host]:
        figures = (
            entry.weights_mib,
            entry.kv_cache_mib,
            entry.compute_mib,
            entry.overhead_mib,
            entry.total_mib,
            entry.capacity_mib,
        )
        shown = entry.name.removeprefix("NVIDIA ").removeprefix("GeForce ")[:NAME_WIDTH]
        table.add_row(Text(shown), *(f"{figure:,.0f}" for figure in figures), bar(entry))
    console.print(table)
    line(LEGEND)
    speed = plan.tokens_per_second
    decode = f"decode {speed.decode:.1f} tokens/s ({speed.low:.1f} to {speed.high:.1f}), "
    line(
        f"{decode * bool(speed.decode)}prefill about {speed.prefill:,.0f}; "
        f"largest context {plan.max_context:,}, "
        f"most slots {plan.max_parallel}; binds: {plan.binding_constraint}"
    )
    line(command(plan))
    for reason in plan.why:
        line(f"- {reason.text} [{reason.source}]")
    for heading, lines in (
        ("else", [f"{a.change}: {a.note}" if a.note else a.change for a in plan.alternatives]),
        ("note", plan.warnings),
    ):
        for text in lines:
            line(f"{heading}: {text}")
