"""Published llama-bench rows with the card that each is about."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from infra_llm.core.errors import InfraLlmError
from infra_llm.core.hardware import Gpu
from infra_llm.readers.gpu_table import load_gpu_table

FIXTURE = Path(__file__).parents[1] / "fixtures" / "ground-truth" / "speed.json"
SIZES = {  # names that several cards share: the usual one, MiB
    "Tesla P100": 16384,
    "Tesla V100": 16384,
    "RTX 4060 Ti": 16380,
    "Jetson AGX Orin": 65536,
    "Intel Arc A770": 16384,
}
APPLE = {  # GB/s, Apple's specifications
    "m1-max": 400, "m1-ultra": 800, "m2-max": 400, "m2-ultra": 800, "m3-max": 400, "m3-ultra": 819,
    "m4-pro": 273, "m4-max": 546, "m1": 68, "m2": 100, "m3": 100,
}  # fmt: skip
LAYERS = {"Llama-2-7B": 32, "Llama-3-8B": 32, "Llama-3-70B": 80}
GIB = 1 << 30


@dataclass(frozen=True)
class Row:
    card: str
    gpu: Gpu
    model: str
    quant: str
    weights: int
    layers: int
    decode: float
    prefill: float


def _apple(name: str) -> float | None:
    text = re.sub(r"[^a-z0-9]+", "-", name.lower())
    match = re.search(r"\b(m[1-4](?:-(?:max|ultra|pro))?)\b", text)
    return APPLE.get(match[1]) if match else None


def single_gpu_rows() -> list[Row]:
    """Rows of one GPU whose card is known; decode is at the start of a context."""
    table, rows = load_gpu_table(), []
    for row in json.loads(FIXTURE.read_text()):
        decode = row.get("tg128") or row.get("tg512")
        if row["n_gpu"] != 1 or not decode:
            continue
        name = row["gpu"]
        rate = _apple(name)
        if name.startswith("apple-"):  # a device id in place of a name: wrong in places
            continue
        if rate:
            gpu = Gpu(index=0, vendor="apple", name=name, memory_bandwidth_gbs=rate)
        else:
            try:
                found = table.find_gpu(re.sub(r"Nvidia |Mobile", "", name), SIZES.get(name))
            except InfraLlmError:
                continue
            gpu = Gpu(
                index=0,
                vendor=found.vendor,
                name=found.name,
                memory_bandwidth_gbs=found.memory_bandwidth_gbs,
                compute_capability=found.compute_capability,
                architecture=found.architecture,
                fp16_tflops=found.fp16_tflops,
            )
        rows.append(
            Row(
                name, gpu, row["model"], row["quant"], int(row["model_size_gib"] * GIB),
                LAYERS[row["model"]], decode, row.get("pp512") or 0.0,
            )
        )  # fmt: skip
    return rows
