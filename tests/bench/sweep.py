"""The planned configuration against an exhaustive sweep: python -m tests.bench.sweep [--rounds N]

Every combination of threads, micro-batch and cache type that this machine may sensibly run is
started as a server and asked the same prompt; prefill and decode tokens/s are the server's own.
One round with a short prompt screens all of them; the best of each figure and the plan are then
run against each other in rounds, the order turned each time, and the medians compared. What counts
is the time of the whole request, which fills about half of the context: prefill and decode pull
apart (an 8-bit cache is read faster and written slower), so no configuration need be the best at
both. The plan must be within 3 % of the quickest. Other work on the machine spoils it: it refuses
to start on a busy one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.hardware import HostHardware
from infra_llm.readers.gguf_file import read_gguf
from tests.bench.servers import models, serving, this_machine

CONTEXT = 2048
MICRO_BATCHES = (64, 128, 256, 512, 1024, 2048)
CACHE_TYPES = ("f16", "q8_0", "q4_0")
SCREENED, MEASURED = (200, 24), (620, 96)
"""Words of the prompt and tokens of the answer."""
FINALISTS = 3
"""Of each figure."""
BOUND = 0.03
IDLE_LOAD = 0.4
"""Load a core from which on the machine counts as busy."""
Config = tuple[tuple[str, Any], ...]
FIGURES = ("prefill", "decode", "requests")


def configurations(hardware: HostHardware, planned: dict[str, Any]) -> list[Config]:
    """All combinations; threads up to one more than may be used: they spin, so that each beyond
    costs all of them their time slices."""
    usable = hardware.cpu.usable_threads
    threads = {*range(1, min(usable, 4) + 1), usable // 2, usable, usable + 1, planned["threads"]}
    return [
        (("threads", count), ("ubatch_size", batch), ("cache_type", kind))
        for count, batch, kind in itertools.product(
            sorted(threads - {0}), MICRO_BATCHES, CACHE_TYPES
        )
    ]


def flags_of(planned: dict[str, Any], config: Config) -> dict[str, Any]:
    named = dict(config)
    return {
        **planned,
        "threads": named["threads"],
        "threads_batch": named["threads"],
        "ubatch_size": named["ubatch_size"],
        "cache_type_k": named["cache_type"],
        "cache_type_v": named["cache_type"],
    }


def measure(
    model: Path, flags: dict[str, Any], size: tuple[int, int] = MEASURED
) -> dict[str, float]:
    """Prefill and decode tokens/s of one fresh server and the requests that it answers in a minute,
    its first answer not counted.
    """
    with serving(model, flags) as server:
        client = server.client()
        options = {"temperature": 0, "cache_prompt": False, "ignore_eos": True}
        client.chat([{"role": "user", "content": "warm up"}], max_tokens=4, **options)
        words = " ".join(f"word{n % 97}" for n in range(size[0] // 2))
        done = client.chat([{"role": "user", "content": words}], max_tokens=size[1], **options)
    timings = done.timings
    return {
        "prefill": timings["prompt_n"] / timings["prompt_ms"] * 1000,
        "decode": (timings["predicted_n"] - 1) / timings["predicted_ms"] * 1000,
        "requests": 60000 / (timings["prompt_ms"] + timings["predicted_ms"]),
    }


def words_of(config: Config) -> str:
    return ", ".join(f"{name} {value}" for name, value in config)


def sweep(name: str, path: Path, hardware: HostHardware, rounds: int) -> bool:
    """Print one model's table; whether the plan is within the bound of the best."""
    plan = plan_launch(hardware, read_gguf(path), FitWishes(context=CONTEXT))
    own: Config = (
        ("threads", plan.flags["threads"]),
        ("ubatch_size", plan.flags["ubatch_size"]),
        ("cache_type", plan.flags["cache_type_k"]),
    )
    every = configurations(hardware, plan.flags)
    if own not in every:
        every.append(own)
    print(f"\n{name}: {len(every)} configurations, planned: {words_of(own)}", flush=True)
    screened = {config: measure(path, flags_of(plan.flags, config), SCREENED) for config in every}
    chosen = {own}
    for figure in FIGURES:
        ranked = sorted(every, key=lambda config: screened[config][figure], reverse=True)
        chosen.update(ranked[:FINALISTS])
    final = sorted(chosen)
    seen: dict[Config, dict[str, list[float]]] = {c: defaultdict(list) for c in final}
    for turn in range(rounds):
        place = turn % len(final)
        for config in [*final[place:], *final[:place]]:
            flags = plan.flags if config == own else flags_of(plan.flags, config)
            for figure, value in measure(path, flags).items():
                seen[config][figure].append(value)
    medians = {c: {f: statistics.median(seen[c][f]) for f in FIGURES} for c in final}
    print(f"{'':2}{'configuration':46}{'prefill':>9}{'decode':>9}{'requests':>9}", end="")
    print(f"  tokens/s, tokens/s, a minute: medians of {rounds}")
    for config in sorted(final, key=lambda c: -medians[c]["requests"]):
        row = medians[config]
        print(f"{'> ' if config == own else '  '}{words_of(config):46}", end="")
        print(f"{row['prefill']:9.1f}{row['decode']:9.2f}{row['requests']:9.2f}")
    best = {figure: max(medians[config][figure] for config in final) for figure in FIGURES}
    short = {figure: 1 - medians[own][figure] / best[figure] for figure in FIGURES}
    good = short["requests"] <= BOUND
    print(
        f"the plan against the best of each: whole request -{short['requests']:.1%}, goal 3 %  "
        f"{'ok' if good else 'MISSED'}; prefill alone -{short['prefill']:.1%}, "
        f"decode alone -{short['decode']:.1%}",
        flush=True,
    )
    return good


def wait_until_idle(seconds: float) -> None:
    """Wait for an idle machine. Exits with 3 when it stays busy: figures would say nothing."""
    until = time.monotonic() + seconds
    limit = IDLE_LOAD * (os.cpu_count() or 1)
    while os.getloadavg()[0] > limit:
        if time.monotonic() > until:
            print(f"not measured: load {os.getloadavg()[0]:.1f}, at most {limit:.1f} is idle")
            sys.exit(3)
        time.sleep(5)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--wait", type=float, default=120.0, help="seconds for an idle machine")
    arguments.add_argument("--busy", action="store_true", help="measure on a busy machine, too")
    options = arguments.parse_args()
    hardware, found = this_machine(), models()
    if not options.busy:
        wait_until_idle(options.wait)
    results = [sweep(name, path, hardware, options.rounds) for name, path in found.items()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
