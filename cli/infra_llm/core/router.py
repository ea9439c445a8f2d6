"""Several models at one endpoint: llama-server's router, and the memory that they share. Pure.

The router starts a server of its own for each model and sends each request to the one that it
names (tools/server/README.md, "Using multiple models"). All of them stay in memory, so each is
planned for a share of the machine: together they never need more than there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import llama_server_arguments
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import DeviceMemory, LaunchPlan, Reason

ENGINE = "llama.cpp"
PRESET = "models.ini"
BASE_MIB = 1024
"""What a small model needs beside its weights, too: it counts in the share."""
PATHS = ("/v1/", "/health", "/metrics", "/tokenize", "/detokenize", "/apply-template", "/infill")
"""What others may ask the router for; /models loads and unloads."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MIB = 2**20
_SUMS = (
    "weights_mib", "kv_cache_mib", "compute_mib", "overhead_mib", "compute_correction_mib",
    "overhead_correction_mib", "untouched_mib", "total_mib", "low_mib", "high_mib", "capacity_mib",
)  # fmt: skip


def check_names(wishes: Mapping[str, Any]) -> list[str]:
    """The names of all models to serve, the first one first.

    Raises BadInputError for names that stand twice or that a preset can't hold, and for an engine
    without a router.
    """
    more = [str(name) for name in wishes["infra_llm_more_models"]]
    names = [str(wishes["infra_llm_model"]), *more]
    if not more:
        return names
    where = "infra_llm_more_models"
    if wishes["infra_llm_engine"] != ENGINE:
        raise BadInputError(
            f"{wishes['infra_llm_engine']} serves one model here",
            where=where,
            hint=f"set infra_llm_engine: {ENGINE}, or infra_llm_instance for a second service",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInputError(
            f"{', '.join(twice)} is named twice",
            where=where,
            hint="name those besides infra_llm_model, each once",
        )
    odd = [name for name in names if not _NAME.fullmatch(name)]
    if odd:
        raise BadInputError(
            f"the router can't have a model named {odd[0]!r}",
            where=where,
            hint="use letters, digits, dots, dashes and underscores",
        )
    return names


def shares(weights: Sequence[int]) -> list[float]:
    """The part of the memory that each model gets, by its weights (bytes)."""
    sizes = [weight / _MIB + BASE_MIB for weight in weights]
    return [size / sum(sizes) for size in sizes]


def share_of(hardware: HostHardware, part: float) -> HostHardware:
    """The machine with a part of its memory, of every GPU and of the RAM."""

    def scaled(value: int | None) -> int | None:
        return None if value is None else int(value * part)

    memory = replace(
        hardware.memory,
        total_mib=int(hardware.memory.total_mib * part),
        available_mib=int(hardware.memory.available_mib * part),
    )
    gpus = [
        replace(
            gpu,
            vram_total_mib=scaled(gpu.vram_total_mib),
            vram_free_mib=scaled(gpu.vram_free_mib),
            vram_reserved_mib=scaled(gpu.vram_reserved_mib),
        )
        for gpu in hardware.gpus
    ]
    return replace(hardware, memory=memory, gpus=gpus)


def say_share(plan: LaunchPlan, part: float, others: Sequence[str]) -> LaunchPlan:
    """The plan with the reason why it does not have the whole machine."""
    text = f"{part:.0%} of the memory, by its size: {', '.join(others)} stay in memory beside it"
    return replace(plan, why=[Reason(text, "header"), *plan.why])


def together(plans: Sequence[Mapping[str, Any]]) -> LaunchPlan:
    """The first plan with the memory of all of them: what the whole service may take."""
    read = [from_dict(LaunchPlan, dict(plan), "plan") for plan in plans]
    first = read[0]
    if len(read) == 1:
        return first
    names = list(dict.fromkeys(device.name for plan in read for device in plan.devices))
    devices = [
        _sum(name, [device for plan in read for device in plan.devices if device.name == name])
        for name in names
    ]
    return replace(first, host=_sum(first.host.name, [p.host for p in read]), devices=devices)


def _sum(name: str, rows: Sequence[DeviceMemory]) -> DeviceMemory:
    return DeviceMemory(name, **{key: sum(getattr(row, key) for row in rows) for key in _SUMS})


def preset(models: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """models.ini of (name, path, flags): every model is loaded when the router starts."""
    parts = ["version = 1\n"]
    for name, path, flags in models:
        lines = [f"[{name}]", f"model = {path}", "load-on-startup = true", *_options(flags)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _options(flags: Mapping[str, Any]) -> list[str]:
    """A preset takes the options of the command line, each once and with a value."""
    words = llama_server_arguments(flags)
    found: dict[str, str] = {}
    while words:
        key = words.pop(0).removeprefix("--")
        value = "true" if not words or words[0].startswith("--") else words.pop(0)
        # Tensors that are placed one by one come as several options; one list means the same.
        found[key] = f"{found[key]},{value}" if key in found else value
    return [f"{key} = {value}" for key, value in found.items()]
