"""config.json and safetensors headers into a ModelProfile."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile, group_tensors

TYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4,
    "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U32": 4, "U16": 2,
}  # fmt: skip
MOST_HEADER = 64 << 20
INDEX = "model.safetensors.index.json"
Read = Callable[[str], "bytes | None"]
"""Gives a file's bytes (of safetensors at least the header) or None where there is none."""


def read_folder(read: Read, place: str) -> ModelProfile:
    """Read config.json and the tensor table of every safetensors file that the index names.

    The tensors' names stay as they are, with "model.layers.N." written as "blk.N." so that layers
    fold. Raises BadInputError.
    """
    config = _json(read("config.json"), place, "config.json")
    index = read(INDEX)
    files = ["model.safetensors"]
    total = 0
    if index is not None:
        listed = _json(index, place, INDEX)
        files = sorted(set(listed.get("weight_map", {}).values()))
        total = int((listed.get("metadata") or {}).get("total_size") or 0)
    rows: list[tuple[str, tuple[int, ...], str, int]] = []
    for name in files:
        data = read(name)
        if data is not None:
            rows.extend(_table(data, f"{place}/{name}"))
    if not rows and not total:
        raise BadInputError(
            "no tensor table", where=place, hint="the folder needs model.safetensors or its index"
        )
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    architectures = config.get("architectures") or [config.get("model_type", "")]
    size = sum(row[3] for row in rows) or total
    return ModelProfile(
        architecture=str(architectures[0]),
        name=str(config.get("_name_or_path") or place.rstrip("/").rsplit("/", 1)[-1]),
        format="safetensors",
        quant=_quant(config, rows),
        parameters=sum(_count(row[1]) for row in rows) or size // 2,
        file_bytes=size,
        context_length=int(text.get("max_position_embeddings") or 0),
        vocab_size=int(text.get("vocab_size") or 0),
        hyper=config,
        tensors=group_tensors(rows),
        parts=len(files),
    )


def _json(data: bytes | None, place: str, name: str) -> dict[str, Any]:
    if data is None:
        raise BadInputError(f"{name} is missing", where=place, hint="give a Hugging Face folder")
    try:
        document = json.loads(data)
    except ValueError as error:
        raise BadInputError(f"{name} is no JSON ({error})", where=place) from error
    if not isinstance(document, dict):
        raise BadInputError(f"{name} is no object", where=place)
    return document


def _table(data: bytes, place: str) -> list[tuple[str, tuple[int, ...], str, int]]:
    """Rows of a safetensors header: 8 bytes of length, then JSON."""
    if len(data) < 8:
        raise BadInputError("no safetensors file", where=place)
    (length,) = struct.unpack("<Q", data[:8])
    if length > MOST_HEADER or len(data) < 8 + length:
        raise BadInputError("the safetensors header is cut or too long", where=place)
    header = _json(data[8 : 8 + length], place, "the header")
    rows = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape = tuple(int(dim) for dim in entry["shape"])
            kind = str(entry["dtype"])
            size = _count(shape) * TYPE_BYTES[kind]
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"tensor {name}: unreadable entry", where=place) from error
        rows.append((_layer_name(name), shape[::-1], kind, size))
    return rows


def _layer_name(name: str) -> str:
    """Write "model.layers.3.x" as "blk.3.x"; other names stay."""
    for start in ("model.language_model.layers.", "language_model.model.layers.", "model.layers."):
        if name.startswith(start):
            return "blk." + name[len(start) :]
    return name


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total


def _quant(config: dict[str, Any], rows: list[tuple[str, tuple[int, ...], str, int]]) -> str:
    scheme = config.get("quantization_config")
    if isinstance(scheme, dict):
        return str(scheme.get("quant_method") or scheme.get("format") or "quantized")
    sizes: dict[str, int] = {}
    for _, _, kind, size in rows:
        sizes[kind] = sizes.get(kind, 0) + size
    return max(sizes, key=lambda kind: sizes[kind], default=str(config.get("torch_dtype") or ""))
