"""Where llama.cpp puts each tensor, and the exact bytes on each device.

Sources: `llama_model_base::load_tensors` and `get_layer_buft_list` in src/llama-model.cpp, the
tensor override rules of src/llama-model-loader.cpp, `ggml_backend_cuda_buffer_type_get_alloc_size`
in ggml/src/ggml-cuda/ggml-cuda.cu (build 11434).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.hyper import ENCODERS, Hyper
from infra_llm.core.model import ModelProfile, Tensor

HOST = -1
CUDA_ROW_PADDING = 512
"""MATRIX_ROW_PADDING: quantized rows are padded to a multiple of it."""
_INPUT_TENSORS = """token_embd.weight token_embd_norm.weight token_embd_norm.bias token_types.weight
    position_embd.weight per_layer_token_embd.weight"""
INPUT_TENSORS = frozenset(_INPUT_TENSORS.split())
"""LLM_TENSOR_LAYER_INPUT of src/llama-arch.cpp: always on the host."""
EXPERT_ROLE = re.compile(r"ffn_(up|down|gate|gate_up)_(ch|)exps")
"""The tensors of --cpu-moe and --n-cpu-moe (common/common.h)."""
QUANTIZED = re.compile(r"^(I?Q\d|TQ|MXFP|NVFP)")


@dataclass(frozen=True)
class Placement:
    """Device of every layer, of the output and of the tensors that an override names."""

    layer_device: tuple[int, ...]
    """HOST or the index of the GPU, one entry a layer."""
    output_device: int
    overrides: tuple[tuple[str, int], ...] = ()
    """(regular expression on the tensor name, device), the first match wins (-ot)."""
    expert_hosts: frozenset[int] = frozenset()
    """Layers whose experts stay on the host (--n-cpu-moe)."""

    def device_of(self, tensor: Tensor) -> int:
        for pattern, device in self.overrides:
            if re.search(pattern, tensor.name):
                return device
        if tensor.name in INPUT_TENSORS:
            return HOST
        if tensor.layer in self.expert_hosts and EXPERT_ROLE.search(tensor.role):
            return HOST
        if tensor.layer is None or tensor.layer >= len(self.layer_device):
            return self.output_device
        return self.layer_device[tensor.layer]


def place_layers(hyper: Hyper, gpu_layers: int, splits: Sequence[float]) -> Placement:
    """Assign layers to GPUs as the engine does for -ngl and -ts.

    `gpu_layers` counts the output layer; `splits` has one share a GPU (none without GPUs).
    """
    total = hyper.layers_all
    count = min(max(gpu_layers, 0), total + 1) if splits else 0
    first = max(total + 1 - gpu_layers, 0)
    share = sum(splits)
    if count and share <= 0:
        raise BadInputError("the tensor split adds up to 0", hint="give each GPU a positive share")
    bounds, running = [], 0.0
    for value in splits:
        running += value
        bounds.append(running / share if share else 0.0)

    def device(layer: int) -> int:
        if layer < first or layer - first >= count:
            return HOST
        place = (layer - first) / count
        return next((i for i, bound in enumerate(bounds) if bound > place), len(bounds) - 1)

    return Placement(tuple(device(layer) for layer in range(total)), device(total))


def tensor_bytes(tensor: Tensor, cuda: bool) -> int:
    """Bytes the tensor takes in a buffer; CUDA pads the last row of quantized tensors."""
    if not cuda or not QUANTIZED.match(tensor.type) or not tensor.shape:
        return tensor.bytes
    rest = tensor.shape[0] % CUDA_ROW_PADDING
    if not rest:
        return tensor.bytes
    elements = 1
    for dim in tensor.shape:
        elements *= dim
    return tensor.bytes + (CUDA_ROW_PADDING - rest) * tensor.bytes // elements


def tied_output(model: ModelProfile) -> Tensor | None:
    """The token embedding where it also serves as the output matrix."""
    if model.architecture in ENCODERS:
        return None
    names = {tensor.name: tensor for tensor in model.all_tensors}
    return None if "output.weight" in names else names.get("token_embd.weight")


def skipped(tensor: Tensor, hyper: Hyper) -> bool:
    """Layers of multi-token prediction are not loaded without speculation by them (load_mtp)."""
    return not hyper.loads_mtp and drafts(tensor, hyper)


def drafts(tensor: Tensor, hyper: Hyper) -> bool:
    """Whether the tensor belongs to a layer of multi-token prediction."""
    return tensor.layer is not None and tensor.layer >= hyper.layers
