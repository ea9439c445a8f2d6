"""What travels with a probe: the part of pynvml that it asks, and nothing that it lacks."""

from __future__ import annotations

import ast
import base64
import inspect
import re
import zlib

import pynvml
import pytest

from infra_llm.core.errors import BadInputError
from infra_llm.readers.probe_payload import (
    PREFIX,
    complete_hardware,
    pynvml_payload,
    without_unused,
)
from infra_llm.target.probe import nvml, probe


def source() -> str:
    packed = base64.b64decode(pynvml_payload()[len(PREFIX) :])
    return zlib.decompress(packed).decode()


def test_all_that_the_probe_asks_for_travels() -> None:
    module = nvml.load_pynvml(pynvml_payload())
    asked = {
        n for n in re.findall(r"\bnvml[A-Z]\w+", inspect.getsource(nvml)) if hasattr(pynvml, n)
    }
    assert len(asked) > 25
    assert [name for name in sorted(asked) if not hasattr(module, name)] == []
    for name in ("NVMLError", "NVML_ERROR_GPU_IS_LOST", "nvmlErrorString", "nvmlMemory_v2"):
        assert hasattr(module, name)
    assert not hasattr(module, "nvmlDeviceSetPowerManagementLimit"), "nothing that changes a card"


def test_it_is_small_and_python_3_8() -> None:
    assert len(pynvml_payload()) < 45_000
    ast.parse(source(), feature_version=(3, 8))


def test_helpers_of_kept_functions_are_kept() -> None:
    text = (
        "X = 1\ndef nvmlA():\n    '''doc'''\n    return nvmlB() + X\ndef nvmlB():\n    return 1\n"
        "def nvmlC():\n    return 2\ndef other():\n    return nvmlD()\ndef nvmlD():\n    return 4\n"
    )
    names: dict[str, object] = {}
    exec(without_unused(text, {"nvmlA", "nvmlUnknown"}), names)
    assert {n for n in names if n.startswith("nvml")} == {"nvmlA", "nvmlB", "nvmlD"}


def test_a_document_of_another_schema_is_refused() -> None:
    document = probe().to_dict()
    assert complete_hardware(document)["cpu"] == document["cpu"]
    with pytest.raises(BadInputError, match="schema"):
        complete_hardware({**document, "schema": "infra-llm/host-hardware/9"})
