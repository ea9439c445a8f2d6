"""A weightless GGUF out of a model's profile: the true header, the data region a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from gguf.constants import GGUFValueType

from infra_llm.core.model import ModelProfile
from tests.descriptors import add_tensors

FLAGS = ("attention.sliding_window_pattern", "attention.recurrent_layers")
"""Keys that the engine reads as booleans, one a layer."""


def write_header(model: ModelProfile, path: Path) -> None:
    """Write a file of the true size that readers and llama-fit-params accept."""
    writer = gguf.GGUFWriter(path, model.architecture)
    for key, value in model.hyper.items():
        _add(writer, f"{model.architecture}.{key}", key, value)
    writer.add_tokenizer_model("no_vocab")
    tensors = [(t.name, list(t.shape), t.type) for t in model.all_tensors]
    add_tensors(writer, tensors, path)


def _add(writer: gguf.GGUFWriter, name: str, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, int):
        (writer.add_int32 if value < 0 else writer.add_uint32)(name, value)
    elif value and isinstance(value[0], float):
        writer.add_key_value(name, value, GGUFValueType.ARRAY, sub_type=GGUFValueType.FLOAT32)
    elif value:
        kind = GGUFValueType.BOOL if key in FLAGS else GGUFValueType.INT32
        items = [bool(v) for v in value] if key in FLAGS else value
        writer.add_key_value(name, items, GGUFValueType.ARRAY, sub_type=kind)
