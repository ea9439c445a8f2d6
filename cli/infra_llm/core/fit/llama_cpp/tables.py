"""Sums over a model's tensors, made once a model, so that a search can try many placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra_llm.core.fit.llama_cpp.hyper import Hyper
from infra_llm.core.fit.llama_cpp.weights import (
    EXPERT_ROLE,
    HOST,
    INPUT_TENSORS,
    Placement,
    drafts,
    skipped,
    tensor_bytes,
    tied_output,
)
from infra_llm.core.model import ModelProfile, Tensor


@dataclass(frozen=True)
class LayerSums:
    """Bytes of one layer; the output and all else outside the layers is a layer of its own."""

    plain: int = 0
    """On the host, experts left out."""
    plain_gpu: int = 0
    """On CUDA, where rows are padded."""
    experts: int = 0
    experts_gpu: int = 0
    active: int = 0
    """Read for one token, experts left out."""
    active_experts: int = 0


@dataclass(frozen=True)
class Table:
    """The layers' sums, the output behind them, and the tensors that stay on the host."""

    layers: tuple[LayerSums, ...]
    inputs: int
    tied: int
    tied_gpu: int
    active_parameters: float


def active_bytes(tensor: Tensor, hyper: Hyper) -> int:
    """Bytes of a tensor that one token reads: of experts only those that are used."""
    if hyper.experts and EXPERT_ROLE.search(tensor.role):
        return tensor.bytes * hyper.experts_used // hyper.experts
    return tensor.bytes


def table_of(model: ModelProfile, hyper: Hyper) -> Table:
    """The table of a model, from the cache if it was made before."""
    name = "_table_mtp" if hyper.loads_mtp else "_table"
    known = model.__dict__.get(name)
    if isinstance(known, Table):
        return known
    made = _make(model, hyper)
    model.__dict__[name] = made
    return made


def _make(model: ModelProfile, hyper: Hyper) -> Table:
    sums = [[0] * 6 for _ in range(hyper.layers_all + 1)]
    inputs, parameters = 0, 0.0
    for tensor in model.all_tensors:
        if skipped(tensor, hyper):
            continue
        if tensor.name in INPUT_TENSORS:
            inputs += tensor.bytes
            continue
        expert = bool(EXPERT_ROLE.search(tensor.role))
        row = sums[hyper.layers_all if tensor.layer is None else tensor.layer]
        at = 2 if expert else 0
        row[at] += tensor.bytes
        row[at + 1] += tensor_bytes(tensor, cuda=True)
        if drafts(tensor, hyper):
            continue  # speed is given without speculation
        row[5 if expert else 4] += active_bytes(tensor, hyper)
        share = hyper.experts_used / hyper.experts if expert and hyper.experts else 1.0
        parameters += _elements(tensor) * share
    tied = tied_output(model)
    return Table(
        layers=tuple(LayerSums(*row) for row in sums),
        inputs=inputs,
        tied=tied.bytes if tied else 0,
        tied_gpu=tensor_bytes(tied, cuda=True) if tied else 0,
        active_parameters=max(1.0, parameters + (_elements(tied) if tied else 0)),
    )


def _elements(tensor: Tensor) -> int:
    count = 1
    for dim in tensor.shape:
        count *= dim
    return count


def weights_and_work(
    model: ModelProfile, hyper: Hyper, placement: Placement, devices: int, cuda: bool
) -> tuple[list[int], list[int]]:
    """Bytes of weights on each device and bytes read there for one token; the host last.

    A model without an output tensor uses the token embedding again: the engine loads it a second
    time where the output layer stands on a GPU.
    """
    if placement.overrides:
        return _slow(model, hyper, placement, devices, cuda)
    table = table_of(model, hyper)
    weights, work = [0] * (devices + 1), [0] * (devices + 1)
    weights[HOST] += table.inputs
    for layer, sums in enumerate(table.layers):
        last = layer == hyper.layers_all
        device = placement.output_device if last else placement.layer_device[layer]
        home = HOST if layer in placement.expert_hosts else device
        weights[device] += sums.plain_gpu if cuda and device != HOST else sums.plain
        weights[home] += sums.experts_gpu if cuda and home != HOST else sums.experts
        work[device] += sums.active
        work[home] += sums.active_experts
    if table.tied:
        device = placement.output_device
        work[device] += table.tied
        if device != HOST:
            weights[device] += table.tied_gpu if cuda else table.tied
    return weights, work


def _slow(
    model: ModelProfile, hyper: Hyper, placement: Placement, devices: int, cuda: bool
) -> tuple[list[int], list[int]]:
    """The same tensor by tensor, for overrides by name."""
    weights, work = [0] * (devices + 1), [0] * (devices + 1)
    for tensor in model.all_tensors:
        if skipped(tensor, hyper):
            continue
        device = placement.device_of(tensor)
        weights[device] += tensor_bytes(tensor, cuda and device != HOST)
        if tensor.name not in INPUT_TENSORS and not drafts(tensor, hyper):
            work[device] += active_bytes(tensor, hyper)
    tied = tied_output(model)
    if tied is not None:
        work[placement.output_device] += tied.bytes
        if placement.output_device != HOST:
            weights[placement.output_device] += tensor_bytes(tied, cuda)
    return weights, work


REPACKED = {
    "avx2": (frozenset(["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"]), 8),
    "avx512f": (frozenset(["Q2_K"]), 8),
    "i8mm": (frozenset(["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]), 8),
    "dotprod": (frozenset(["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL"]), 8),
}
"""Types that the processor's kernels want in another order, by instruction set
(`ggml_repack_get_optimal_repack_type` in ggml/src/ggml-cpu/repack.cpp): rows a multiple of 8."""


def repacked_bytes(model: ModelProfile, hyper: Hyper, instruction_sets: Sequence[str]) -> int:
    """Bytes of the copies that a server without a GPU makes beside the mapped file (CPU_REPACK)."""
    kinds = [REPACKED[name] for name in instruction_sets if name in REPACKED]
    if not kinds:
        return 0
    wanted = frozenset().union(*(types for types, _ in kinds))
    step = kinds[0][1]
    return sum(
        tensor.bytes
        for tensor in model.all_tensors
        if tensor.type in wanted
        and not skipped(tensor, hyper)
        and tensor.name not in INPUT_TENSORS
        and len(tensor.shape) > 1
        and tensor.shape[1] % step == 0
    )
