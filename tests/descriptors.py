"""Model descriptors of tests/fixtures/models: headers of real models without their weights."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf

FOLDER = Path(__file__).parent / "fixtures" / "models"
PER_LAYER = re.compile(r"blk\.\{([0-9,\-]+)\}\.(.+)")
ARRAYS = {
    "arr[i32]": GGUFValueType.INT32,
    "arr[bool]": GGUFValueType.BOOL,
    "arr[f32]": GGUFValueType.FLOAT32,
}
SCALARS = {
    "str": "add_string",
    "u32": "add_uint32",
    "i32": "add_int32",
    "u64": "add_uint64",
    "f32": "add_float32",
    "bool": "add_bool",
}


def names() -> list[str]:
    """Descriptors of GGUF models."""
    return sorted(p.stem for p in FOLDER.glob("*.json") if "gguf_metadata" in p.read_text())


@cache
def descriptor(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def layers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def tensors(data: dict[str, Any]) -> list[tuple[str, list[int], str]]:
    rows: list[tuple[str, list[int], str]] = []
    for name, shape, kind in data["tensors"]:
        match = PER_LAYER.fullmatch(name)
        if match:
            rows += [(f"blk.{layer}.{match[2]}", shape, kind) for layer in layers(match[1])]
        else:
            rows.append((name, shape, kind))
    return rows


def write_gguf(data: dict[str, Any], path: Path, tokens: int = 0, merges: int = 0) -> None:
    """Write a weightless file of the true size; the data region is a hole."""
    writer = gguf.GGUFWriter(path, data["arch"])
    for key, (kind, value) in data["gguf_metadata"].items():
        if key == "general.architecture":
            continue
        if kind in SCALARS:
            getattr(writer, SCALARS[kind])(key, value)
        else:
            writer.add_key_value(key, list(value), GGUFValueType.ARRAY, sub_type=ARRAYS[kind])
    if tokens:
        writer.add_token_list([f"token-{n}" for n in range(tokens)])
        writer.add_token_types([1] * tokens)
        writer.add_token_merges([f"a{n} b{n}" for n in range(merges)])
    add_tensors(writer, tensors(data), path)


def add_tensors(
    writer: gguf.GGUFWriter, rows: list[tuple[str, list[int], str]], path: Path
) -> None:
    """Write the tensor table and make the file as long as if the weights were in it."""
    total = 0
    for name, shape, kind in rows:
        quant = GGMLQuantizationType[kind]
        block, size = GGML_QUANT_SIZES[quant]
        count = int(np.prod(shape, dtype=np.int64)) // block * size
        row = tuple(reversed(shape))
        if kind == "F32":
            writer.add_tensor_info(name, row, np.dtype(np.float32), count)
        elif kind == "F16":
            writer.add_tensor_info(name, row, np.dtype(np.float16), count)
        else:
            row = gguf.quant_shape_to_byte_shape(row, quant)
            writer.add_tensor_info(name, row, np.dtype(np.uint8), count, quant)
        total += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("rb+") as file:
        header = file.seek(0, 2)
        file.truncate(-(-header // 32) * 32 + total)


def profile(name: str, folder: Path) -> ModelProfile:
    """The profile that the reader makes of the descriptor's file."""
    path = folder / f"{name}.gguf"
    if not path.exists():
        write_gguf(descriptor(name), path)
    return read_gguf(path)
