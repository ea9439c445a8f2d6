"""Memory of one llama-server launch: flags in, MiB for each device out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.fit.llama_cpp.cache import CacheOptions, layer_cache_bytes
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.hyper import Hyper
from infra_llm.core.fit.llama_cpp.weights import HOST, Placement, device_weights, place_layers
from infra_llm.core.model import ModelProfile

MIB = 1 << 20


@dataclass(frozen=True)
class Footprint:
    """Bytes of a launch; lists have one entry a GPU, the host last."""

    weights: list[int]
    cache: list[int]
    compute: list[int]
    output: int
    """Logits buffer on the host."""


def cache_options(flags: Mapping[str, Any]) -> CacheOptions:
    """The part of the flags that shapes the cache."""
    context = int(flags["ctx_size"])
    batch = min(int(flags.get("batch_size", 2048)), context)
    return CacheOptions(
        context=context,
        sequences=int(flags.get("parallel", 1)),
        type_k=str(flags.get("cache_type_k", "f16")),
        type_v=str(flags.get("cache_type_v", "f16")),
        flash_attention=flags.get("flash_attn", "on") != "off",
        unified=bool(flags.get("kv_unified", False)),
        micro_batch=min(int(flags.get("ubatch_size", 512)), batch),
        full_window=bool(flags.get("swa_full", False)),
    )


def placement_of(hyper: Hyper, flags: Mapping[str, Any], devices: int) -> Placement:
    """Where the flags put layers."""
    splits = [float(share) for share in flags.get("tensor_split") or [1.0] * devices]
    return place_layers(hyper, int(flags.get("n_gpu_layers", 0)), splits[:devices])


def footprint(
    model: ModelProfile, hyper: Hyper, flags: Mapping[str, Any], devices: int
) -> Footprint:
    """Bytes of weights, cache and compute buffers on `devices` GPUs and the host."""
    options = cache_options(flags)
    placement = placement_of(hyper, flags, devices)
    cache = [0] * (devices + 1)
    for layer, size in enumerate(layer_cache_bytes(hyper, options)):
        device = placement.layer_device[layer]
        cache[device if device != HOST else devices] += size
    return Footprint(
        weights=device_weights(model, hyper, placement, devices),
        cache=cache,
        compute=compute_bytes(hyper, placement, options, devices),
        output=4 * hyper.vocab * options.sequences,
    )
