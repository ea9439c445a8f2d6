"""The whole graph of a model, family by family.

Source: src/models/*.cpp (build 11434). A family is told by its tensors where that is enough and by
its name where the order of operations differs.
"""

from __future__ import annotations

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.builder import Builder
from infra_llm.core.fit.llama_cpp.mixers import attention, gated_attention, latent_attention
from infra_llm.core.fit.llama_cpp.states import delta_net, mamba, mamba2, short_convolution
from infra_llm.core.fit.llama_cpp.tensors import I32, Node, given, like, op, view

_LATE = """qwen35 qwen35moe qwen3next gpt-oss gemma4 cohere2moe step35 hy_v3 nemotron_h
    nemotron_h_moe"""
LATE = frozenset(_LATE.split())
"""Rows are selected after the last layer, since a draft head may want them all."""
SCALED_EMBEDDING = frozenset(
    ["gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "grok", "minicpm", "afmoe"]
)
PARALLEL = frozenset(
    ["command-r", "cohere2", "phi2", "plamo", "falcon", "gptneox", "gptj", "codeshell"]
)
"""Attention and feed-forward read the same norm (where the layer has no norm of its own)."""
DELTA = frozenset(["qwen35", "qwen35moe", "qwen3next"])
MAMBA2 = frozenset(["mamba2", "granitehybrid", "nemotron_h", "nemotron_h_moe", "falcon-h1"])
_APPROXIMATE = """arctic baichuan bert bloom cohere2 granitehybrid jamba lfm2 lfm2moe
    mamba mamba2 minicpm3 nomic-bert olmo2 phimoe refact smallthinker"""
APPROXIMATE = frozenset(_APPROXIMATE.split())
"""Families whose order of operations was not met in every launch of the oracle: wider bounds."""
UNNORMALIZED_EXPERTS = frozenset(["gpt-oss", "llama4", "qwen2moe", "deepseek", "olmoe"])


def build(builder: Builder, layers: list[int]) -> None:
    """Fill the builder's graph with these layers, the model's first and last among them."""
    hyper = builder.hyper
    x = builder.embed()
    if hyper.architecture in SCALED_EMBEDDING or builder.model.hyper.get("embedding_scale"):
        x = like("scale", x)
    table = builder.weight(None, "position_embd.weight")
    if table is not None:
        places = op("get_rows", (table.ne[0], builder.tokens), table, builder.positions)
        x = like("add", x, places)
    if builder.weight(None, "token_embd_norm.weight") is not None:
        x = builder.norm(x, None, "token_embd_norm")
    outputs = given((builder.batch.outputs,), I32)
    late = hyper.architecture in LATE
    extra = per_layer_inputs(builder, x)
    for layer in layers:
        last = layer == layers[-1] and not late
        x = one_layer(builder, x, layer, outputs if last else None)
        if extra is not None:
            x = add_per_layer(builder, x, extra, layer)
    if late and hyper.architecture == "gpt-oss":
        x.is_output = True
        builder.head(builder.norm(builder.select(x, outputs), None, "output_norm"))
        return
    x = builder.norm(x, None, "output_norm")
    if late:
        x.is_output = True
        x = builder.select(x, outputs)
    builder.head(x)


def per_layer_inputs(builder: Builder, x: Node) -> Node | None:
    """Gemma 4's embedding for each layer, projected once (src/models/gemma4.cpp)."""
    table = builder.weight(None, "per_layer_token_embd.weight")
    project = builder.weight(None, "per_layer_model_proj.weight")
    if table is None or project is None:
        return None
    tokens, layers = builder.tokens, builder.hyper.layers
    width = table.ne[0] // layers
    shape = (width, layers, tokens)
    rows = op("get_rows", (table.ne[0], tokens), table, given((tokens,), I32))
    rows = builder.graph.expand(like("scale", view(rows, shape, dense=True)))
    made = like("scale", builder.mul_mat(project, x))
    made = builder.norm(view(made, shape, dense=True), None, "per_layer_proj_norm")
    joined = like("scale", like("add", made, rows))
    return op("cont", (width, tokens, layers), view(joined, (width, tokens, layers)))


def add_per_layer(builder: Builder, x: Node, extra: Node, layer: int) -> Node:
    """Gate the layer's own embedding and add it."""
    gate = like("unary", builder.mul_mat(builder.need(layer, "inp_gate.weight"), x))
    part = like("mul", gate, view(extra, (extra.ne[0], extra.ne[1])))
    out = builder.mul_mat(builder.need(layer, "proj.weight"), part)
    return like("add", x, builder.norm(out, layer, "post_norm"))


def one_layer(builder: Builder, x: Node, layer: int, outputs: Node | None) -> Node:
    """Attention or state, residual, feed-forward, residual."""
    family = builder.hyper.architecture
    if family in {"nemotron_h", "nemotron_h_moe"} or family in {"mamba", "mamba2"}:
        return single_block(builder, x, layer, outputs)
    own_norm = builder.weight(layer, "ffn_norm.weight") is not None
    after = builder.weight(layer, "post_attention_norm.weight") is not None
    if family in PARALLEL and not own_norm and not after:
        return parallel_blocks(builder, x, layer, outputs)
    residual = x
    weightless = family == "olmo"
    unnormed = builder.weight(layer, "attn_norm.weight") is None and not weightless
    normed = x if unnormed else builder.norm(x, layer, "attn_norm")
    out = mix(builder, normed, layer)
    if family == "falcon-h1":
        second = builder.norm(x, layer, "attn_norm")
        out = like("add", attention(builder, normed, layer), mamba2(builder, second, layer))
        out = like("add", out, residual)
        residual = out
        if outputs is not None:
            residual = builder.select(out, outputs)
        normed = builder.norm(residual, layer, "ffn_norm")
        return like("add", mixture(builder, normed, layer), residual)
    if family == "afmoe":
        out = builder.norm(out, layer, "post_attention_norm")
    if outputs is not None:
        out, residual = builder.select(out, outputs), builder.select(residual, outputs)
    if family == "grok":
        out = builder.norm(out, layer, "attn_output_norm")
    if after and (own_norm or unnormed) and family != "afmoe":
        out = builder.norm(out, layer, "post_attention_norm")
    if builder.model.hyper.get("residual_scale"):
        out = like("scale", out)
    out = like("add", out, residual)
    residual = out
    if not unnormed:
        out = builder.norm(
            out, layer, "ffn_norm" if own_norm or weightless else "post_attention_norm"
        )
    out = mixture(builder, out, layer)
    if builder.weight(layer, "post_ffw_norm.weight") is not None:
        out = builder.norm(out, layer, "post_ffw_norm")
    if builder.model.hyper.get("residual_scale"):
        out = like("scale", out)
    return like("add", out, residual)


def single_block(builder: Builder, x: Node, layer: int, outputs: Node | None) -> Node:
    """One norm and one mixer or feed-forward (Mamba, Nemotron-H)."""
    residual = x
    out = builder.norm(x, layer, "attn_norm")
    if builder.weight(layer, "ffn_up.weight") is not None or (
        builder.weight(layer, "ffn_gate_inp.weight") is not None
    ):
        out = mixture(builder, out, layer)
    else:
        out = mix(builder, out, layer)
    if outputs is not None:
        out, residual = builder.select(out, outputs), builder.select(residual, outputs)
    return like("add", out, residual)


def parallel_blocks(builder: Builder, x: Node, layer: int, outputs: Node | None) -> Node:
    """Attention and feed-forward side by side (Command R, Phi-2, PLaMo)."""
    residual = x
    normed = builder.norm(x, layer, "attn_norm")
    own = builder.weight(layer, "attn_norm_2.weight") is not None  # Falcon 40B
    turned = builder.norm(x, layer, "attn_norm_2") if own else normed
    attended = mix(builder, turned, layer)
    if outputs is not None:
        attended, residual, normed = (
            builder.select(part, outputs) for part in (attended, residual, normed)
        )
    out = mixture(builder, normed, layer)
    if builder.hyper.architecture in {"phi2", "gptneox"}:
        return like("add", like("add", out, attended), residual)
    return like("add", like("add", out, residual), attended)


def mixture(builder: Builder, x: Node, layer: int) -> Node:
    """Experts, shared experts, or a dense feed-forward."""
    if builder.weight(layer, "ffn_gate_inp.weight") is None:
        return builder.feed_forward(x, layer)
    family = builder.hyper.architecture
    out = builder.experts(
        x,
        layer,
        normalize=family not in UNNORMALIZED_EXPERTS,
        scale=bool(builder.model.hyper.get("expert_weights_scale")),
    )
    if builder.weight(layer, "ffn_up_shexp.weight") is None:
        return out
    shared = builder.feed_forward(x, layer, "_shexp")
    gate = builder.weight(layer, "ffn_gate_inp_shexp.weight")
    if gate is not None:
        opened = like("unary", op("mul_mat", (1, x.ne[1]), gate, x))
        shared = like("mul", shared, opened)
    return like("add", out, shared)


def mix(builder: Builder, x: Node, layer: int) -> Node:
    """What mixes tokens in this layer."""
    family = builder.hyper.architecture
    if family == "falcon-h1":
        return x
    if builder.hyper.recurrent[layer]:
        if family in DELTA:
            return delta_net(builder, x, layer)
        if family in MAMBA2:
            return mamba2(builder, x, layer)
        if builder.weight(layer, "shortconv.in_proj.weight") is not None:
            return short_convolution(builder, x, layer)
        if builder.weight(layer, "ssm_x.weight") is not None:
            return mamba(builder, x, layer)
        raise BadInputError(
            f"the compute graph of {family!r} is not known to this planner",
            hint="its recurrent layers were not read; choose another model",
        )
    if builder.weight(layer, "attn_kv_a_mqa.weight") is not None:
        return latent_attention(builder, x, layer)
    if family in DELTA:
        return gated_attention(builder, x, layer)
    return attention(builder, x, layer)
