"""What verified runs taught the planner, kept on the controller for the plans of every host."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.calibration import Calibration, merge_all
from infra_llm.readers.model_source import cache_folder

SCHEMA = "infra-llm/calibrations/1"
"""Raised, too, when formulas change that the corrections stand on."""


def _place() -> Path:
    return cache_folder() / "calibrations.json"


def load_calibrations() -> dict[str, Calibration]:
    """All of them by key, {} where there are none or the file is damaged."""
    try:
        document: Any = json.loads(_place().read_text())
        if document["schema"] != SCHEMA:
            return {}
        return {
            key: from_dict(Calibration, data, key) for key, data in document["calibrations"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, BadInputError):
        return {}


def keep_calibrations(found: Mapping[str, Calibration]) -> None:
    """Add those of one run. Hosts are verified by processes side by side: one writes at a time."""
    if not found:
        return
    path = _place()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merged = merge_all(load_calibrations(), found)
        entries = {key: dataclasses.asdict(value) for key, value in sorted(merged.items())}
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump({"schema": SCHEMA, "calibrations": entries}, file, indent=1)
        Path(temporary).replace(path)
