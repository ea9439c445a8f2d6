"""Reads the GPU table that ships with the package."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from infra_llm.core.gpu_table import GpuTable


@cache
def load_gpu_table() -> GpuTable:
    """The table of data/gpus.json."""
    text = (resources.files("infra_llm") / "data" / "gpus.json").read_text(encoding="utf-8")
    return GpuTable.from_data(json.loads(text))
