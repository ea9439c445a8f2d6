"""A tiny Llama of random weights as GGUF, with the vocabulary of a real model.

A stand-in for a model: what it says means nothing, but llama.cpp serves it within a second, even on
a busy machine. The vocabulary is copied out of a GGUF file that is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 128, 2, 2, 256, 8192


def write(path: Path, vocabulary: Path, seed: int = 7) -> Path:
    """Write the model to `path` (26 MB with the vocabulary of SmolLM2)."""
    source = gguf.GGUFReader(str(vocabulary))
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, field in source.fields.items():
        if name.startswith("tokenizer."):
            kinds = field.types
            writer.add_key_value(
                name, field.contents(), kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None
            )
    tokens = len(source.fields["tokenizer.ggml.tokens"].data)
    random = np.random.default_rng(seed)
    shapes = _shapes(tokens)
    embedding: Any = random.standard_normal(shapes["token_embd.weight"], dtype=np.float32)
    for name, shape in shapes.items():
        data: Any = random.standard_normal(shape, dtype=np.float32) * 0.02
        if name == "token_embd.weight":
            data = embedding
        elif name == "output.weight":
            # Each token is followed by another one, so that an answer is never all line feeds.
            data = embedding[(np.arange(tokens) * 31 + 17) % tokens]
        writer.add_tensor(name, data + 1 if len(shape) == 1 else data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tokens, WIDTH),
        "output.weight": (tokens, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"{block}.{name}.weight"] = (WIDTH,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"{block}.{name}.weight"] = (WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"{block}.{name}.weight"] = (FEED_FORWARD, WIDTH)
        shapes[f"{block}.ffn_down.weight"] = (WIDTH, FEED_FORWARD)
    return shapes
