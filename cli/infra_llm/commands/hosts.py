"""Hardware that need not be at hand: a probe's JSON, or GPUs by name. Shared by fit and stack."""

from __future__ import annotations

import re
from pathlib import Path

from infra_llm.core.codec import from_dict, parse_json
from infra_llm.core.errors import BadInputError
from infra_llm.core.gpu_table import GpuRow
from infra_llm.core.hardware import SCHEMA, Gpu, HostHardware
from infra_llm.core.hardware_check import check_hardware
from infra_llm.readers.gpu_table import load_gpu_table

COUNTED = re.compile(r"(?P<name>.+?)\s*x\s?(?P<count>\d{1,4})")
GIB = 1024
MOST_GPUS = 64
HOW_TO_PROBE = "make the file by infra-llm probe -i INVENTORY --limit HOST --json"
VENDOR_WORDS = {
    "amd": frozenset(["amd", "radeon", "instinct", "firepro", "vega", "rx", "mi"]),
    "intel": frozenset(["intel", "arc", "flex", "iris"]),
    "apple": frozenset(["apple"]),
}


def read_hardware(path: Path) -> HostHardware:
    """A HostHardware as `probe --json` writes it, alone or as the only one of a list.

    Raises BadInputError.
    """
    where = str(path)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(error.strerror or str(error), where=where, hint=HOW_TO_PROBE) from error
    except ValueError as error:
        raise BadInputError(f"not JSON ({error})", where=where, hint=HOW_TO_PROBE) from error
    if isinstance(data, list):
        if len(data) != 1:
            raise BadInputError(
                f"{len(data)} hosts in the file, one is needed",
                where=where,
                hint="probe one alone: infra-llm probe -i INVENTORY --limit HOST --json",
            )
        data = data[0]
    if isinstance(data, dict) and "error" in data:
        raise BadInputError(
            f"the probe of {data.get('name', 'the host')} failed: {data['error']}",
            where=where,
            hint=f"mend that, then {HOW_TO_PROBE}",
        )
    if isinstance(data, dict) and "schema" not in data:
        raise BadInputError(f"no document of schema {SCHEMA}", where=where, hint=HOW_TO_PROBE)
    try:
        hardware = from_dict(HostHardware, data, where)
    except BadInputError as error:
        error.hint = error.hint or HOW_TO_PROBE
        raise
    check_hardware(hardware, where)
    return hardware


def vendor_named(name: str) -> str:
    """The vendor of a card that is in no table, by the words of its name."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    for vendor, marks in VENDOR_WORDS.items():
        if words & marks:
            return vendor
    return "nvidia"


def _named(text: str, size: int | None) -> tuple[str, int, GpuRow | None]:
    """Name, count and row of a text; no row for a card that no table has and whose size is known.

    The x may be the name's own: "rtx3060" is one card, and "mi300x8" eight MI300X. Raises
    BadInputError.
    """
    match = COUNTED.fullmatch(text)
    readings = [(text, 1)]
    if match:
        name, count = match["name"], int(match["count"])
        readings += [(name, count), (f"{name}x", count)]
    failed: list[BadInputError] = []
    for reading, count in readings:
        try:
            return reading, count, load_gpu_table().find_gpu(reading.strip('"'), size)
        except BadInputError as error:
            failed.append(error)
    # No machine has hundreds of cards: a long number is part of a name that the table lacks.
    counted = match is not None and len(match["count"]) < 3
    if text and size is None:
        raise failed[counted]
    name, count = readings[counted]
    return name.strip('"'), count, None


def gpus_named(text: str, first: int, vram: float | None = None) -> list[Gpu]:
    """NAME or NAMExN as cards of the GPU table, numbered from `first`; `vram` in GiB.

    A card that is in no table is taken with its `vram`. Raises BadInputError.
    """
    size = round(vram * GIB) if vram is not None else None
    name, count, row = _named(text.strip(), size)
    if not name or not 1 <= count <= MOST_GPUS:
        raise BadInputError(
            f"--gpu {text!r} is not NAME or NAMExN",
            hint=f'as in --gpu "RTX 3090x2"; N is 1 to {MOST_GPUS}',
        )
    if row is None:
        vendor = vendor_named(name)
        return [
            Gpu(index=first + n, vendor=vendor, name=name, vram_total_mib=size)
            for n in range(count)
        ]
    return [
        Gpu(
            index=first + n,
            vendor=row.vendor,
            name=row.name,
            vram_total_mib=size or row.vram_mib,
            compute_capability=row.compute_capability,
            gfx_target=row.gfx_target,
            memory_bandwidth_gbs=row.memory_bandwidth_gbs,
            fp16_tflops=row.fp16_tflops,
            architecture=row.architecture,
            unified_memory=row.unified_memory,
        )
        for n in range(count)
    ]
