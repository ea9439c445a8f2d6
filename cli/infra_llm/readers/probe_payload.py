"""What the controller gives to a probe and adds to its answer: pynvml, and the GPU table.

Both action plugins (hardware_facts and audit) use these two functions.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import inspect
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.gpu_table import complete
from infra_llm.core.hardware import HostHardware
from infra_llm.readers.gpu_table import load_gpu_table
from infra_llm.target.probe import nvml

PREFIX = "zlib+base64:"


@cache
def pynvml_payload() -> str:
    """What the probe needs of pynvml.py, as "zlib+base64:..." (about 33 kB).

    From the installed distribution nvidia-ml-py; "" where it is not installed: the target then
    reads nvidia-smi. Made once a process, so that many hosts share one string.
    """
    spec = importlib.util.find_spec("pynvml")
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return ""
    source = Path(spec.origin).read_text(encoding="utf-8")
    asked = set(re.findall(r"\bnvml[A-Z]\w+", inspect.getsource(nvml)))
    packed = zlib.compress(without_unused(source, asked).encode("utf-8"), 9)
    return PREFIX + base64.b64encode(packed).decode("ascii")


def without_unused(source: str, asked: set[str]) -> str:
    """pynvml without the nvml functions that nothing asked for needs, and without docstrings.

    Compiling the whole file takes a target longer than everything else that the probe does.
    Constants, classes and helpers stay as they are.
    """
    tree = ast.parse(source)
    functions = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("nvml")
    }
    due = [name for name in asked if name in functions]
    for node in tree.body:
        if node not in functions.values():
            due += _called(node, functions)
    kept: set[str] = set()
    while due:
        name = due.pop()
        if name not in kept:
            kept.add(name)
            due += _called(functions[name], functions)
    dropped = {id(node) for name, node in functions.items() if name not in kept}
    tree.body = [node for node in tree.body if id(node) not in dropped]
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
            part.body = part.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _called(node: ast.AST, functions: dict[str, ast.FunctionDef]) -> list[str]:
    names = (part.id for part in ast.walk(node) if isinstance(part, ast.Name))
    return [name for name in names if name in functions]


def complete_hardware(hardware: dict[str, Any]) -> dict[str, Any]:
    """The probe's document with each GPU completed from the GPU table, by its PCI id."""
    host = from_dict(HostHardware, hardware)
    complete(host, load_gpu_table())
    return host.to_dict()
