"""A Hugging Face folder of a tiny Llama with random weights, for engines that take safetensors.

A stand-in for a model: what it says means nothing, but every engine loads and serves it. Standard
library only. 3 MB, two layers, a byte-level tokenizer of 258 tokens.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, VOCAB = 256, 2, 4, 2, 512, 258
CONTEXT = 4096
PRINTABLE = 94
"""The first tokens are those of printable ASCII."""
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_folder(folder: Path, parts: int = 1, seed: int = 7) -> Path:
    """Write config.json, the tokenizer and the weights in `parts` files; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(), indent=1))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "model_max_length": CONTEXT,
                "chat_template": TEMPLATE,
            }
        )
    )
    shapes = tensors()
    if parts == 1:
        _write(folder / "model.safetensors", shapes, seed)
        return folder
    weight_map: dict[str, str] = {}
    for number in range(parts):
        name = f"model-{number + 1:05}-of-{parts:05}.safetensors"
        share = dict(list(shapes.items())[number::parts])
        _write(folder / name, share, seed + number)
        weight_map.update(dict.fromkeys(share, name))
    index = {"metadata": {"total_size": total_bytes()}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def config() -> dict[str, Any]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "intermediate_size": FEED_FORWARD,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "bos_token_id": 256,
        "eos_token_id": 257,
        "attention_bias": False,
        "mlp_bias": False,
    }


def tensors() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, as LlamaForCausalLM names them."""
    head = HIDDEN // HEADS
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCAB, HIDDEN),
    }
    for layer in range(LAYERS):
        start = f"model.layers.{layer}."
        found |= {
            start + "input_layernorm.weight": (HIDDEN,),
            start + "post_attention_layernorm.weight": (HIDDEN,),
            start + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            start + "self_attn.k_proj.weight": (KV_HEADS * head, HIDDEN),
            start + "self_attn.v_proj.weight": (KV_HEADS * head, HIDDEN),
            start + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            start + "mlp.gate_proj.weight": (FEED_FORWARD, HIDDEN),
            start + "mlp.up_proj.weight": (FEED_FORWARD, HIDDEN),
            start + "mlp.down_proj.weight": (HIDDEN, FEED_FORWARD),
        }
    return found


def total_bytes() -> int:
    """Of all weights, two bytes each."""
    return sum(2 * _count(shape) for shape in tensors().values())


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: one token a byte, the alphabet of byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain]
    letters += [chr(256 + number) for number in range(256 - len(plain))]
    special = {
        "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
        "special": True,
    }  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 256, "content": "<s>", **special},
            {"id": 257, "content": "</s>", **special},
        ],
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": {letter: number for number, letter in enumerate(sorted(letters))}
            | {"<s>": 256, "</s>": 257},
            "merges": [],
        },
    }  # fmt: skip


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total


def _write(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    """A safetensors file: length, JSON header, then the weights as half floats."""
    generator = random.Random(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, shape in shapes.items():
        count = _count(shape)
        if len(shape) == 1:
            values = struct.pack("<e", 1.0) * count
        else:
            # A block of weights over and over: drawing each one would take seconds.
            block = struct.pack("<1024e", *(generator.gauss(0, 0.05) for _ in range(1024)))
            values = (block * (count // 1024 + 1))[: 2 * count]
        if name == "lm_head.weight":
            # The greedy answer is then made of these alone, and never empty.
            values = values[: 2 * PRINTABLE * HIDDEN].ljust(len(values), b"\0")
        header[name] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    path.write_bytes(struct.pack("<Q", len(words)) + words + data)
