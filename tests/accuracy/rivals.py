"""What others say of the same rows: llmfit, parameters x bytes x 1.2, llama-fit-params.

llmfit is installed from the package index (7 MB) into a folder of its own in the cache outside the
tree. llama-fit-params is asked live where its programs are found (tests/accuracy/tools.py), else
its recorded answers are taken:

    python -m tests.accuracy.rivals --record     writes them anew, with the build
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra_llm.core.model import ModelProfile
from tests.accuracy.logs import FIXTURES, Case, cases
from tests.accuracy.speed_rows import Row
from tests.accuracy.tools import Tools, find_tools
from tests.descriptors import profile

MIB, GIB = 1 << 20, 1 << 30
PARTS = ("model", "cache", "compute")
RECORDED = FIXTURES / "fit_params.json"
Errors = dict[str, list[float]]


@dataclass
class Rival:
    """One column: signed relative errors by quantity, or why there are none."""

    name: str
    errors: Errors = field(default_factory=lambda: defaultdict(list))
    note: str = ""


# -- parameters x bytes x 1.2 -------------------------------------------------


def rule(rows: list[Case], folder: Path) -> Rival:
    """Bytes a weight out of the file, and 20 % for all else."""
    found = Rival("x 1.2")
    for case in rows:
        model = profile(case.model, folder)
        whole = case.total(model)
        if whole:
            found.errors["all devices"].append(1.2 * model.tensor_bytes / MIB / whole - 1)
    return found


# -- llmfit --------------------------------------------------------------------

LLMFIT = "1.1.17"
WHEEL_SHA256 = "2c6762f9b7d4f42adbf74667e331521ee1909ba8dfe8b4b4cf3f4bd1dee4df27"
"""Of the only wheel for Linux, x86-64."""
NAMES = {
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3.5-122b-a10b": "Qwen/Qwen3.5-122B-A10B",
    "qwen3.6-27b-mtp": "Qwen/Qwen3.6-27B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "Llama-2-7B": "meta-llama/Llama-2-7b-hf",
    "Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Llama-3-70B": "meta-llama/Meta-Llama-3-70B",
}
"""Our models in its data base."""


def llmfit(rows: list[Case], speeds: list[Row], folder: Path) -> Rival:
    """It gives one figure for all devices, and tokens/s for a profile with the card's bandwidth."""
    found = Rival(f"llmfit {LLMFIT}")
    try:
        program = install_llmfit()
    except (OSError, subprocess.SubprocessError) as error:
        found.note = f"llmfit {LLMFIT} could not be installed: {_last_line(error)}"
        return found
    with tempfile.TemporaryDirectory() as profiles:
        asker = Llmfit(program, Path(profiles))
        for case in rows:
            asker.memory(case, profile(case.model, folder), found.errors)
        for row in speeds:
            asker.speed(row, found.errors)
    return found


