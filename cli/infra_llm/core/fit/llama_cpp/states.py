"""Layers that carry a recurrent state: delta nets, Mamba and short convolutions.

Sources: src/models/delta-net-base.cpp, qwen35.cpp, qwen3next.cpp, mamba-base.cpp, lfm2.cpp (build
11434). The order in which tensors are made is the engine's: the allocator's peak depends on it.
"""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.builder import Builder
from infra_llm.core.fit.llama_cpp.tensors import Node, like, op, view
from infra_llm.core.fit.llama_cpp.weights import HOST


def state_device(builder: Builder, layer: int) -> int:
    """Where the layer's state lies."""
    device = builder.placement.layer_device[layer]
    return builder.backend.host if device == HOST else device


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
    mixed = builder.mul_mat(builder.need(layer, "attn_qkv.weight"), x)
    z = builder.mul_mat(builder.need(layer, "attn_gate.weight"), x)
    beta, gate = delta_gates(builder, x, layer, heads, rows)
    device = state_device(builder, layer)
    conv_state = builder.state(layer, hyper.state_r, device)
    before = view(conv_state, (taps - 1, channels, sequences), dense=True)
    stream = view(mixed, (rows, channels, sequences))
    joined = op("concat", (rows + taps - 1, channels, sequences), before, stream)
    graph.expand(builder.store(view(joined, (taps - 1, channels, sequences)), device))
    memory = builder.state(layer, hyper.state_s, device)
    memory = view(memory, (head_v, head_v, heads, sequences), dense=True)
    kernel = builder.need(layer, "ssm_conv1d.weight")
    flat = op("ssm_conv", (channels, rows, sequences), joined, kernel)
    flat = like("unary", flat)
    q = like("scale", like("rms_norm", view(flat, (state, groups, rows, sequences))))
    k = like("scale", like("rms_norm", view(flat, (state, groups, rows, sequences))))
    v = view(flat, (head_v, heads, rows, sequences))
    if hyper.architecture == "qwen3next" and groups != heads:
        wide = (state, heads // groups, groups, rows * sequences)
        q, k = (
            view(
                op("repeat", wide, view(part, (state, 1, groups, rows * sequences), dense=True)),
                (state, heads, rows, sequences),
                dense=True,
            )
            for part in (q, k)
        )
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
    out = builder.mul_mat(builder.need(layer, "ssm_out.weight"), out)
    return view(out, (hyper.embedding, builder.tokens), dense=True)


def delta_gates(builder: Builder, x: Node, layer: int, heads: int, rows: int) -> tuple[Node, Node]:
    """beta and the decay, from two projections or (Qwen3-Next) from one."""
    sequences, tokens = builder.batch.sequences, x.ne[1]
    joint = builder.weight(layer, "ssm_ba.weight")
    if joint is not None:
        both = builder.mul_mat(joint, x)
        beta = like("unary", op("cont", (heads, tokens), view(both, (heads, tokens))))
        alpha = op("cont", (heads, rows, sequences), view(both, (heads, tokens)))
    else:
        beta = builder.mul_mat(builder.need(layer, "ssm_beta.weight"), x)
        beta = like("unary", view(beta, (1, heads, rows, sequences), dense=True))
        alpha = builder.mul_mat(builder.need(layer, "ssm_alpha.weight"), x)
        alpha = view(alpha, (heads, rows, sequences), dense=True)
    biased = like("add", alpha, builder.need(layer, "ssm_dt.bias"))
    gate = like("mul", like("unary", biased), builder.need(layer, "ssm_a"))
    if joint is not None:
        beta = view(beta, (1, heads, rows, sequences), dense=True)
    return beta, view(gate, (1, heads, rows, sequences), dense=True)


def mamba(builder: Builder, x: Node, layer: int) -> Node:
    """Mamba of the first kind (build_mamba_layer)."""
    graph, keys, hyper = builder.graph, builder.model.hyper, builder.hyper
    sequences = builder.batch.sequences
    rows = builder.tokens // sequences
    inner, state = int(keys["ssm.inner_size"]), int(keys["ssm.state_size"])
    rank, taps = int(keys["ssm.time_step_rank"]), int(keys["ssm.conv_kernel"])
    device = state_device(builder, layer)
    before = builder.state(layer, hyper.state_r, device)
    x = view(x, (x.ne[0], rows, sequences), dense=True)
    both = builder.mul_mat(builder.need(layer, "ssm_in.weight"), x)
    stream = view(both, (rows, inner, sequences))
    before = view(before, (taps - 1, inner, sequences), dense=True)
    joined = op("concat", (rows + taps - 1, inner, sequences), before, stream)
    graph.expand(builder.store(view(joined, (taps - 1, inner, sequences)), device))
    kernel = builder.need(layer, "ssm_conv1d.weight")
    x = op("ssm_conv", (inner, rows, sequences), joined, kernel)
    x = like("unary", like("add", x, builder.need(layer, "ssm_conv1d.bias")))
    split = builder.mul_mat(builder.need(layer, "ssm_x.weight"), x)
    dt = view(split, (rank, rows, sequences))
    b = view(split, (state, 1, rows, sequences))
    c = view(split, (state, 1, rows, sequences))
    if builder.weight(layer, "ssm_dt_norm.weight") is not None or keys.get("ssm.dt_b_c_rms"):
        dt = builder.norm(dt, layer, "ssm_dt_norm")
        b, c = builder.norm(b, layer, "ssm_b_norm"), builder.norm(c, layer, "ssm_c_norm")
    else:
        dt = op("cont", dt.ne, dt)
    dt = builder.mul_mat(builder.need(layer, "ssm_dt.weight"), dt)
    dt = like("add", dt, builder.need(layer, "ssm_dt.bias"))
    wide = view(x, (1, inner, rows, sequences), dense=True)
    out = builder.scan(wide, dt, b, c, layer, device, inner * state)
    y = view(out, (inner, rows, sequences))
    y = like("add", y, like("mul", x, builder.need(layer, "ssm_d")))
    z = op("cont", (inner, rows, sequences), view(both, (inner, rows, sequences)))
    y = op("glu", z.ne, z, y)
    y = builder.mul_mat(builder.need(layer, "ssm_out.weight"), y)
    return view(y, (y.ne[0], builder.tokens), dense=True)


def mamba2(builder: Builder, x: Node, layer: int) -> Node:
    """Mamba of the second kind (build_mamba2_layer)."""
    graph, keys, hyper = builder.graph, builder.model.hyper, builder.hyper
    sequences = builder.batch.sequences
    rows = builder.tokens // sequences
    inner, state = int(keys["ssm.inner_size"]), int(keys["ssm.state_size"])
    heads, groups = int(keys["ssm.time_step_rank"]), int(keys["ssm.group_count"])
    taps = int(keys["ssm.conv_kernel"])
    head, channels = inner // heads, inner + 2 * groups * state
    device = state_device(builder, layer)
    before = builder.state(layer, hyper.state_r, device)
    mixed = builder.mul_mat(builder.need(layer, "ssm_in.weight"), x)
    stream = view(mixed, (rows, channels, sequences))
    before = view(before, (taps - 1, channels, sequences), dense=True)
    joined = op("concat", (rows + taps - 1, channels, sequences), before, stream)
    graph.expand(builder.store(view(joined, (taps - 1, channels, sequences)), device))
    flat = op(
        "ssm_conv",
        (channels, rows, sequences),
        *(joined, builder.need(layer, "ssm_conv1d.weight")),
    )
    flat = like("unary", like("add", flat, builder.need(layer, "ssm_conv1d.bias")))
    part = view(flat, (head, heads, rows, sequences))
    b = view(flat, (state, groups, rows, sequences))
    c = view(flat, (state, groups, rows, sequences))
    dt = op("cont", (heads, rows, sequences), view(mixed, (heads, rows, sequences)))
    dt = like("add", dt, builder.need(layer, "ssm_dt.bias"))
    out = builder.scan(part, dt, b, c, layer, device, inner * state)
    y = view(out, (head, heads, rows, sequences))
    y = like("add", y, like("mul", part, builder.need(layer, "ssm_d")))
    z = op("cont", part.ne, view(mixed, part.ne))
    y = op("glu", z.ne, z, y)
    if builder.weight(layer, "ssm_norm.weight") is not None:
        y = view(y, (inner // groups, groups, rows, sequences), dense=True)
        y = builder.norm(y, layer, "ssm_norm")
    y = view(y, (inner, builder.tokens), dense=True)
    return builder.mul_mat(builder.need(layer, "ssm_out.weight"), y)


def short_convolution(builder: Builder, x: Node, layer: int) -> Node:
    """LFM2's gated short convolution."""
    graph, hyper = builder.graph, builder.hyper
    sequences, width = builder.batch.sequences, builder.hyper.embedding
    rows = builder.tokens // sequences
    taps = int(builder.model.hyper["shortconv.l_cache"])
    x = view(x, (width, rows, sequences), dense=True)
    parts = builder.mul_mat(builder.need(layer, "shortconv.in_proj.weight"), x)
    shape = (width, rows, sequences)
    product = like("mul", view(parts, shape), view(parts, shape))
    device = state_device(builder, layer)
    before = builder.state(layer, hyper.state_r, device)
    before = view(before, (taps - 1, width, sequences), dense=True)
    joined = op(
        "concat",
        (rows + taps - 1, width, sequences),
        *(before, view(product, (rows, width, sequences))),
    )
    graph.expand(builder.store(view(joined, (taps - 1, width, sequences)), device))
    out = op("ssm_conv", shape, joined, builder.need(layer, "shortconv.conv.weight"))
    y = like("mul", view(parts, shape), out)
    y = builder.mul_mat(builder.need(layer, "shortconv.out_proj.weight"), y)
    return view(y, (width, builder.tokens), dense=True)
