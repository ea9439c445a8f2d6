"""Measured bandwidths of hosts, kept on the controller with the fingerprint that they belong to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from infra_llm.readers.model_source import cache_folder


def _place(host: str) -> Path:
    # A host's name may hold anything; its hash is a file name.
    name = hashlib.sha256(host.encode()).hexdigest()[:16]
    return cache_folder() / "measured" / f"{name}.json"


def load_measured(host: str) -> dict[str, Any]:
    """Figures of an earlier run in the form that ProbeOptions.measured takes, {} for none."""
    try:
        data = json.loads(_place(host).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def keep_measured(host: str, figures: dict[str, Any]) -> None:
    """Keep them for the plans and probes to come."""
    path = _place(host)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures))