def install_llmfit() -> Path:
    """Its program, installed once: the folder is named after the wheel's sha256."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    place = Path(base, "infra-llm", "llmfit", WHEEL_SHA256[:16])
    program = place / "bin" / "llmfit"
    if program.exists():
        return program
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"llmfit=={LLMFIT} --hash=sha256:{WHEEL_SHA256}\n")
        target = Path(folder, "made")
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--only-binary", ":all:", "--require-hashes",
            "--target", target, "-r", wanted,
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        if not (target / "bin" / "llmfit").exists():
            raise OSError("no program in the wheel")
        if not place.exists():
            target.rename(place)
    return program


class Llmfit:
    """Questions to the program; each is asked once."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.known: dict[str, dict[str, Any] | None] = {}

    def plan(self, arguments: list[str]) -> dict[str, Any] | None:
        key = " ".join(arguments)
        if key not in self.known:
            done = subprocess.run(
                [self.program, *arguments, "--json", "--no-dashboard"],
                capture_output=True, text=True, check=False, timeout=60,
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)},
            )  # fmt: skip
            self.known[key] = json.loads(done.stdout) if done.returncode == 0 else None
        return self.known[key]

    def memory(self, case: Case, model: ModelProfile, errors: Errors) -> None:
        """Its GB of weights are decimal, those of the cache binary; what it adds up is taken so."""
        whole = case.total(model)
        if not whole:
            return
        name, _, quant = case.model.rpartition(".")
        flags = dict(zip(case.flags[::2], case.flags[1::2], strict=False))
        kind = flags.get("-ctk", "f16").replace("f16", "fp16")
        found = name in NAMES and self.plan(
            ["plan", NAMES[name], "--context", flags["-c"], "--kv-quant", kind,
             "--quant", quant.split("-")[0]]
        )  # fmt: skip
        if not found:
            return
        weights = found["disk_size_gb"] * 1e9 / MIB
        row = next(r for r in found["kv_alternatives"] if r["kv_quant"] == kind)
        cache = row["kv_cache_gb"] * GIB / MIB
        rest = (row["memory_required_gb"] - found["disk_size_gb"] - row["kv_cache_gb"]) * GIB / MIB
        errors["model, all"].append(weights / (model.tensor_bytes / MIB) - 1)
        errors["cache, all"].append(cache / case.whole["cache"] - 1)
        errors["all devices"].append((weights + cache + rest) / whole - 1)

    def speed(self, row: Row, errors: Errors) -> None:
        rate = row.gpu.memory_bandwidth_gbs
        if row.model not in NAMES or not rate:
            return
        label = f"card{int(rate)}-{int(row.gpu.unified_memory)}"
        file = self.folder / f"{label}.json"
        hardware = {
            "total_ram_gb": 128.0, "unified_memory": row.gpu.vendor == "apple",
            "gpu_memory_bandwidth_gbps": float(rate), "ddr_bandwidth_gbps": 50.0,
        }  # fmt: skip
        match = {"gpu_name_contains": row.gpu.name}
        file.write_text(
            json.dumps({"schema_version": 1, "name": label, "match": match, "hardware": hardware})
        )
        found = self.plan(
            ["--profile", str(file), "plan", NAMES[row.model], "--context", "512",
             "--quant", row.quant]
        )  # fmt: skip
        path = next((p for p in (found or {}).get("run_paths", []) if p["path"] == "gpu"), None)
        if path and path["estimated_tps"]:
            errors["decode"].append(path["estimated_tps"] / row.decode - 1)


# -- llama-fit-params ------------------------------------------------------------


def fit_params(rows: list[Case], folder: Path, tools: Tools | None) -> Rival:
    """Its whole MiB over RPC servers, live or recorded."""
    if tools:
        answers, name = ask_all(tools, rows, folder), f"live, build {tools.build}"
    else:
        kept = json.loads(RECORDED.read_text())
        answers, name = kept["rows"], f"recorded, build {kept['build']}"
    found = Rival("llama-fit-params", note=f"llama-fit-params over RPC: {name}")
    for case in rows:
        answer = answers.get(case.name)
        if not answer:
            continue
        for logged, mine in zip(case.measured, answer, strict=False):
            for part, value in zip(PARTS, mine, strict=True):
                if logged.get(part) and (part != "model" or case.weights_comparable):
                    found.errors[part].append(value / logged[part] - 1)
            if len(logged) == len(PARTS) and case.weights_comparable:
                found.errors["sum"].append(sum(mine) / sum(logged.values()) - 1)
        model = profile(case.model, folder)
        whole = case.total(model)
        if whole:
            # Its host row leaves out weights that the CPU's kernels reorder: the header's instead.
            mine = model.tensor_bytes / MIB + sum(row[1] + row[2] for row in answer)
            found.errors["all devices"].append(mine / whole - 1)
    return found


def ask_all(tools: Tools, rows: list[Case], folder: Path) -> dict[str, list[list[int]]]:
    """Answers by the case's name; those that it refuses are left out."""
    found: dict[str, list[list[int]]] = {}
    with tools.servers(max(case.devices for case in rows)) as servers:
        for case in rows:
            profile(case.model, folder)
            path = folder / f"{case.model}.gguf"
            answer = tools.ask(path, [*case.flags, "--fit", "off"], servers[: case.devices])
            if answer:
                found[case.name] = answer
    return found


def _last_line(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().splitlines()[-1][:160]


def record() -> None:
    """Keep what the programs at hand answer."""
    tools = find_tools()
    if tools is None:
        sys.exit("no llama-fit-params: run python -m tests.accuracy.build_tools first")
    with tempfile.TemporaryDirectory() as folder:
        rows = ask_all(tools, [case for case in cases() if not case.fork], Path(folder))
    lines = ",\n".join(f'"{name}":{json.dumps(row)}' for name, row in rows.items())
    RECORDED.write_text(f'{{"build":"{tools.build}","rows":{{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    if sys.argv[1:] != ["--record"]:
        sys.exit(__doc__)
    record()
