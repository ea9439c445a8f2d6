"""KV cache and recurrent state of llama.cpp, exact.

Sources: src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp, src/llama-memory-recurrent.cpp and the
padding of src/llama-context.cpp (build 11434).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.hyper import Hyper

CELL_BYTES = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}
"""Elements and bytes of a block of each cache type (ggml/src/ggml-common.h)."""
PAD = 256
ROLLS_BACK = frozenset(["qwen35", "qwen35moe", "nemotron_h", "nemotron_h_moe", "lfm2", "lfm2moe"])
"""Families whose states have rows to go back to (llm_arch_supports_rs_rollback)."""


@dataclass(frozen=True)
class CacheOptions:
    """What of the launch flags shapes the cache."""

    context: int
    """n_ctx of all slots together, as llama-server's -c."""
    sequences: int = 1
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: bool = True
    unified: bool = False
    micro_batch: int = 512
    full_window: bool = False
    """--swa-full."""
    embeddings: bool = False
    """The server gives vectors: every token of a batch is an output."""
    speculative_states: int = 0
    """Rows kept for rolling back recurrent state (n_rs_seq)."""
    drafted: int = 0
    """Tokens of a slot whose logits are wanted beside the sampled one's."""


def pad(value: int, to: int = PAD) -> int:
    """Round up to a multiple."""
    return -(-value // to) * to


def row_bytes(kind: str, elements: int) -> int:
    """Bytes of a row of the cache (`ggml_row_size`). Raises BadInputError for unknown types."""
    try:
        block, size = CELL_BYTES[kind]
    except KeyError:
        raise BadInputError(
            f"unknown cache type {kind!r}", hint=f"use one of {', '.join(CELL_BYTES)}"
        ) from None
    if elements % block:
        raise BadInputError(
            f"cache type {kind} needs rows of a multiple of {block} elements, not {elements}",
            hint="use f16",
        )
    return elements // block * size


def cells(options: CacheOptions) -> tuple[int, int]:
    """(cells of a stream, streams): n_ctx_seq and n_stream of llama_context and llama_kv_cache."""
    context = pad(options.context)
    if options.unified:
        return context, 1
    return pad(context // options.sequences), options.sequences


def window_cells(hyper: Hyper, options: CacheOptions) -> int:
    """Cells of a stream in a sliding-window layer (llama_kv_cache_iswa)."""
    size, _ = cells(options)
    if options.full_window or not hyper.window:
        return size
    sharing = options.sequences if options.unified else 1
    return pad(min(size, hyper.window * sharing + options.micro_batch))


def layer_cache_bytes(hyper: Hyper, options: CacheOptions) -> list[int]:
    """Bytes of the KV cache and the recurrent state of each layer (multi-token layers included, 0).

    K is cells x k_width x type; V the same, left out for MLA, and padded to the widest layer while
    flash attention is off (the cache is then transposed).
    """
    size, streams = cells(options)
    short = window_cells(hyper, options)
    widest_v = max(hyper.v_width, default=0)
    sizes = []
    for layer in range(hyper.layers_all):
        total = 0
        if hyper.caches[layer]:
            count = (short if hyper.windowed[layer] else size) * streams
            total += count * row_bytes(options.type_k, hyper.k_width[layer])
            if not hyper.mla:
                width = hyper.v_width[layer] if options.flash_attention else widest_v
                total += count * row_bytes(options.type_v, width)
        if hyper.recurrent[layer]:
            kept = options.speculative_states if hyper.architecture in ROLLS_BACK else 0
            rows = max(1, options.sequences) * (1 + kept)
            total += 4 * rows * (hyper.state_r + hyper.state_s)
        sizes.append(total)
    return sizes


def checkpoint_bytes(hyper: Hyper, options: CacheOptions, tokens: int | None = None) -> int:
    """Bytes of one context checkpoint of a slot, at most or after `tokens`; 0 where none is made.

    The server copies what can't be rolled back to the heap: sliding-window cells and recurrent
    states (`create_checkpoint` in tools/server/server-context.cpp).
    """
    if not any(hyper.recurrent) and (options.full_window or not any(hyper.windowed)):
        return 0
    options = dataclasses.replace(options, speculative_states=0)
    short = window_cells(hyper, options)
    share = 1.0 if tokens is None else min(1.0, tokens / short)
    found = 0.0
    for layer, size in enumerate(layer_cache_bytes(hyper, options)):
        if hyper.recurrent[layer]:
            found += size / options.sequences
        elif hyper.windowed[layer] and not options.full_window:
            streams = cells(options)[1]
            found += size / streams * share
    return int(found)
