"""Attention in its kinds: grouped, gated, latent.

Sources: `build_qkv` and `build_attn` of src/llama-graph.cpp, src/models/qwen35.cpp, deepseek2.cpp,
minicpm3.cpp, gemma4.cpp, llama4.cpp (build 11434).
"""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.builder import Builder
from infra_llm.core.fit.llama_cpp.tensors import Node, like, op, view

NO_ROTARY = frozenset(
    ["gpt2", "starcoder", "mpt", "jais", "bloom", "refact", "nemotron_h", "nemotron_h_moe", "jamba"]
)
"""Families without rotary positions."""


def attention(builder: Builder, x: Node, layer: int) -> Node:
    """Grouped-query attention, with separate or fused projections and their norms."""
    hyper, tokens = builder.hyper, builder.tokens
    heads, heads_kv = hyper.heads[layer], hyper.heads_kv[layer]
    head_k = hyper.k_width[layer] // max(1, heads_kv)
    head_v = hyper.v_width[layer] // max(1, heads_kv)
    if builder.weight(layer, "attn_qkv.weight") is not None:
        fused = builder.biased(x, layer, "attn_qkv")
        q = view(fused, (head_k, heads, tokens))
        k = view(fused, (head_k, heads_kv, tokens))
        v = view(fused, (head_v, heads_kv, tokens))
    else:
        q = view(builder.biased(x, layer, "attn_q"), (head_k, heads, tokens), dense=True)
        if not hyper.caches[layer]:
            q = turn(builder, q, layer, "attn_q_norm")
            out = builder.attend(builder.rotate(q, "k", layer, head_k), None, None, layer)
            return builder.biased(builder.rotate(out, "v", layer, 64), layer, "attn_output")
        keys = builder.biased(x, layer, "attn_k")
        values = keys
        if hyper.architecture != "gemma4" or builder.weight(layer, "attn_v.weight") is not None:
            values = builder.biased(x, layer, "attn_v")
        k = view(keys, (head_k, heads_kv, tokens), dense=True)
        v = view(values, (head_v, heads_kv, tokens), dense=True)
    q = turn(builder, q, layer, "attn_q_norm")
    k = turn(builder, k, layer, "attn_k_norm")
    if hyper.architecture in {"gemma3", "gemma2"}:
        q = like("scale", q)
    if hyper.architecture == "gemma4":
        v = like("rms_norm", v)
    q = builder.rotate(q, "k", layer, head_k)
    k = builder.rotate(k, "k", layer, head_k)
    v = builder.rotate(v, "v", layer, 64)
    out = builder.attend(q, k, v, layer)
    out = builder.rotate(out, "v", layer, 64)
    if hyper.architecture == "afmoe":
        gate = builder.mul_mat(builder.need(layer, "attn_gate.weight"), x)
        out = like("mul", out, like("unary", gate))
    return builder.biased(out, layer, "attn_output")


def turn(builder: Builder, x: Node, layer: int, role: str) -> Node:
    """Norm of Q or K where the model has one, then rotary positions."""
    if builder.weight(layer, f"{role}.weight") is not None:
        x = builder.norm(x, layer, role)
    if builder.hyper.architecture in NO_ROTARY:
        return x
    return like("rope", x, builder.positions)


def gated_attention(builder: Builder, x: Node, layer: int) -> Node:
    """Attention whose query projection also gives an output gate (src/models/qwen35.cpp)."""
    hyper, tokens = builder.hyper, builder.tokens
    heads, heads_kv, head = hyper.heads[layer], hyper.heads_kv[layer], hyper.head_k
    both = builder.biased(x, layer, "attn_q")
    k = builder.biased(x, layer, "attn_k")
    v = builder.biased(x, layer, "attn_v")
    q = turn(builder, view(both, (head, heads, tokens)), layer, "attn_q_norm")
    k = turn(builder, view(k, (head, heads_kv, tokens), dense=True), layer, "attn_k_norm")
    gate = op("cont", (head * heads, tokens), view(both, (head, heads, tokens)))
    v = view(v, (head, heads_kv, tokens), dense=True)
    q = builder.rotate(q, "k", layer, head)
    k = builder.rotate(k, "k", layer, head)
    v = builder.rotate(v, "v", layer, 64)
    out = builder.attend(q, k, v, layer)
    out = builder.rotate(out, "v", layer, 64)
    out = like("mul", out, like("unary", gate))
    return builder.biased(out, layer, "attn_output")


def latent_attention(builder: Builder, x: Node, layer: int) -> Node:
    """Multi-head latent attention, absorbed (K only in the cache) or unfolded into full heads."""
    hyper, keys, tokens = builder.hyper, builder.model.hyper, builder.tokens
    heads, rope = hyper.heads[layer], int(keys.get("rope.dimension_count") or 0)
    head = int(keys.get("attention.key_length_mla") or hyper.head_k)
    if builder.weight(layer, "attn_q_a.weight") is not None:
        q = builder.mul_mat(builder.need(layer, "attn_q_a.weight"), x)
        q = builder.norm(q, layer, "attn_q_a_norm")
        q = builder.mul_mat(builder.need(layer, "attn_q_b.weight"), q)
    else:
        q = builder.mul_mat(builder.need(layer, "attn_q.weight"), x)
    q = view(q, (head, heads, tokens), dense=True)
    joint = builder.mul_mat(builder.need(layer, "attn_kv_a_mqa.weight"), x)
    rank = joint.ne[0] - rope
    k_pe = like("rope", view(joint, (rope, 1, tokens)), builder.positions)
    latent = builder.norm(view(joint, (rank, tokens)), layer, "attn_kv_a_norm")
    if hyper.mla:
        q_pe = like("rope", view(q, (rope, heads, tokens)), builder.positions)
        k_b = builder.need(layer, "attn_k_b.weight")
        bare = view(q, (head - rope, tokens, heads))
        absorbed = op("mul_mat", (rank, tokens, heads), k_b, bare)
        q = op("concat", (rank + rope, heads, tokens), view(absorbed, (rank, heads, tokens)), q_pe)
        latent = view(latent, (rank, 1, tokens), dense=True)
        k = op("concat", (rank + rope, 1, tokens), latent, k_pe)
        out = builder.attend(q, k, latent, layer)
        return builder.biased(out, layer, "attn_output")
    value = hyper.head_v
    both = builder.mul_mat(builder.need(layer, "attn_kv_b.weight"), latent)
    v = op("cont", (value, heads, tokens), view(both, (value, heads, tokens)))
    q = like("rope", q, builder.positions)
    spread = op("repeat", (rope, heads, tokens), k_pe)
    k = op("concat", (head, heads, tokens), view(both, (head - rope, heads, tokens)), spread)
    q = builder.rotate(q, "k", layer, head)
    k = builder.rotate(k, "k", layer, head)
    v = builder.rotate(v, "v", layer, 64)
    out = builder.rotate(builder.attend(q, k, v, layer), "v", layer, 64)
    return builder.biased(out, layer, "attn_output")
