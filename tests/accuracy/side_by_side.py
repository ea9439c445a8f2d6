"""The planner beside others on the same rows, in the same run."""

from __future__ import annotations

import statistics
from pathlib import Path

from tests.accuracy import rivals
from tests.accuracy.logs import cases
from tests.accuracy.speed_rows import single_gpu_rows
from tests.accuracy.tools import Tools

ROWS = (
    ("weights a device", "weights a device", "model", "model, all"),
    ("KV cache and recurrent state", "cache a device", "cache", "cache, all"),
    ("compute a device", "compute a device", "compute", ""),
    ("sum a device", "sum a device", "sum", ""),
    ("sum of all devices and the host", "sum of all devices and the host", "all devices", ""),
    ("total with the driver", "total with the driver", "", ""),
    ("layers left, most", "layers left against brute force", "", ""),
    ("vLLM cache tokens", "vLLM cache tokens", "", ""),
    ("decode tokens/s, one GPU", "decode, card left out", "decode", ""),
)
"""Title, the name of our own row, the rival's quantity, and what it can answer for in its place."""
MODEL_ONLY = "*"


def cell(errors: list[float], mark: str = "") -> str:
    """Median and 95th percentile of the absolute errors, and the number of rows."""
    if not errors:
        return "-"
    ordered = sorted(abs(error) for error in errors)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{statistics.median(ordered):.2%} / {high:.1%} ({len(ordered)}){mark}"


def show(own: dict[str, list[float]], folder: Path, tools: Tools | None) -> None:
    """Print the table; who can't be asked has dashes and a line that says why."""
    logs = [case for case in cases() if not case.fork]
    columns = [
        rivals.fit_params(logs, folder, tools),
        rivals.llmfit(logs, single_gpu_rows(), folder),
        rivals.rule(logs, folder),
    ]
    head = f"\n{'median / 95th (rows)':32}{'planner':>24}"
    print(head + "".join(f"{column.name:>24}" for column in columns))
    for title, name, quantity, instead in ROWS:
        mine = own.get(name) or []
        first = f"{max(mine):.0f} ({len(mine)})" if title.endswith("most") and mine else cell(mine)
        cells = [
            cell(column.errors.get(quantity, []))
            if column.errors.get(quantity)
            else cell(column.errors.get(instead, []), MODEL_ONLY)
            for column in columns
        ]
        print(f"{title:32}{first:>24}" + "".join(f"{text:>24}" for text in cells))
    near = [
        f"{name} {sum(abs(e) <= 0.15 for e in errors) / len(errors):.0%}"
        for name, errors in (
            ("planner", own.get("decode, card left out") or []),
            *((column.name, column.errors.get("decode", [])) for column in columns),
        )
        if errors
    ]
    print(f"decode within 15 %: {', '.join(near)}")
    low = [
        f"{column.name} {sum(error < -0.001 for error in column.errors['all devices'])} of "
        f"{len(column.errors['all devices'])}"
        for column in columns
        if column.errors.get("all devices")
    ]
    print(f"sum of all devices too low: {', '.join(low)}")
    print(f"{MODEL_ONLY} of the whole model: it knows no single devices")
    for column in columns:
        if column.note:
            print(column.note)
