"""What llama-quantize makes of a model in 16 bits: which tensor gets which type. Pure.

The types are those that need no importance matrix and are worth having without one. The rules are
facts of llama.cpp's src/llama-quant.cpp (llama-cpp-python 0.3.36), checked in the tests against
the tensor tables of published files; where a release decides otherwise, the record of the real run
corrects the prediction (`differing`), so that a plan after it is exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from infra_llm.core.catalogue import Artifact, model_files
from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile, Tensor, group_tensors

TYPES = {
    "Q4_0": "Q4_0",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "Q8_0": "Q8_0",
}
"""What may be wished -> ggml's type of most tensors."""
BLOCKS = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20),
    "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}  # fmt: skip
"""Elements and bytes of a block (ggml-common.h)."""
ALIGNMENT = 32
ENGINE = "llama.cpp"
"""The one whose releases have llama-quantize."""
UNQUANTIZED = ("F32", "F16", "BF16")
_INSTEAD = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""For rows that are no multiple of 256; F16 where they are none of 32 either."""
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "attn_rel_b.weight",
)  # fmt: skip
"""Parts of names of tensors that stay as they are."""
_VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
_EXPERTS = 8
"""Models of just so many experts (Mixtral) get more bits in their attention."""
_LAYERS_70B = 80


def with_quantization(
    model: Artifact,
    wishes: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    read: Callable[[Artifact], ModelProfile],
) -> Artifact:
    """The model with what is to be made of it, as infra_llm_quantize wishes.

    "quantize" holds type, filename, source (the file to start from), size (bytes, by the tensor
    table), and what a run found: sha256 of the result, differing (core/quantize.py). What the
    host's `state` knows of the same result is taken over.

    Raises BadInputError for a model that can't be quantized.
    """
    quant = wishes["infra_llm_quantize"]
    if not quant:
        return model
    if wishes["infra_llm_engine"] != ENGINE:
        raise BadInputError(
            f"{wishes['infra_llm_engine']} has no llama-quantize",
            where="infra_llm_quantize",
            hint=f"set infra_llm_engine: {ENGINE}, or leave infra_llm_quantize empty",
        )
    before = ((state or {}).get("desired") or {}).get("model") or {}
    known = before.get("quantize") or {}
    if before.get("sha256") == model["sha256"] and known.get("type") == quant:
        return {**model, "quantize": dict(known)}
    first = min(str(file["filename"]) for file in model_files(model))
    source = f"{model['filename']}/{first}" if model.get("files") else first
    wish = {"type": quant, "filename": quantized_name(model["filename"], quant), "source": source}
    return {**model, "quantize": {**wish, **_found(read(model), quant, {}, "")}}


def _found(
    profile: ModelProfile, quant: str, differing: Mapping[str, str], sha256: str
) -> dict[str, Any]:
    made = quantized(profile, {"type": quant, "differing": differing})
    return {"size": made.file_bytes, "sha256": sha256, "differing": dict(differing)}


def after_quantization(
    model: Artifact, result: Mapping[str, Any], read: Callable[[Artifact], ModelProfile]
) -> Artifact:
    """The model with what the module quantized_model found in the result.

    Raises BadInputError where the result is not of this model.
    """
    wish = model["quantize"]
    profile = read({key: value for key, value in model.items() if key != "quantize"})
    differing = differing_types(profile, wish["type"], result["types"])
    found = _found(profile, wish["type"], differing, str(result["sha256"]))
    return {**model, "quantize": {**wish, **found}}


def quantized_name(filename: str, quant: str) -> str:
    """The name of the result: model-F16.gguf becomes model-F16.Q4_K_M.gguf."""
    return f"{filename.removesuffix('.gguf')}.{quant}.gguf"


def quantized(profile: ModelProfile, wish: Mapping[str, Any]) -> ModelProfile:
    """The profile of what llama-quantize makes of a model.

    Parameters
    ----------
    profile: the model in 16 or 32 bits.
    wish: {"type": a key of TYPES} and, from a run that was, "differing": {tensor: ggml's type}.

    Raises BadInputError for a model that is no GGUF file, or is quantized already.

    """
    quant = str(wish["type"])
    _check(profile)
    differing = wish.get("differing") or {}
    made = predicted_types(profile, quant)
    rows = []
    for tensor in profile.all_tensors:
        kind = str(differing.get(tensor.name, made[tensor.name]))
        size = tensor.bytes if kind == tensor.type else _bytes(tensor, kind)
        rows.append((tensor.name, tensor.shape, kind, size))
    data = sum(-(-size // ALIGNMENT) * ALIGNMENT for *_, size in rows)
    return replace(
        profile,
        quant=quant,
        sha256=None,
        parts=1,
        file_bytes=profile.header_bytes + data,
        tensors=group_tensors(rows),
    )


def differing_types(profile: ModelProfile, quant: str, types: Mapping[str, str]) -> dict[str, str]:
    """The tensors that a run made otherwise than predicted; `types` are those of its result.

    Raises BadInputError where the result has other tensors than the model.
    """
    made = predicted_types(profile, quant)
    if set(types) != set(made):
        strange = sorted(set(types) ^ set(made))
        raise BadInputError(
            f"llama-quantize's result has other tensors than the model ({strange[0]} ...)",
            where=profile.name,
            hint="remove the result on the host and run again",
        )
    return {name: kind for name, kind in types.items() if made[name] != kind}


def predicted_types(profile: ModelProfile, quant: str) -> dict[str, str]:
    """Tensor name -> ggml's type."""
    values = [t.name for t in _in_order(profile) if _is_value(t.name)]
    downs = [t.name for t in _in_order(profile) if "ffn_down" in t.name]
    tied = not any(tensor.name == "output.weight" for tensor in profile.all_tensors)
    rules = _Rules(profile, quant, tied, values, downs)
    return {tensor.name: rules.type_of(tensor) for tensor in profile.all_tensors}


class _Rules:
    def __init__(
        self, profile: ModelProfile, quant: str, tied: bool, values: list[str], downs: list[str]
    ) -> None:
        self.quant, self.base, self.tied = quant, TYPES[quant], tied
        self.values = {name: number for number, name in enumerate(values)}
        self.downs = {name: number for number, name in enumerate(downs)}
        self.experts = int(profile.hyper.get("expert_count") or 0)
        self.layers = int(profile.hyper.get("block_count") or 0)
        self.is_70b = self.layers == _LAYERS_70B and _shares_heads(profile)

    def type_of(self, tensor: Tensor) -> str:
        if not _is_quantized(tensor):
            return tensor.type
        kind = self._wished(tensor)
        block = BLOCKS[kind][0]
        if tensor.shape[0] % block:
            kind = _INSTEAD.get(kind, "F16")
        return "F16" if tensor.shape[0] % BLOCKS[kind][0] else kind

    def _wished(self, tensor: Tensor) -> str:
        name = tensor.name
        embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if name == "output.weight" or (self.tied and embedding):
            odd = tensor.shape[0] % BLOCKS[self.base][0] != 0
            return "Q8_0" if odd or self.base == "Q8_0" else "Q6_K"
        if embedding:
            return self.base
        if name in self.values:
            return self._value(self.values[name])
        if "attn_k.weight" in name and self.experts == _EXPERTS:
            return "Q8_0"
        if name in self.downs:
            return self._down(self._layer(tensor))
        if "attn_output.weight" in name and self.experts == _EXPERTS:
            return "Q5_K" if self.quant in ("Q4_K_S", "Q4_K_M") else self.base
        return self.base

    def _value(self, number: int) -> str:
        if self.experts == _EXPERTS:
            return "Q8_0"
        kind = self.base
        if self.quant in ("Q4_K_M", "Q5_K_M") and _gets_more(number, len(self.values)):
            kind = "Q6_K"
        elif self.quant == "Q4_K_S" and number < 4:
            kind = "Q5_K"
        return "Q5_K" if self.is_70b and kind == "Q4_K" else kind

    def _layer(self, tensor: Tensor) -> int:
        """Experts go by the layer in their name, dense models by the order of their tensors."""
        if self.experts > 1 and tensor.layer is not None:
            return tensor.layer
        return self.downs[tensor.name]

    def _down(self, layer: int) -> str:
        if self.quant in ("Q4_K_M", "Q5_K_M") and _gets_more(layer, self.layers):
            return "Q6_K"
        if self.quant == "Q4_K_S" and layer < self.layers // 8:
            return "Q5_K"
        return self.base


def _gets_more(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third layer between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _check(profile: ModelProfile) -> None:
    if profile.format != "gguf":
        raise BadInputError(
            "only a GGUF file can be quantized",
            where="infra_llm_quantize",
            hint="wish a model in GGUF, or leave infra_llm_quantize empty",
        )
    kinds = {tensor.type for tensor in profile.all_tensors}
    already = sorted(kinds - set(UNQUANTIZED))
    if already:
        raise BadInputError(
            f"the model is quantized already ({', '.join(already)}); again would cost quality",
            where="infra_llm_quantize",
            hint="give the model in F16 or BF16, or leave infra_llm_quantize empty",
        )


def _is_quantized(tensor: Tensor) -> bool:
    return (
        _dimensions(tensor.shape) >= 2
        and tensor.name.endswith("weight")
        and not any(part in tensor.name for part in _KEPT)
    )


def _dimensions(shape: tuple[int, ...]) -> int:
    """As ggml counts: dimensions of size 1 at the end are none."""
    return max((n + 1 for n, dim in enumerate(shape) if dim > 1), default=1)


def _is_value(name: str) -> bool:
    return any(part in name for part in _VALUES)


def _shares_heads(profile: ModelProfile) -> bool:
    """Told from Llama 65B, which has as many layers."""
    heads = profile.hyper.get("attention.head_count")
    return heads != profile.hyper.get("attention.head_count_kv", heads)


def _in_order(profile: ModelProfile) -> Iterator[Tensor]:
    """By layer, as llama.cpp goes through them."""
    return iter(sorted(profile.all_tensors, key=_place))


def _place(tensor: Tensor) -> tuple[int, str]:
    found = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(found[1]) if found else -1, tensor.name)


def _bytes(tensor: Tensor, kind: str) -> int:
    elements = 1
    for dim in tensor.shape:
        elements *= dim
    if kind not in BLOCKS:
        raise BadInputError(f"unknown type {kind}", where=tensor.name)
    block, size = BLOCKS[kind]
    return elements // block * size
