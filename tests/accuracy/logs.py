"""Cases of public logs: the launch, and the MiB that the engine printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_llm.core.model import ModelProfile

MIB = 1 << 20
FIXTURES = Path(__file__).parents[1] / "fixtures" / "ground-truth"
SAME_BUFFER = 0.1


@dataclass(frozen=True)
class Case:
    name: str
    fork: bool
    model: str
    devices: int
    flags: list[str]
    measured: list[dict[str, float]]
    """For each GPU: model, cache (recurrent state included), compute, as far as printed."""
    weights_comparable: bool
    build: int
    whole: dict[str, float]
    """Cache and compute over all buffers, the host's too; empty where the log lacks them."""

    def total(self, model: ModelProfile) -> float:
        """MiB on all devices and the host, the weights by the header; 0 where not known.

        The 60 points of one model's surface would outweigh all else: they count device by device.
        """
        if not self.whole or not self.weights_comparable or self.name.startswith("p100"):
            return 0.0
        return model.tensor_bytes / MIB + sum(self.whole.values())


def load(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def cases() -> list[Case]:
    """All cases whose model's header is at hand."""
    logs = {row["id"]: row for row in load("memory.json")}
    known = load("cases.json")
    found = []
    for name, case in known["memory.json"].items():
        row = logs[name]
        buffers = row["measured_mib"].get("buffers", {})
        found.append(
            Case(
                name,
                row["engine"] != "llama.cpp",
                case["model"],
                case["devices"],
                case["llama_cpp_flags"],
                [_device(buffers, n) for n in range(case["devices"])],
                case["weights_comparable"],
                _build(str(row["measured_mib"].get("kv_line") or ""), name),
                _whole(buffers),
            )
        )
    surface = known["p100_surface.json"]
    for number, row in enumerate(load("p100_surface.json")):
        buffers = row["buffers_mib"]
        models = [buffers[f"CUDA{n}"]["model"] for n in range(4)]
        for placement in surface["placements"]:
            pairs = zip(models, placement["model_mib"], strict=True)
            if any(abs(a - b) > SAME_BUFFER for a, b in pairs):
                continue
            kind = row["kv"][0].split("K (")[1].split(")")[0]
            flags = [
                *placement["flags"], "-c", row["n_ctx"], "-b", row["n_batch"], "-ub",
                row["n_ubatch"], "-fa", "on" if row["flash_attn"] == "enabled" else "off",
                "-ngl", 999, "-np", row["n_seq_max"], "-ctk", kind, "-ctv", kind,
            ]  # fmt: skip
            found.append(
                Case(
                    f"p100-{number}", False, surface["model"], 4, [str(flag) for flag in flags],
                    [_device(buffers, n) for n in range(4)], True, 9000, _whole(buffers),
                )
            )  # fmt: skip
            break
    return found


def _device(buffers: dict[str, Any], number: int) -> dict[str, float]:
    given = buffers.get(f"CUDA{number}") or buffers.get(f"Vulkan{number}") or {}
    cache = (given.get("KV") or 0) + (given.get("RS") or 0) or given.get("context") or 0
    parts = {"model": given.get("model"), "cache": cache, "compute": given.get("compute")}
    return {name: float(value) for name, value in parts.items() if value}


def _whole(buffers: dict[str, Any]) -> dict[str, float]:
    """Cache and compute summed over all buffers; empty where the log lacks the host's.

    Not the weights: the host's line shows the extent of the mapped file, holes included.
    """
    hosts = [name for name in buffers if name.startswith("CPU") or name.endswith("_Host")]
    if not any((buffers[name] or {}).get("compute") for name in hosts):
        return {}
    names = {"KV": "cache", "RS": "cache", "context": "cache", "compute": "compute"}
    parts = {"cache": 0.0, "compute": 0.0}
    for given in buffers.values():
        for key, value in given.items():
            if key in names and value:
                parts[names[key]] += float(value)
    return parts


def _build(line: str, name: str) -> int:
    """The age of a log by the form of its cache line; a slash between sequences came in 2026."""
    return 9000 if "/" in line.split("seqs", maxsplit=1)[0] or name == "gt045" else 6000
