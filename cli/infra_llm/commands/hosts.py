"""Hardware that need not be at hand: a probe's JSON, or GPUs by name. Shared by fit and stack."""

from __future__ import annotations

import json
import re
from pathlib import Path

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.readers.gpu_table import load_gpu_table

GPU_COUNT = re.compile(r"^(?P<name>.+?)(?:x(?P<count>\d+))?$")
GIB = 1024
MOST_GPUS = 64
VENDOR_WORDS = {
    "amd": frozenset(["amd", "radeon", "instinct", "firepro", "vega", "rx", "mi"]),
    "intel": frozenset(["intel", "arc", "flex", "iris"]),
    "apple": frozenset(["apple"]),
}


def read_hardware(path: Path) -> HostHardware:
    """A HostHardware as `probe --json` writes it, alone or as the only one of a list.

    Raises BadInputError.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(error.strerror or str(error), where=str(path)) from error
    except ValueError as error:
        raise BadInputError(f"not JSON ({error})", where=str(path)) from error
    if isinstance(data, list):
        if len(data) != 1:
            raise BadInputError(f"{len(data)} hosts in the file, one is needed", where=str(path))
        data = data[0]
    return from_dict(HostHardware, data, str(path))


def vendor_named(name: str) -> str:
    """The vendor of a card that is in no table, by the words of its name."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    for vendor, marks in VENDOR_WORDS.items():
        if words & marks:
            return vendor
    return "nvidia"


def gpus_named(text: str, first: int, vram: float | None = None) -> list[Gpu]:
    """NAME or NAMExN as cards of the GPU table, numbered from `first`; `vram` in GiB.

    A card that is in no table is taken with its `vram`. Raises BadInputError.
    """
    match = GPU_COUNT.match(text.strip())
    count = int(match["count"] or 1) if match else 0
    if not match or not 1 <= count <= MOST_GPUS:
        raise BadInputError(f"--gpu {text!r} is not NAME or NAMExN")
    name = match["name"].strip().strip('"')
    size = round(vram * GIB) if vram is not None else None
    try:
        row = load_gpu_table().find_gpu(name, size)
    except BadInputError:
        if size is None:
            raise
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
