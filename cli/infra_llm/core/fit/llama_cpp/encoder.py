"""Models that read a text at once and give one vector: no cache, and a batch that is the context.

Sources: src/models/bert.cpp, nomic-bert.cpp, `build_attn` without a cache and `build_pooling` in
src/llama-graph.cpp, `llama_context::encode` in src/llama-context.cpp (build 11434; an encoder needs
n_ubatch >= the tokens of a batch), tools/server/server.cpp (with --embeddings n_batch is n_ubatch).
"""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.builder import Builder
from infra_llm.core.fit.llama_cpp.tensors import F16, F32, I32, Node, given, like, op, view

ROTARY = frozenset({"nomic-bert"})


def build_encoder(builder: Builder, layers: list[int]) -> None:
    """Fill the builder's graph with these layers and the mean over the tokens."""
    x = builder.embed()
    kinds = builder.weight(None, "token_types.weight")
    if kinds is not None:
        x = like("add", x, view(kinds, (kinds.ne[0],)))
    table = builder.weight(None, "position_embd.weight")
    if table is not None:
        places = op("get_rows", (table.ne[0], builder.tokens), table, builder.positions)
        x = like("add", places, x)
    x = builder.norm(x, None, "token_embd_norm")
    width = builder.tokens
    flash = builder.options.flash_attention
    mask = given((width, width), F16 if flash else F32)
    outputs = given((builder.batch.outputs,), I32)
    for layer in layers:
        x = _layer(builder, x, layer, mask, outputs if layer == layers[-1] else None)
    x.is_output = True
    turned = op("cont", (x.ne[1], x.ne[0]), view(x, (x.ne[1], x.ne[0])))
    sequences = builder.batch.sequences
    pooled = op("mul_mat", (x.ne[0], sequences), turned, given((x.ne[1], sequences)))
    pooled.is_output = True
    builder.graph.expand(x)
    builder.graph.expand(pooled)


def _layer(builder: Builder, x: Node, layer: int, mask: Node, outputs: Node | None) -> Node:
    out = _attention(builder, x, layer, mask)
    residual = x
    if outputs is not None:
        out, residual = builder.select(out, outputs), builder.select(x, outputs)
    out = builder.norm(like("add", out, residual), layer, "attn_output_norm")
    inner = builder.feed_forward(out, layer)
    return builder.norm(like("add", inner, out), layer, "layer_output_norm")


def _attention(builder: Builder, x: Node, layer: int, mask: Node) -> Node:
    hyper, graph, tokens = builder.hyper, builder.graph, builder.tokens
    heads, head = hyper.heads[layer], hyper.head_k
    shape = (head, heads, tokens)
    if builder.weight(layer, "attn_qkv.weight") is not None:
        fused = builder.biased(x, layer, "attn_qkv")
        q, k, v = (view(fused, shape) for _ in range(3))
    else:
        q, k, v = (
            view(builder.biased(x, layer, role), shape, dense=True)
            for role in ("attn_q", "attn_k", "attn_v")
        )
    if hyper.architecture in ROTARY:
        q, k = like("rope", q, builder.positions), like("rope", k, builder.positions)
    for part in (q, k, v):
        graph.expand(part)
    seen = (head, tokens, heads)
    q, k, v = view(q, seen), view(k, seen), view(v, seen)
    if builder.options.flash_attention:
        k, v = op("cast", seen, k, element=F16), op("cast", seen, v, element=F16)
        out = op("flash_attn", shape, q, k, v, mask)
        out = graph.expand(view(out, (head * heads, tokens), dense=True))
    else:
        scores = like("soft_max", op("mul_mat", (tokens, tokens, heads), k, q), mask)
        turned = op("cont", (tokens, head, heads), view(v, (tokens, head, heads)))
        out = op("mul_mat", (head, tokens, heads), turned, scores)
        out = graph.expand(op("cont", (head * heads, tokens), view(out, shape)))
    return builder.biased(out, layer, "attn_output")
