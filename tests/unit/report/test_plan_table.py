"""The table of `infra-llm fit`."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console
from tests import samples

from infra_llm.core.codec import from_dict
from infra_llm.core.plan import DeviceMemory, LaunchPlan
from infra_llm.report.plan_table import BAR_WIDTH, bar, print_plan


def plan(**changes: object) -> LaunchPlan:
    return from_dict(LaunchPlan, samples.desired()["plan"] | changes)


def printed(given: LaunchPlan) -> str:
    stream = io.StringIO()
    print_plan(given, Console(file=stream, width=160, soft_wrap=True, highlight=False))
    return stream.getvalue()


def test_figures_flags_and_reasons_are_there() -> None:
    text = printed(plan())
    assert "SmolLM2-135M-Instruct Q4_1: fits" in text
    assert "- context 8192: what the model was made for [header]" in text
    row = next(line for line in text.splitlines() if line.startswith("host"))
    assert row.split()[1:7] == ["100", "60", "20", "20", "200", "60,000"]
    assert "\x1b" not in text
    assert "does not fit" in printed(plan(fits=False))


@pytest.mark.parametrize("odd", ["[/]", "[red]x", "[0-9]"])
def test_names_and_flags_with_brackets_stay_whole(odd: str) -> None:
    given = plan()
    given.model.name = f"model {odd}"
    given.host.name = f"row {odd}"
    given.flags["override_tensor"] = [f"blk.{odd}=CPU"]
    text = printed(given)
    assert f"model {odd}" in text
    assert f"row {odd}" in text
    line = next(line for line in text.splitlines() if line.startswith("llama-server"))
    assert f"blk.{odd}=CPU" in shlex.split(line), "the line can be pasted into a shell"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((0, 0, 0, 0, 1000), "·" * BAR_WIDTH),
        ((1000, 0, 0, 0, 1000), "█" * BAR_WIDTH),
        ((500, 250, 0, 0, 1000), "█" * 12 + "▓" * 6 + "·" * 6),
        ((250, 250, 250, 250, 1000), "█" * 6 + "▓" * 6 + "▒" * 6 + "░" * 6),
        ((0, 0, 0, 0, 0), "·" * BAR_WIDTH),
    ],
)
def test_a_bar_is_the_share_of_the_capacity(parts: tuple[float, ...], text: str) -> None:
    weights, cache, compute, overhead, capacity = parts
    entry = DeviceMemory("x", weights, cache, compute, overhead, capacity_mib=capacity)
    assert bar(entry) == text


def test_a_bar_of_what_is_too_much_keeps_its_width() -> None:
    entry = DeviceMemory("x", weights_mib=3000, total_mib=3000, capacity_mib=1000)
    assert bar(entry) == "█" * BAR_WIDTH
