"""Memory of one llama-server launch: flags in, bytes for each device out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.builder import PINNED, Release
from infra_llm.core.fit.llama_cpp.cache import CacheOptions, layer_cache_bytes
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.hyper import Hyper, read_hyper
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.fit.llama_cpp.speculation import draft_flags, head_of, loaded, speculation
from infra_llm.core.fit.llama_cpp.tables import weights_and_work
from infra_llm.core.fit.llama_cpp.weights import HOST, Placement, place_layers
from infra_llm.core.fit.remembered import Remembered
from infra_llm.core.model import ModelProfile

MIB = 1 << 20
PIPELINE_COPIES = 4
"""GGML_SCHED_MAX_COPIES: inputs are held so often where several GPUs work in a pipeline."""

COMPUTE: Remembered[tuple[int, ...]] = Remembered(1024)
"""Compute buffers: the graph is the same for hosts that differ in their RAM only."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a launch; tuples have one entry a GPU, the host last."""

    weights: tuple[int, ...]
    cache: tuple[int, ...]
    compute: tuple[int, ...]
    output: int
    """Logits of all slots, on the host."""
    work: tuple[int, ...]
    """Weights read for one token."""
    layer_cache: tuple[int, ...]
    """Cache of each layer."""
    placement: Placement
    beside: tuple[int, ...] = ()
    """Weights and cache of a draft's own context, which are in the sums above."""
    beside_compute: tuple[int, ...] = ()
    """Likewise its compute buffers."""


def cache_options(flags: Mapping[str, Any]) -> CacheOptions:
    """The part of the flags that shapes the cache (llama_context's own clamping included).

    Raises BadInputError for a quantized V cache without flash attention: the engine stops there.
    """
    context = int(flags["ctx_size"])
    batch = min(int(flags.get("batch_size", 2048)), context)
    wished = speculation(flags)
    options = CacheOptions(
        context=context,
        sequences=int(flags.get("parallel", 1)),
        type_k=str(flags.get("cache_type_k", "f16")),
        type_v=str(flags.get("cache_type_v", "f16")),
        flash_attention=flags.get("flash_attn", "on") not in {"off", "0", False},
        unified=bool(flags.get("kv_unified", False)),
        micro_batch=min(int(flags.get("ubatch_size", 512)), batch),
        full_window=bool(flags.get("swa_full", False)),
        speculative_states=wished.states,
        drafted=wished.drafted,
        embeddings=bool(flags.get("embeddings", False)),
    )
    if not options.flash_attention and options.type_v not in {"f16", "f32", "bf16"}:
        raise BadInputError(
            f"a {options.type_v} V cache needs flash attention, which is off here",
            hint="leave V at f16; K may be quantized",
        )
    return options


def placement_of(hyper: Hyper, flags: Mapping[str, Any], devices: int) -> Placement:
    """Where the flags put layers and single tensors.

    Raises BadInputError for a tensor split or an override that can't be read.
    """
    given = flags.get("tensor_split")
    if given and len(given) != devices and devices:
        raise BadInputError(
            f"the tensor split has {len(given)} shares for {devices} GPUs",
            hint="give one share a GPU",
        )
    splits = [float(share) for share in given or [1.0] * devices][:devices]
    base = place_layers(hyper, int(flags.get("n_gpu_layers", 0)), splits)
    overrides = [_override(text, devices) for text in flags.get("override_tensor") or ()]
    count = hyper.layers_all if flags.get("cpu_moe") else int(flags.get("n_cpu_moe") or 0)
    return Placement(
        base.layer_device,
        base.output_device,
        tuple(overrides),
        frozenset(range(min(count, hyper.layers_all))),
    )


def _override(text: str, devices: int) -> tuple[str, int]:
    """Read "<regular expression>=<CPU or CUDA1>"."""
    pattern, equals, target = text.rpartition("=")
    index = re.search(r"(\d+)$", target)
    try:
        re.compile(pattern)
    except re.error as error:
        raise BadInputError(f"override {text!r}: {error}", hint="write it as -ot does") from None
    if not equals or not pattern:
        raise BadInputError(f"override {text!r} is no pattern=device", hint="write it as -ot does")
    if target.upper().startswith("CPU") or target.endswith("_Host"):
        return pattern, HOST
    device = int(index[1]) if index else 0
    if device >= devices:
        raise BadInputError(
            f"override {text!r}: there are {devices} GPUs", hint="CUDA0 is the first one"
        )
    return pattern, device


