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
FIRST_BYTES, MOST_HEADER = 256 << 10, 64 << 20
"""Of a file: what is read at first, since most headers are shorter, and the longest header."""
MOST_BYTES, MOST_DIMS = 1 << 50, 8
"""Of one tensor: no file is so large."""
MOST_NAME = 1000
"""Characters of a tensor's name."""
MOST_NUMBER = (1 << 31) - 1
"""Engines hold the numbers of config.json in 32 bits."""
INDEX = "model.safetensors.index.json"
AGAIN = "download the model again, all of its files"
Read = Callable[[str], "tuple[bytes, int | None] | None"]
"""Gives a file's bytes (of safetensors at least the header) and its size in bytes where that is
known, or None where there is no such file."""
Rows = list[tuple[str, tuple[int, ...], str, int]]


def read_folder(read: Read, place: str) -> ModelProfile:
    """Read config.json and the tensor table of every safetensors file that the index names.

    The tensors' names stay as they are, with "model.layers.N." written as "blk.N." so that layers
    fold. Raises BadInputError for a folder that lacks a file, and for a file that is cut or whose
    entries can't be meant.
    """
    config = _json(_bytes(read("config.json")), place, "config.json")
    listed = _bytes(read(INDEX))
    files = ["model.safetensors"] if listed is None else _indexed(listed, place)
    rows: Rows = []
    for name in files:
        found = read(name)
        if found is None:
            what = f"{INDEX} names {name}, which is missing" if listed else "no tensor table"
            hint = AGAIN if listed else "the folder needs model.safetensors or its index"
            raise BadInputError(what, where=place, hint=hint)
        rows.extend(_table(*found, f"{place}/{name}"))
    size = sum(row[3] for row in rows)
    if not size:
        raise BadInputError("its files hold no tensors", where=place, hint=AGAIN)
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    return ModelProfile(
        architecture=_architecture(config, place),
        name=_name(config) or place.rstrip("/").rsplit("/", 1)[-1],
        format="safetensors",
        quant=_quant(config, rows),
        parameters=sum(_count(row[1]) for row in rows),
        file_bytes=size,
        context_length=_number(text, "max_position_embeddings", place),
        vocab_size=_number(text, "vocab_size", place),
        hyper=config,
        tensors=group_tensors(rows),
        parts=len(files),
    )


def _bytes(found: tuple[bytes, int | None] | None) -> bytes | None:
    return found[0] if found else None


def _json(data: bytes | None, place: str, name: str) -> dict[str, Any]:
    if data is None:
        raise BadInputError(f"{name} is missing", where=place, hint="give a Hugging Face folder")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{name} is no JSON ({error})", where=place, hint=AGAIN) from error
    if not isinstance(document, dict):
        raise BadInputError(f"{name} is no object", where=place, hint=AGAIN)
    return document


def _indexed(index: bytes, place: str) -> list[str]:
    """The files that hold the tensors, as the index lists them: {"weight_map": {tensor: file}}."""
    found = _json(index, place, INDEX).get("weight_map")
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise BadInputError(f"{INDEX} maps no tensors to files", where=place, hint=AGAIN)
    return sorted(set(names))


def _is_plain(name: str) -> bool:
    """Whether a text names a safetensors file beside the index."""
    return name.endswith(".safetensors") and "/" not in name and name.isprintable()


def _name(config: dict[str, Any]) -> str:
    given = config.get("_name_or_path")
    return given if isinstance(given, str) else ""


def _architecture(config: dict[str, Any], place: str) -> str:
    names = config.get("architectures") or [config.get("model_type", "")]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInputError(
            f"config.json: architectures is {shown(names)}", where=place, hint="a list of names"
        )
    return str(names[0])


def _number(text: dict[str, Any], key: str, place: str) -> int:
    """A whole number of config.json; 0 where it is not given."""
    value = text.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_NUMBER:
        raise BadInputError(
            f"config.json: {key} is {shown(value)}", where=place, hint="a whole number from 0 on"
        )
    return value


def _table(data: bytes, size: int | None, place: str) -> Rows:
    """Rows of a safetensors header: 8 bytes of length, then JSON; `size` is the whole file's."""
    if len(data) < 8:
        raise BadInputError("no safetensors file", where=place, hint=AGAIN)
    (length,) = struct.unpack("<Q", data[:8])
    if length > MOST_HEADER or len(data) < 8 + length:
        raise BadInputError("the safetensors header is cut or too long", where=place, hint=AGAIN)
    header = _json(data[8 : 8 + length], place, "the header")
    rows, end = [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, kind, bounds = _entry(name, entry, place)
        end = max(end, bounds[1])
        rows.append((_layer_name(name), shape[::-1], kind, bounds[1] - bounds[0]))
    needed = 8 + length + end
    if size is not None and size < needed:
        raise BadInputError(f"truncated: {size} bytes of {needed}", where=place, hint=AGAIN)
    return rows


def _entry(name: str, entry: Any, place: str) -> tuple[tuple[int, ...], str, tuple[int, int]]:
    """Shape, type and place in the data of one tensor."""
    entry = entry if isinstance(entry, dict) else {}
    shape, kind, bounds = (entry.get(key) for key in ("shape", "dtype", "data_offsets"))
    fine = _are_whole(shape, MOST_DIMS) and _are_whole(bounds, 2) and len(bounds) == 2
    if not fine or not isinstance(kind, str) or len(name) > MOST_NAME:
        what = f"tensor {name[:MOST_NAME]} has an unreadable entry in the header"
        raise BadInputError(what, where=place, hint=AGAIN)
    if kind not in TYPE_BYTES:
        raise BadInputError(
            f"tensor {name} is of type {kind[:MOST_NAME]!r}",
            where=place,
            hint=f"known: {', '.join(TYPE_BYTES)}; choose another model, or upgrade infra-llm",
        )
    size, held = _count(tuple(shape)) * TYPE_BYTES[kind], bounds[1] - bounds[0]
    if held != size:
        what = f"tensor {name} takes {size} bytes by its shape, {held} by its place in the file"
        raise BadInputError(what, where=place, hint=AGAIN)
    return tuple(shape), kind, (bounds[0], bounds[1])


def _are_whole(items: Any, most: int) -> bool:
    """Whether it is a list of at most so many whole numbers, as sizes of a file are."""
    if not isinstance(items, list) or len(items) > most:
        return False
    return all(type(item) is int and 0 <= item <= MOST_BYTES for item in items)


def shown(value: Any) -> str:
    """A value of a document in a message; what holds others may be long, or deep."""
    return repr(value)[:80] if isinstance(value, str | int | float) else type(value).__name__


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
