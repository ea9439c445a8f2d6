"""The whole graph of a model, family by family.

Source: src/models/*.cpp (build 11434). A family is told by its tensors where that is enough and by
its name where the order of operations differs.
"""

from __future__ import annotations

from collections.abc import Callable

from infra_llm.core.fit.llama_cpp.builder import Builder
from infra_llm.core.fit.llama_cpp.tensors import I32, Node, given, like, op, view

LATE = frozenset(
    ["qwen35", "qwen35moe", "qwen3next", "gpt-oss", "gemma4", "cohere2moe", "step35", "hy_v3"]
)
"""Rows are selected after the last layer, since a draft head may want them all."""
SCALED_EMBEDDING = frozenset(["gemma", "gemma2", "gemma3", "gemma3n", "gemma4", "grok", "minicpm"])
UNNORMALIZED_EXPERTS = frozenset(["gpt-oss", "llama4", "qwen2moe", "deepseek", "olmoe"])


def build(builder: Builder, layers: list[int]) -> None:
    """Fill the builder's graph with these layers, the model's first and last among them."""
    hyper = builder.hyper
    x = builder.embed()
    if hyper.architecture in SCALED_EMBEDDING:
        x = like("scale", x)
    outputs = given((builder.batch.outputs,), I32)
    late = hyper.architecture in LATE
    for layer in layers:
        last = layer == layers[-1] and not late
        x = one_layer(builder, x, layer, outputs if last else None)
    if late and hyper.architecture == "gpt-oss":
        x.is_output = True
        builder.head(builder.norm(builder.select(x, outputs), None, "output_norm"))
        return
    x = builder.norm(x, None, "output_norm")
    if late:
        x.is_output = True
        x = builder.select(x, outputs)
    builder.head(x)


def one_layer(builder: Builder, x: Node, layer: int, outputs: Node | None) -> Node:
    """Attention or state, residual, feed-forward, residual."""
    residual = x
    normed = builder.norm(x, layer, "attn_norm")
    mixer = mixer_of(builder, layer)
    out = mixer(builder, normed, layer)
    if outputs is not None:
        out, residual = builder.select(out, outputs), builder.select(residual, outputs)
    sandwich = builder.weight(layer, "ffn_norm.weight") is not None
    if sandwich and builder.weight(layer, "post_attention_norm.weight") is not None:
        out = builder.norm(out, layer, "post_attention_norm")
    out = like("add", out, residual)
    residual = out
    out = builder.norm(out, layer, "ffn_norm" if sandwich else "post_attention_norm")
    out = mixture(builder, out, layer)
    if builder.weight(layer, "post_ffw_norm.weight") is not None:
        out = builder.norm(out, layer, "post_ffw_norm")
    return like("add", out, residual)


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


Mixer = Callable[[Builder, Node, int], Node]


def mixer_of(builder: Builder, layer: int) -> Mixer:
    """What mixes tokens in this layer."""
    if builder.hyper.recurrent[layer]:
        return delta_net
    if builder.weight(layer, "attn_kv_a_mqa.weight") is not None:
        return latent_attention
    if builder.hyper.architecture in {"qwen35", "qwen35moe", "qwen3next"}:
        return gated_attention
    return attention


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
        k = view(builder.biased(x, layer, "attn_k"), (head_k, heads_kv, tokens), dense=True)
        v = view(builder.biased(x, layer, "attn_v"), (head_v, heads_kv, tokens), dense=True)
    q = turn(builder, q, layer, "attn_q_norm")
    k = turn(builder, k, layer, "attn_k_norm")
    if hyper.architecture in {"gemma3", "gemma2"}:
        q = like("scale", q)
    q, k, v = (
        builder.rotate(part, kind, size)
        for part, kind, size in (
            (q, builder.options.type_k, rotation(head_k)),
            (k, builder.options.type_k, rotation(head_k)),
            (v, builder.options.type_v, 64),
        )
    )
    out = builder.attend(q, k, v, layer)
    out = builder.rotate(out, builder.options.type_v, 64)
    return builder.biased(out, layer, "attn_output")


def rotation(head: int) -> int:
    """Size of the rotation of K: the largest power of two times 64 that divides the head."""
    if head % 64:
        return 1
    size = 64
    while head % (size * 2) == 0:
        size *= 2
    return size


