"""What the controller gives to a probe and adds to its answer: pynvml, and the GPU table.

Both action plugins (hardware_facts and audit) use these two functions.
"""

from __future__ import annotations

import base64
import importlib.util
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.gpu_table import complete
from infra_llm.core.hardware import HostHardware
from infra_llm.readers.gpu_table import load_gpu_table

PREFIX = "zlib+base64:"


@cache
def pynvml_payload() -> str:
    """pynvml.py of the installed distribution nvidia-ml-py as "zlib+base64:..." (about 67 kB).

    "" where it is not installed: the target then reads nvidia-smi. Made once a process, so that
    many hosts share one string.
    """
    spec = importlib.util.find_spec("pynvml")
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    source = Path(spec.origin).read_bytes()
    return PREFIX + base64.b64encode(zlib.compress(source, 9)).decode("ascii")


def complete_hardware(hardware: dict[str, Any]) -> dict[str, Any]:
    """The probe's document with each GPU completed from the GPU table, by its PCI id."""
    host = from_dict(HostHardware, hardware)
    complete(host, load_gpu_table())
    return host.to_dict()
