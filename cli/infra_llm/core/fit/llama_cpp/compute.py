"""Compute buffers: the engine's worst-case graph, laid out by the engine's own rules.

The graph of a few layers is enough, since layers of one kind repeat: on each device stand the first
layers of each kind and the last.
"""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.builder import PINNED, Builder, Release
from infra_llm.core.fit.llama_cpp.cache import CacheOptions
from infra_llm.core.fit.llama_cpp.encoder import build_encoder
from infra_llm.core.fit.llama_cpp.graphs import build
from infra_llm.core.fit.llama_cpp.hyper import ENCODERS, Hyper
from infra_llm.core.fit.llama_cpp.scheduler import Backend, buffer_peaks
from infra_llm.core.fit.llama_cpp.tensors import graph_of
from infra_llm.core.fit.llama_cpp.weights import HOST, Placement
from infra_llm.core.model import ModelProfile

PERIODS = 2
"""Repetitions of a device's pattern that are kept: the second meets the first's leftovers."""
LEAST = 3
"""Layers that are kept at least."""


def compute_bytes(
    model: ModelProfile,
    hyper: Hyper,
    placement: Placement,
    options: CacheOptions,
    backend: Backend,
    release: Release = PINNED,
    *,
    whole: bool = False,
) -> list[int]:
    """Bytes of the compute buffer of each GPU, the host last; `whole` keeps every layer.

    Raises BadInputError for a model whose tensors and keys make no graph of its architecture.
    """
    layers = list(range(hyper.layers))
    if not whole:
        layers = representative_layers(model, hyper, placement)
    builder = Builder(model, hyper, placement, options, backend, release)
    with graph_of(hyper.architecture, model.name):
        (build_encoder if hyper.architecture in ENCODERS else build)(builder, layers)
    return buffer_peaks(builder.graph, backend)


def representative_layers(model: ModelProfile, hyper: Hyper, placement: Placement) -> list[int]:
    """The layers whose graph has the same peak as all of them.

    On each device: the first repetitions of its pattern and the last one, in step with the pattern.
    """
    runs: list[list[int]] = []
    for layer in range(hyper.layers):
        device = placement.layer_device[layer]
        if runs and placement.layer_device[runs[-1][-1]] == device:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    kept: list[int] = []
    for run in runs:
        kinds = [layer_kind(model, hyper, placement, layer) for layer in run]
        kept.extend(run[place] for place in folded(kinds))
    return kept


def folded(kinds: list[tuple[object, ...]]) -> list[int]:
    """Places that stand for a sequence of kinds: what does not repeat stays whole."""
    places = list(range(len(kinds)))
    for period in range(1, len(kinds) // (PERIODS + 1) + 1):
        start = 0
        while start + period * (PERIODS + 1) <= len(places):
            head = [kinds[places[start + n]] for n in range(period)]
            end = start
            while end < len(places) and kinds[places[end]] == head[(end - start) % period]:
                end += 1
            length = end - start
            keep = max(PERIODS * period, -(-LEAST // period) * period)
            if length - length % period > keep:
                del places[start + keep : start + length - length % period]
                start += keep + length % period
            else:
                start = max(start + 1, end)
    return first_pairs(places, kinds)


def first_pairs(places: list[int], kinds: list[tuple[object, ...]]) -> list[int]:
    """Leave out a layer whose neighbours have met its kind before: the leftovers are the same."""
    kept: list[int] = []
    seen: dict[tuple[object, object], int] = {}
    for n, place in enumerate(places):
        before = kinds[kept[-1]] if kept else None
        pair = (before, kinds[place])
        following = kinds[places[n + 1]] if n + 1 < len(places) else None
        bridge = (before, following)
        known = seen.get(pair, 0) >= PERIODS and seen.get(bridge, 0) > 0
        if n and following is not None and known:
            continue
        seen[pair] = seen.get(pair, 0) + 1
        kept.append(place)
    return kept


def layer_kind(
    model: ModelProfile, hyper: Hyper, placement: Placement, layer: int
) -> tuple[object, ...]:
    """What makes two layers the same to the allocator: roles, shapes, and weights to be fetched."""
    tensors = model.layer_tensors.get(layer, ())
    shapes = tuple((tensor.role, tensor.shape) for tensor in tensors)
    device = placement.layer_device[layer]
    moved = tuple(
        (tensor.role, tensor.bytes)
        for tensor in tensors
        if (device == HOST or placement.overrides or layer in placement.expert_hosts)
        and placement.device_of(tensor) == HOST
    )
    return (hyper.windowed[layer], hyper.recurrent[layer], hyper.caches[layer], shapes, moved)
