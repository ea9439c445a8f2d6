"""ModelProfile: what a model file says about itself, exactly and compactly.

Pure. Sizes are bytes; `infra_llm.readers` makes profiles, the planner and the state file read them.
Tensors that differ only in their layer stand in one group, so that the profile of a 100-layer model
takes a few KiB and still names every tensor with its exact shape, type and bytes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

SCHEMA = "infra-llm/model-profile/1"
LAYER_NAME = re.compile(r"^(blk)\.(\d+)\.(.+)$")


def layer_ranges(layers: Iterable[int]) -> str:
    """Write layer numbers as ranges: [0, 1, 2, 5] gives "0-2,5"."""
    parts: list[str] = []
    first = last = -1
    for layer in sorted(layers):
        if parts and layer == last + 1:
            last = layer
            parts[-1] = f"{first}-{last}"
        else:
            first = last = layer
            parts.append(str(layer))
    return ",".join(parts)


def parse_layer_ranges(text: str) -> list[int]:
    """Read what `layer_ranges` wrote."""
    layers: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        layers.extend(range(int(first), int(last or first) + 1))
    return layers


@dataclass(frozen=True)
class TensorGroup:
    """Tensors of one name, shape and type over some layers (or one tensor outside the layers)."""

    name: str
    """The tensor's name; "blk.*.attn_q.weight" stands for one tensor of every layer in `layers`."""
    shape: tuple[int, ...]
    """ggml order: the row length comes first."""
    type: str
    """ggml's name of the type: F32, BF16, Q4_K ..."""
    bytes: int
    """Of one tensor."""
    layers: str = ""
    """Ranges like "0-3,5"; empty for a tensor outside the layers."""

    def members(self) -> Iterator[tuple[int | None, str]]:
        """Every (layer, full tensor name) of the group; the layer is None outside the layers."""
        if not self.layers:
            yield None, self.name
            return
        for layer in parse_layer_ranges(self.layers):
            yield layer, self.name.replace("*", str(layer), 1)


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header lists it."""

    name: str
    shape: tuple[int, ...]
    type: str
    bytes: int
    layer: int | None = None
    role: str = ""
    """The name without "blk.N.", e.g. "attn_q.weight"."""


@dataclass(frozen=True)
class ModelProfile:
    """A model's header: architecture, hyper-parameters and tensors, with no weights."""

    architecture: str
    name: str = ""
    format: str = "gguf"
    """gguf or safetensors."""
    quant: str = ""
    """The file's own label, e.g. Q4_K_M; sizes never come from it."""
    parameters: int = 0
    file_bytes: int = 0
    """Of all parts together."""
    header_bytes: int = 0
    sha256: str | None = None
    context_length: int = 0
    """Tokens the model was trained for; 0 where the header does not say."""
    vocab_size: int = 0
    hyper: dict[str, Any] = field(default_factory=dict)
    """The architecture's keys of the header without their prefix ("attention.head_count"), or the
    keys of config.json."""
    tensors: tuple[TensorGroup, ...] = ()
    parts: int = 1
    tokenizer_merges: int = 0
    """Merge rules of the tokenizer; the engine keeps them in RAM."""
    projector: ModelProfile | None = None
    """An image or audio encoder (mmproj) that is loaded beside the model."""
    draft: ModelProfile | None = None
    """A small model that drafts for this one (speculative decoding), loaded beside it."""
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def pooling(self) -> str:
        """How an embedding model makes one vector of a text (mean, cls, last), or rank for one that
        scores pairs; "" for a model that writes text.

        The key POOLING_TYPE of the header (gguf's constants, PoolingType).
        """
        kind = self.hyper.get("pooling_type") if self.format == "gguf" else None
        kinds = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
        return kinds.get(kind, "") if isinstance(kind, int) else ""

    @cached_property
    def all_tensors(self) -> tuple[Tensor, ...]:
        """Every tensor by its full name."""
        return tuple(
            Tensor(
                name,
                group.shape,
                group.type,
                group.bytes,
                layer,
                group.name[6:] if layer is not None else name,
            )
            for group in self.tensors
            for layer, name in group.members()
        )

    @cached_property
    def by_layer(self) -> dict[tuple[int | None, str], Tensor]:
        """Every tensor by its layer and role ("attn_q.weight")."""
        return {(tensor.layer, tensor.role): tensor for tensor in self.all_tensors}

    @cached_property
    def layer_tensors(self) -> dict[int, list[Tensor]]:
        """Tensors of each layer."""
        layers: dict[int, list[Tensor]] = {}
        for tensor in self.all_tensors:
            if tensor.layer is not None:
                layers.setdefault(tensor.layer, []).append(tensor)
        return layers

    @property
    def tensor_bytes(self) -> int:
        """Sum of all tensors."""
        return sum(tensor.bytes for tensor in self.all_tensors)


def group_tensors(
    tensors: Iterable[tuple[str, tuple[int, ...], str, int]],
) -> tuple[TensorGroup, ...]:
    """Fold (name, shape, type, bytes) rows into groups, in the order of first appearance."""
    groups: dict[tuple[str, tuple[int, ...], str, int], list[int]] = {}
    for name, shape, type_name, size in tensors:
        match = LAYER_NAME.match(name)
        if match:
            key = (f"{match[1]}.*.{match[3]}", shape, type_name, size)
            groups.setdefault(key, []).append(int(match[2]))
        else:
            groups.setdefault((name, shape, type_name, size), [])
    return tuple(
        TensorGroup(name, shape, type_name, size, layer_ranges(layers))
        for (name, shape, type_name, size), layers in groups.items()
    )
