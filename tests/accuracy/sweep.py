"""The engine itself against the planner, with no GPU: python -m tests.accuracy.sweep

llama-fit-params lays launches out without allocating them, and ggml-rpc-server processes on
loopback stand in for GPUs. The models are weightless files with the headers that the fixture
holds: one small model of every architecture that the engine's own test program writes. The
planner must say what the tool says; beyond the bound the run fails. The programs are built when
they are nowhere (tests/accuracy/build_tools.py).

    python -m tests.accuracy.sweep --write               the table again, for the headers it holds
    python -m tests.accuracy.sweep --write FOLDER        for a folder of GGUF files
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import InfraLlmError
from infra_llm.core.fit.llama_cpp.graphs import APPROXIMATE
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf
from tests.accuracy.build_tools import build
from tests.accuracy.headers import write_header
from tests.accuracy.logs import FIXTURES, load
from tests.accuracy.tool_prediction import tool_prediction
from tests.accuracy.tools import PROGRAMS, Tools

FLAGS = {
    "flash": ["-c", "4096", "-ngl", "99", "-fa", "on", "-ub", "1024", "-b", "1024"],
    "plain": ["-c", "4096", "-ngl", "99", "-fa", "off", "-ub", "1024", "-b", "1024"],
    "two": "-c 8192 -ngl 99 -fa on -ub 512 -b 1024 -ts 1,1 -np 2".split(),  # noqa: SIM905
    "part": "-c 4096 -ngl 2 -fa on -ub 1024 -b 1024 -ctk q8_0 -ctv q8_0".split(),  # noqa: SIM905
}
FIXTURE = FIXTURES / "architectures.json"
BOUND, WIDE_BOUND = 0.005, 0.60
"""Of a compute buffer: for what the planner calls known, and for graphs.APPROXIMATE, whose median
is held to APPROXIMATE_MEDIAN besides."""
APPROXIMATE_MEDIAN = 0.01
CACHE_BOUND_MIB = 0.011
"""The tool's lines have two decimals."""
LEAST_ARCHITECTURES = 12
TRIES = 3


def ask(tools: Tools, model: Path, flags: list[str], servers: list[str]) -> dict[str, Any] | None:
    """Cache and compute MiB of one launch in the engine's own lines, None where it refuses."""
    command = [
        tools.folder / PROGRAMS[0], "-m", model, "--rpc", ",".join(servers), *flags,
        "-fitp", "on", "-lv", "5",
    ]  # fmt: skip
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tools.folder), "GGML_NO_BACKTRACE": "1"}
    for _ in range(TRIES):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=environment
        )
        text = done.stdout + done.stderr
        compute = re.findall(r"sched_reserve: +\S+ compute buffer size = +([\d.]+) MiB", text)
        if done.returncode or not compute:
            continue
        sizes = re.findall(r"llama_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB", text)
        return {
            "flags": flags,
            "devices": len(servers),
            "cache_mib": round(sum(map(float, sizes)), 2),
            "compute_mib": [float(size) for size in compute],
        }
    return None


def ask_all(
    tools: Tools, models: list[tuple[str, ModelProfile, Path | None]], folder: Path
) -> Iterator[tuple[str, ModelProfile, list[dict[str, Any]]]]:
    """The answers for each model; without a file its header is written."""
    with tools.servers(2) as servers:
        for name, model, file in models:
            path = file or folder / "model.gguf"
            if file is None:
                write_header(model, path)
            rows = [
                ask(tools, path, flags, servers if kind == "two" else servers[:1])
                for kind, flags in FLAGS.items()
            ]
            yield name, model, [row for row in rows if row]