def backend_of(hyper: Hyper, flags: Mapping[str, Any], devices: int, *, cuda: bool) -> Backend:
    """How the devices behave under the flags (pipeline rule of src/llama-context.cpp)."""
    overridden = any(flags.get(name) for name in ("override_tensor", "n_cpu_moe", "cpu_moe"))
    pipelined = (
        devices > 1
        and int(flags.get("n_gpu_layers", 0)) > hyper.layers_all
        and flags.get("split_mode", "layer") == "layer"
        and flags.get("kv_offload", True)
        and not overridden
    )
    return Backend(
        devices,
        offload=bool(flags.get("op_offload", True)),
        copies=PIPELINE_COPIES if pipelined else 1,
        cuda=cuda,
    )


def footprint(
    model: ModelProfile,
    hyper: Hyper,
    flags: Mapping[str, Any],
    devices: int,
    release: Release = PINNED,
    *,
    cuda: bool = True,
    compute: tuple[int, ...] | None = None,
) -> Footprint:
    """Bytes of weights, cache and compute buffers on `devices` GPUs and the host.

    `compute`, where given, is taken for the compute buffers: a search that tries many placements
    lays out the graph only for those that matter.
    """
    options, hyper = cache_options(flags), loaded(hyper, flags)
    placement = placement_of(hyper, flags, devices)
    on_host = flags.get("kv_offload") is False
    layers = tuple(layer_cache_bytes(hyper, options))
    cache = [0] * (devices + 1)
    for layer, size in enumerate(layers):
        cache[HOST if on_host else placement.layer_device[layer]] += size
    weights, work = weights_and_work(model, hyper, placement, devices, cuda)
    own = compute
    if own is None:
        backend = backend_of(hyper, flags, devices, cuda=cuda)
        depends = (hyper, placement, options, backend, release)
        own = COMPUTE.of(model, depends, lambda: tuple(compute_bytes(model, *depends)))
    alone = Footprint(
        weights=tuple(weights),
        cache=tuple(cache),
        compute=own,
        output=_output_bytes(hyper, options, flags),
        work=tuple(work),
        layer_cache=layers,
        placement=placement,
    )
    hint = None if compute is None else (0,) * (devices + 1)
    if model.draft is not None:
        draft = read_hyper(model.draft)
        flags = draft_flags(flags)
        return _together(
            alone, footprint(model.draft, draft, flags, devices, release, cuda=cuda, compute=hint)
        )
    if hyper.loads_mtp:
        head = head_of(model)
        release = dataclasses.replace(release, second_input=False)
        beside = footprint(
            head, read_hyper(head), draft_flags(flags), devices, release, cuda=cuda, compute=hint
        )
        # Its weights are the main model's.
        return _together(alone, dataclasses.replace(beside, weights=(0,) * (devices + 1)))
    return alone


def _output_bytes(hyper: Hyper, options: CacheOptions, flags: Mapping[str, Any]) -> int:
    """Logits of all slots on the host; for a draft head also a row of every token of a batch.

    With embeddings a row for each token of a batch, and the vectors.

    (`output_reserve` in src/llama-context.cpp: embd_nextn is not masked there.)
    """
    if options.embeddings:
        return 4 * (hyper.vocab + hyper.embedding) * options.micro_batch
    logits = hyper.vocab * options.sequences * (1 + options.drafted)
    batch = min(int(flags.get("batch_size", 2048)), options.context)
    return 4 * (logits + (hyper.embedding * batch if hyper.loads_mtp else 0))


SAMPLED = 4
"""A draft is sampled where its logits are: logits, probabilities, candidates (`output_reserve`)."""


def _together(main: Footprint, draft: Footprint) -> Footprint:
    """Both models on the same devices; speed stays the main one's."""

    def add(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(a + b for a, b in zip(one, other, strict=True))

    return dataclasses.replace(
        main,
        weights=add(main.weights, draft.weights),
        cache=add(main.cache, draft.cache),
        compute=add(main.compute, draft.compute),
        output=main.output + SAMPLED * draft.output,
        beside=add(draft.weights, draft.cache),
        beside_compute=draft.compute,
    )