def turn(builder: Builder, x: Node, layer: int, role: str) -> Node:
    """Norm of Q or K where the model has one, then rotary positions."""
    if builder.weight(layer, f"{role}.weight") is not None:
        x = builder.norm(x, layer, role)
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
    q = builder.rotate(q, builder.options.type_k, rotation(head))
    k = builder.rotate(k, builder.options.type_k, rotation(head))
    v = builder.rotate(v, builder.options.type_v, 64)
    out = builder.attend(q, k, v, layer)
    out = builder.rotate(out, builder.options.type_v, 64)
    out = like("mul", out, like("unary", gate))
    return builder.biased(out, layer, "attn_output")


def latent_attention(builder: Builder, x: Node, layer: int) -> Node:
    """Multi-head latent attention (src/models/deepseek2.cpp)."""
    return attention(builder, x, layer)


def delta_net(builder: Builder, x: Node, layer: int) -> Node:
    """Gated delta net, fused (src/models/qwen35.cpp, delta-net-base.cpp)."""
    graph, hyper, keys = builder.graph, builder.hyper, builder.model.hyper
    sequences = builder.batch.sequences
    rows = builder.tokens // sequences
    inner, state = int(keys["ssm.inner_size"]), int(keys["ssm.state_size"])
    groups, heads = int(keys["ssm.group_count"]), int(keys["ssm.time_step_rank"])
    taps = int(keys["ssm.conv_kernel"])
    head_v = inner // heads
    channels = inner + 2 * groups * state
    graph.expand(x)
    mixed = builder.mul_mat(builder.weight(layer, "attn_qkv.weight"), x)
    z = builder.mul_mat(builder.weight(layer, "attn_gate.weight"), x)
    beta = builder.mul_mat(builder.weight(layer, "ssm_beta.weight"), x)
    beta = like("unary", view(beta, (1, heads, rows, sequences), dense=True))
    alpha = builder.mul_mat(builder.weight(layer, "ssm_alpha.weight"), x)
    alpha = view(alpha, (heads, rows, sequences), dense=True)
    dt, a = builder.weight(layer, "ssm_dt.bias"), builder.weight(layer, "ssm_a")
    assert dt is not None
    assert a is not None
    gate = like("mul", like("unary", like("add", alpha, dt)), a)
    gate = view(gate, (1, heads, rows, sequences), dense=True)
    device = builder.placement.layer_device[layer]
    device = builder.backend.host if device < 0 else device
    conv_state = builder.state(layer, hyper.state_r, device)
    before = view(conv_state, (taps - 1, channels, sequences), dense=True)
    stream = view(mixed, (rows, channels, sequences))
    joined = op("concat", (rows + taps - 1, channels, sequences), before, stream)
    graph.expand(builder.store(view(joined, (taps - 1, channels, sequences)), device))
    memory = builder.state(layer, hyper.state_s, device)
    memory = view(memory, (head_v, head_v, heads, sequences), dense=True)
    kernel = builder.weight(layer, "ssm_conv1d.weight")
    assert kernel is not None
    flat = op("ssm_conv", (channels, rows, sequences), joined, kernel)
    flat = like("unary", flat)
    q = like("scale", like("rms_norm", view(flat, (state, groups, rows, sequences))))
    k = like("scale", like("rms_norm", view(flat, (state, groups, rows, sequences))))
    v = view(flat, (head_v, heads, rows, sequences))
    fused = op(
        "gated_delta_net",
        (head_v * heads, rows * sequences + head_v * sequences),
        *(q, k, v, gate, beta, memory),
    )
    out = view(fused, (head_v, heads, rows, sequences))
    graph.expand(builder.store(view(fused, (head_v, head_v, heads, sequences)), device))
    out = builder.norm(out, layer, "ssm_norm")
    out = like("mul", out, like("unary", view(z, (head_v, heads, rows, sequences), dense=True)))
    out = view(out, (head_v * heads, rows, sequences), dense=True)
    out = builder.mul_mat(builder.weight(layer, "ssm_out.weight"), out)
    return view(out, (hyper.embedding, builder.tokens), dense=True)