def check(tools: Tools, models: list[tuple[str, ModelProfile, Path | None]]) -> int:
    """Compare, print a line for what is beyond its bound; 1 when anything is."""
    started, wrong = time.monotonic(), []
    errors: dict[bool, list[float]] = defaultdict(list)
    families, refused, unasked = set(), set(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, model, rows in ask_all(tools, models, Path(folder)):
            try:
                known = read_hyper(model).architecture not in APPROXIMATE
            except InfraLlmError:
                refused.add(model.architecture)
                continue
            if not rows:
                unasked.append(name)
                continue
            families.add(model.architecture)
            for row in rows:
                wrong += [
                    f"{name} {' '.join(row['flags'])}: {w}" for w in _beyond(model, row, known)
                ]
                errors[known] += _compute_errors(model, row)
    if len(families) < LEAST_ARCHITECTURES:
        wrong.append(f"{len(families)} architectures, at least {LEAST_ARCHITECTURES} are wanted")
    wide = sorted(map(abs, errors[False]))
    if wide and wide[len(wide) // 2] > APPROXIMATE_MEDIAN:
        wrong.append(f"approximate families: median {wide[len(wide) // 2]:.2%}")
    for words in wrong:
        print(f"BEYOND {words}")
    worst = max(map(abs, errors[True]), default=0.0)
    print(
        f"{len(families)} architectures, {len(errors[True]) + len(errors[False])} buffers by "
        f"llama-fit-params build {tools.build} in {time.monotonic() - started:.0f} s: "
        f"worst {worst:.3%} of the known families, bound {BOUND:.1%}; "
        f"refused by the planner: {' '.join(sorted(refused)) or 'none'}; "
        f"no answer of the tool: {' '.join(unasked) or 'none'}"
    )
    return 1 if wrong else 0


def _compute_errors(model: ModelProfile, row: dict[str, Any]) -> list[float]:
    compute = tool_prediction(model, row)[1]
    pairs = zip(compute, row["compute_mib"], strict=False)
    return [mine / logged - 1 for mine, logged in pairs]


def _beyond(model: ModelProfile, row: dict[str, Any], known: bool) -> list[str]:
    """What of one launch is beyond its bound, in words."""
    bound = BOUND if known else WIDE_BOUND
    found = [f"compute {error:+.2%}" for error in _compute_errors(model, row) if abs(error) > bound]
    cache = sum(tool_prediction(model, row)[0])
    if abs(cache - row["cache_mib"]) > CACHE_BOUND_MIB * 2:
        found.append(f"cache {cache:.2f} MiB, {row['cache_mib']:.2f} by the engine")
    return found


def compact(profile: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the profile's defaults say."""
    kept = {key: value for key, value in profile.items() if value and key not in {"name", "parts"}}
    kept["hyper"] = {
        key: value
        for key, value in profile["hyper"].items()
        if not (isinstance(value, list) and len(value) > profile["hyper"]["block_count"] + 4)
        and (value or key == "attention.sliding_window")
    }
    kept["tensors"] = [
        {key: value for key, value in group.items() if value} for group in profile["tensors"]
    ]
    return kept


def write(tools: Tools, models: list[tuple[str, ModelProfile, Path | None]]) -> None:
    """The calibration table, with the build it came from."""
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            {"name": name, "profile": compact(model.to_dict()), "rows": rows}
            for name, model, rows in ask_all(tools, models, Path(folder))
        ]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    FIXTURE.write_text(
        f'{{"tool":"llama-fit-params, build {tools.build}","models":[\n{lines}\n]}}\n'
    )


def in_fixture() -> list[tuple[str, ModelProfile, Path | None]]:
    return [
        (entry["name"], from_dict(ModelProfile, entry["profile"]), None)
        for entry in load("architectures.json")["models"]
    ]


def in_folder(folder: Path) -> list[tuple[str, ModelProfile, Path | None]]:
    found: list[tuple[str, ModelProfile, Path | None]] = []
    for path in sorted(folder.glob("*.gguf")):
        try:
            found.append((path.stem, read_gguf(path), path))
        except InfraLlmError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="GGUF files; else the fixture's")
    parser.add_argument("--write", action="store_true", help="write the table, compare nothing")
    options = parser.parse_args()
    try:
        tools = build()
    except (OSError, InfraLlmError) as error:
        # Nobody was asked, which must not look like a comparison that was made.
        print(f"not asked, the engine's programs can't be built here: {error}")
        print("  the recorded answers are compared by make accuracy")
        return 1
    models = in_folder(options.folder) if options.folder else in_fixture()
    if options.write:
        write(tools, models)
        return 0
    return check(tools, models)


if __name__ == "__main__":
    sys.exit(main())
