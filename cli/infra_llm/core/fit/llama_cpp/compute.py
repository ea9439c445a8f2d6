"""Compute buffers of llama.cpp (the worst-case graph of `sched_reserve`), first approximation."""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.cache import CacheOptions, cells
from infra_llm.core.fit.llama_cpp.hyper import Hyper
from infra_llm.core.fit.llama_cpp.weights import HOST, Placement


def compute_bytes(
    hyper: Hyper, placement: Placement, options: CacheOptions, devices: int
) -> list[int]:
    """Bytes of the compute buffer of each GPU, the host last."""
    size, streams = cells(options)
    tokens = min(options.micro_batch, options.context)
    mask = tokens * size * streams * (2 if options.flash_attention else 4)
    wide = max(hyper.feed_forward, hyper.expert_feed_forward * hyper.experts_used)
    activations = 4 * tokens * (2 * wide + 8 * hyper.embedding)
    scores = 0 if options.flash_attention else 4 * tokens * size * max(hyper.heads, default=0)
    totals = []
    for device in [*range(devices), HOST]:
        used = device in placement.layer_device
        logits = 4 * hyper.vocab * options.sequences if device == placement.output_device else 0
        totals.append(mask + activations + scores + logits if used else logits)
    if HOST not in placement.layer_device:
        totals[-1] += mask + 8 * tokens * hyper.embedding
    return totals
