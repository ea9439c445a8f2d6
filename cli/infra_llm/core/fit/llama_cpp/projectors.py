"""What each type of image or audio encoder does around its layers, and for which size it reserves.

Source: the graphs of tools/mtmd/models/*.cpp, and the sizes of `clip_model_loader::load_hparams` in
tools/mtmd/clip.cpp (build 11434). A type that does not stand in `TYPES` is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from infra_llm.core.fit.llama_cpp.tensors import F16, F32, Node, like, op, view
from infra_llm.core.fit.llama_cpp.tower import Tower

AUDIO_FRAMES = 3000
"""Frames of the 30 s that an audio encoder takes at once (warmup_audio_size in clip-model.h)."""


@dataclass(frozen=True)
class Kind:
    """One type of encoder."""

    build: Callable[[Tower], Node]
    modality: str = "vision"
    merge: int = 1
    """Patches along a side that become one token, where the header does not say."""
    merge_key: str = "projector.scale_factor"
    """Where the header says it; empty where the engine does not look."""
    warmup_tokens: int = 0
    """Tokens of the square image for which memory is reserved at the start; 0: the largest, or
    image_size of the header."""
    most_tokens: int = 0
    """Tokens of the largest image, which is reserved for when it comes; 0: image_size."""
    most_pixels_key: str = ""
    """Key of the header that says so in pixels."""
    longest_edge_key: str = ""
    """Key of the header that says so as the longer side in pixels."""
    batches: bool = False
    """Several images of one size are encoded together, up to --mtmd-batch-max-tokens."""


def siglip(tower: Tower) -> Node:
    """Gemma 3, Idefics 3, LFM2, Janus Pro, Phi 4."""
    resized = tower.kind in {"lfm2", "phi4"}
    x = tower.patches_in()
    learned = tower.positions_resized() if resized else tower.need("v.position_embd.weight")
    swapped = tower.kind in {"gemma3", "idefics3"}
    x = tower.vit(x, tower.patches, learned, swapped=swapped)
    if tower.kind == "gemma3":
        return _gemma3(tower, x)
    if tower.kind == "idefics3":
        return tower.linear(tower.merged(x, tower.merge), "mm.model.fc")
    if tower.kind == "lfm2":
        x = tower.merged(x, tower.merge)
        if tower.find("mm.input_norm.weight") is not None:
            x = tower.norm(x, "mm.input_norm")
        return tower.mlp(x, "mm.1", "mm.2")
    return tower.mlp(x, "mm.0", "mm.1" if tower.kind == "janus_pro" else "mm.2")


def _gemma3(tower: Tower, x: Node) -> Node:
    x = _pooled(tower, x)
    x = like("mul", like("rms_norm", x), tower.need("mm.soft_emb_norm.weight"))
    name = "mm.input_projection.weight"
    weight = tower.need(name)
    turned = view(weight, (weight.ne[1], weight.ne[0]))
    turned = op("cont", turned.ne, turned, element=tower.element(name))
    return op("mul_mat", (turned.ne[1], x.ne[1]), turned, x)


def _pooled(tower: Tower, x: Node) -> Node:
    """Mean of `merge` squared neighbours."""
    factor, batch = tower.merge, tower.batch
    wide, high = tower.columns // factor, tower.rows // factor
    x = tower.transposed(x, tower.columns, tower.rows, tower.width, batch)
    x = op("pool", (wide, high, tower.width, batch), x)
    return tower.transposed(view(x, (wide * high, tower.width, batch), dense=True))


def llava(tower: Tower) -> Node:
    """LLaVA and MobileVLM: the last layer is left out."""
    x = tower.patches_in()
    classes = tower.find("v.class_embd")
    positions = tower.patches + (classes is not None)
    if classes is not None:
        x = op("concat", (tower.width, positions), x, classes)
    rows = tower.input(positions)
    table = tower.need("v.position_embd.weight")
    x = like("add", x, op("get_rows", (tower.width, positions), table, rows))
    if tower.find("v.pre_ln.weight") is not None:
        x = tower.norm(x, "v.pre_ln")
    features = tower.features()
    kept = []
    last = max(features, default=tower.layers - 1)
    for number in range(last):
        if number in features:
            kept.append(x)
        x = tower.layer(x, number, positions=positions, swapped=True)
    if tower.find("v.post_ln.weight") is not None:
        x = tower.norm(x, "v.post_ln")
    if last in features:
        kept.append(x)
    for number, part in enumerate(kept):
        x = part if not number else op("concat", (x.ne[0] + part.ne[0], positions), x, part)
    x = op("get_rows", (x.ne[0], tower.patches), x, tower.input(tower.patches))
    if tower.kind == "ldp":
        return _ldp(tower, x)
    if tower.kind == "ldpv2":
        return _ldp2(tower, x)
    x = tower.linear(x, "mm.0")
    if tower.find("mm.3.weight") is not None:  # Yi's
        x = like("unary", tower.norm(x, "mm.1"))
        return tower.norm(tower.linear(x, "mm.3"), "mm.4")
    x = like("unary", x)
    return tower.linear(x, "mm.2") if tower.find("mm.2.weight") is not None else x


MOBILE_SIDE = 24
"""Patches along a side that MobileVLM's projectors are written for."""


def _ldp2(tower: Tower, x: Node) -> Node:
    x = tower.linear(like("unary", tower.linear(x, "mm.model.mlp.0")), "mm.model.mlp.2")
    x = tower.transposed(x, MOBILE_SIDE, MOBILE_SIDE, x.ne[0])
    x = op("pool", (MOBILE_SIDE // 2, MOBILE_SIDE // 2, x.ne[2]), x)
    near = _depthwise(tower, "mm.model.peg.0.weight", x, 1)
    near = tower.transposed(near, near.ne[2], *near.ne[:2])
    near = like("add", near, tower.need("mm.model.peg.0.bias"))
    return like("add", near, tower.transposed(x, x.ne[2], *x.ne[:2]))


def _depthwise(tower: Tower, kernel: str, x: Node, stride: int) -> Node:
    """ggml_conv_2d_dw of a 3 x 3 kernel with padding 1."""
    weight = tower.need(kernel)
    wide, high = ((side + 2 - 3) // stride + 1 for side in x.ne[:2])
    flat = view(x, (x.ne[0], x.ne[1], 1, x.ne[2]), dense=True)
    columns = op("im2col", (9, wide, high, x.ne[2]), weight, flat, element=F16)
    seen = view(columns, (9, wide * high, x.ne[2], 1), dense=True)
    kernels = view(weight, (9, 1, x.ne[2]), dense=True)
    out = op("mul_mat", (wide * high, 1, x.ne[2]), seen, kernels)
    return view(out, (wide, high, x.ne[2]), dense=True)


def _ldp(tower: Tower, x: Node) -> Node:
    x = tower.linear(like("unary", tower.linear(x, "mm.model.mlp.1")), "mm.model.mlp.3")
    first = tower.transposed(x, MOBILE_SIDE, MOBILE_SIDE, x.ne[0])
    x = _ldp_block(tower, 1, first, 1)
    x = like("add", first, tower.transposed(x, *first.ne))
    x = _ldp_block(tower, 2, x, 2)
    return view(x, (x.ne[0], x.ne[1] * x.ne[2]), dense=True)


def _ldp_block(tower: Tower, number: int, x: Node, stride: int) -> Node:
    """A depthwise block with squeeze and excitation: (channels, width, height) out."""
    name = f"mm.model.mb_block.{number}.block"
    x = _depthwise(tower, f"{name}.0.0.weight", x, stride)
    wide, high, channels = x.ne[:3]
    x = tower.norm(tower.transposed(x, channels, wide, high), f"{name}.0.1")
    opened = like("unary", tower.transposed(x, wide, high, channels))
    x = op("pool", (1, 1, channels), opened)
    x = like("unary", tower.linear(view(x, (channels, 1), dense=True), f"{name}.1.fc1"))
    x = like("unary", tower.linear(x, f"{name}.1.fc2"))
    x = like("mul", opened, view(x, (1, 1, channels), dense=True))
    x = tower.transposed(x, channels, wide * high)
    x = view(tower.linear(x, f"{name}.2.0"), (channels, wide, high), dense=True)
    return tower.norm(x, f"{name}.2.1")


def qwen2vl(tower: Tower) -> Node:
    """Qwen 2 and 2.5 VL; the latter attends to windows in all but some layers."""
    x = _two_frames(tower)
    rms = tower.kind == "qwen2.5vl_merger"
    every = tower.number("n_wa_pattern", 0)
    mask, order = None, None
    positions = tower.input(4 * tower.patches)
    if tower.find("v.pre_ln.weight") is not None:
        x = tower.norm(x, "v.pre_ln", rms=rms)
    if every:
        mask = _window_mask(tower)
        order = tower.input(tower.patches // 4)
        x = view(x, (4 * tower.width, tower.patches // 4), dense=True)
        x = op("get_rows", x.ne, x, order)
        x = view(x, (tower.width, tower.patches), dense=True)
    turn = tower.rotated(positions)
    for number in range(tower.layers):
        seen = mask if every and (number + 1) % every else None
        x = tower.layer(
            x, number, positions=tower.patches, rms=rms, turn=turn, mask=seen, swapped=True
        )
    if tower.find("v.post_ln.weight") is not None:
        x = tower.norm(x, "v.post_ln", rms=rms)
    x = tower.mlp(view(x, (4 * tower.width, tower.patches // 4), dense=True), "mm.0", "mm.2")
    return x if not every else op("get_rows", x.ne, x, tower.input(tower.patches // 4))


def _window_mask(tower: Tower) -> Node:
    """f16 from the start in build 11549; 11434 casts an f32 one, and once more in each layer."""
    half = tower.flash and tower.half_mask
    mask = tower.input(tower.patches, tower.patches, element=F16 if half else F32)
    return op("cast", mask.ne, mask, element=F16) if tower.flash and not half else mask


def _two_frames(tower: Tower) -> Node:
    """Patches of both frames of a clip, in the order of the merger's squares."""
    pixels = tower.pixels()
    both = [
        tower.convolve(f"v.patch_embd.weight{suffix}", pixels, tower.patch) for suffix in ("", ".1")
    ]
    return _squares(tower, like("add", *both))


def _squares(tower: Tower, x: Node) -> Node:
    x = view(x, (tower.width * 2, tower.columns // 2, tower.rows))
    x = op("cont", x.ne, x)
    return op("cont", (tower.width, tower.patches), view(x, x.ne))


def qwen3vl(tower: Tower) -> Node:
    """Qwen 3 VL, with features of some layers beside the last one's."""
    x = _two_frames(tower)
    bias = tower.find("v.patch_embd.bias")
    x = like("add", x, bias) if bias is not None else x
    x = like("add", x, _squares(tower, tower.positions_resized()))
    turn = tower.rotated(tower.input(4 * tower.patches))
    if tower.find("v.pre_ln.weight") is not None:
        x = tower.norm(x, "v.pre_ln")
    factor, beside = tower.merge**2, None
    for number in range(tower.layers):
        x = tower.layer(x, number, positions=tower.patches, turn=turn)
        name = f"v.deepstack.{number}"
        if tower.find(f"{name}.fc1.weight") is None:
            continue
        part = view(x, (tower.width * factor, tower.patches // factor), dense=True)
        part = tower.mlp(tower.norm(part, f"{name}.norm"), f"{name}.fc1", f"{name}.fc2")
        beside = part if beside is None else _beside(beside, part)
    if tower.find("v.post_ln.weight") is not None:
        x = tower.norm(x, "v.post_ln")
    x = tower.mlp(view(x, (4 * tower.width, tower.patches // 4), dense=True), "mm.0", "mm.2")
    return x if beside is None else _beside(x, beside)


def _beside(one: Node, other: Node) -> Node:
    return op("concat", (one.ne[0] + other.ne[0], one.ne[1]), one, other)


def pixtral(tower: Tower) -> Node:
    """Pixtral, Mistral Small and LightOnOCR."""
    places = tower.input(tower.patches), tower.input(tower.patches)
    x = tower.patches_in()
    x = tower.vit(x, tower.patches, rms=True, turn=tower.rotated(*places))
    merge = tower.merge
    if tower.find("mm.patch_merger.weight") is not None:
        x = like("mul", like("rms_norm", x), tower.need("mm.input_norm.weight"))
        x = view(x, (tower.columns, tower.rows, tower.width))
        x = op("cont", x.ne, x)
        kernel = view(x, (merge, merge, tower.width))
        inner = merge**2 * tower.width
        x = op("im2col", (inner, tower.columns // merge, tower.rows // merge), kernel, x)
        x = tower.linear(view(x, (inner, x.ne[1] * x.ne[2]), dense=True), "mm.patch_merger")
    x = tower.mlp(x, "mm.1", "mm.2")
    end = tower.find("v.token_embd.img_break")
    if end is None:
        return x
    wide, high = tower.columns // merge, tower.rows // merge
    rows = view(x, (x.ne[0], wide, high), dense=True)
    token = Node("none", (x.ne[0], 1, high), F32)
    token = like("add", like("scale", token), end)
    x = op("concat", (x.ne[0], wide + 1, high), rows, token)
    return view(x, (x.ne[0], wide * high + high - 1))


def internvl(tower: Tower) -> Node:
    """InternVL: tiles of one size go through together."""
    x = tower.patches_in()
    classes = tower.need("v.class_embd")
    again = op("repeat", (tower.width, 1, tower.batch), classes)
    x = op("concat", (tower.width, tower.patches + 1, tower.batch), x, again)
    large = (tower.width, tower.layers) == (3200, 45)  # the 6B tower of InternVL
    learned = tower.need("v.position_embd.weight")
    x = tower.vit(x, tower.patches + 1, learned, rms=large)
    x = view(x, (tower.width, tower.patches, tower.batch))
    x = op("cont", x.ne, x)
    factor = tower.merge
    rows = tower.patches // factor**2
    x = view(
        x, (tower.width * factor**2, tower.rows // factor, tower.columns // factor, tower.batch)
    )
    x = op("cont", x.ne, x)
    x = op("cont", (x.ne[0], rows, tower.batch), view(x, x.ne))
    return tower.mlp(tower.norm(x, "mm.model.mlp.0"), "mm.model.mlp.1", "mm.model.mlp.3")


def llama4(tower: Tower) -> Node:
    """Llama 4."""
    count = tower.patches + 1
    places = tower.input(count), tower.input(count)
    weight = tower.need("v.patch_embd.weight")
    inner = tower.patch**2 * 3
    kernel = view(weight, (tower.patch, tower.patch, 3, tower.width), dense=True)
    x = op("im2col", (inner, tower.columns, tower.rows), kernel, tower.pixels())
    x = op("mul_mat", (tower.width, tower.columns, tower.rows), weight, x)
    x = view(x, (tower.width, tower.patches), dense=True)
    x = op("concat", (tower.width, count), x, tower.need("v.class_embd"))
    learned = tower.need("v.position_embd.weight")
    x = tower.vit(x, count, learned, turn=tower.rotated(*places))
    factor = tower.merge
    x = view(x, (tower.width * factor, tower.columns // factor, tower.rows))
    x = op("cont", (tower.width * factor**2, tower.columns // factor, tower.rows // factor), x)
    x = op("cont", (x.ne[0], tower.patches // factor**2), x)
    for name in ("mm.model.mlp.1", "mm.model.mlp.2"):
        x = like("unary", tower.linear(x, name))
    return tower.linear(x, "mm.model.fc")


def kimivl(tower: Tower) -> Node:
    """Kimi VL."""
    places = tower.input(tower.patches), tower.input(tower.patches)
    learned = tower.positions_resized()
    x = tower.vit(tower.patches_in(), tower.patches, learned, turn=tower.rotated(*places))
    x = tower.merged(x, tower.merge)
    inner, rows = x.ne[0], x.ne[1]
    x = view(x, (tower.width, rows * tower.merge**2), dense=True)
    x = view(tower.norm(x, "mm.input_norm"), (inner, rows), dense=True)
    return tower.mlp(x, "mm.1", "mm.2")


def glm4v(tower: Tower) -> Node:
    """GLM 4V."""
    x = like("add", _two_frames(tower), tower.need("v.patch_embd.bias"))
    if tower.find("v.norm_embd.weight") is not None:
        x = tower.norm(x, "v.norm_embd", rms=True)
    learned = None
    if tower.find("v.position_embd.weight") is not None:
        learned = _squares(tower, tower.positions_resized())
    turn = tower.rotated(tower.input(4 * tower.patches))
    x = tower.vit(x, tower.patches, learned, rms=True, turn=turn)
    merge = tower.merge
    tokens = tower.patches // merge**2
    x = view(x, (merge, merge, tower.width, tokens))
    x = tower.convolve("mm.patch_merger.weight", op("cont", x.ne, x), merge)
    x = view(x, (x.ne[2], tokens), dense=True)
    x = like("add", x, tower.need("mm.patch_merger.bias"))
    x = like("unary", tower.norm(tower.linear(x, "mm.model.fc"), "mm.post_norm"))
    return tower.mlp(x, "mm.up", "mm.down", "mm.gate")


def resampler(tower: Tower) -> Node:
    """MiniCPM-V: queries of a fixed number look at the patches."""
    out = tower.need("resampler.proj.weight").ne[0]
    omega = tower.input(out // 4, element=F32)
    places = [tower.input(1, tower.patches, element=F32) for _ in range(2)]
    table = tower.need("v.position_embd.weight")
    rows = tower.input(tower.patches)
    learned = op("get_rows", (tower.width, tower.patches), table, rows)
    x = tower.vit(tower.patches_in(), tower.patches, learned, swapped=True)
    v = tower.norm(
        op("mul_mat", (out, tower.patches), tower.need("resampler.kv.weight"), x), "resampler.ln_kv"
    )
    q = tower.norm(tower.need("resampler.query"), "resampler.ln_q")
    angles = op("repeat", (out // 4, tower.patches), omega)
    halves = []
    for place in places:
        theta = like("mul", angles, place)
        waves = op("sin", theta.ne, theta), op("sin", theta.ne, theta)
        halves.append(_beside(*waves))
    k = like("add", v, _beside(*halves))
    heads = out // 128
    q, k, v = (
        tower.linear(part, f"resampler.attn.{name}")
        for part, name in ((q, "q"), (k, "k"), (v, "v"))
    )
    q, k, v = (view(part, (128, heads, part.ne[1]), dense=True) for part in (q, k, v))
    x = tower.norm(tower.attend(q, k, v, "resampler.attn.out"), "resampler.ln_post")
    weight = tower.need("resampler.proj.weight")
    return op("mul_mat", (weight.ne[1], x.ne[1]), weight, x)


def gemma4v(tower: Tower) -> Node:
    """Gemma 4."""
    pixels = like("scale", tower.pixels())
    x = tower.patches_in(pixels)
    places = tower.input(tower.patches), tower.input(tower.patches)
    table = tower.need("v.position_embd.weight")
    for place in places:
        seen = view(table, (tower.width, table.ne[1]))
        x = like("add", x, op("get_rows", (tower.width, tower.patches), seen, place))
    x = tower.vit(x, tower.patches, rms=True, turn=tower.rotated(*places), norm_v=True)
    x = like("scale", _pooled(tower, x))
    if tower.find("v.std_bias") is not None and tower.find("v.std_scale") is not None:
        x = like("mul", like("sub", x, tower.need("v.std_bias")), tower.need("v.std_scale"))
    return tower.linear(like("rms_norm", x), "mm.input_projection")


def whisper(tower: Tower) -> Node:
    """Encoders of Whisper's kind: Ultravox, Voxtral, Qwen 2 Audio, MERaLiON, Music Flamingo."""
    positions = AUDIO_FRAMES // 2
    x = tower.pixels(1)
    for number, stride in ((1, 1), (2, 2)):
        x = like("unary", tower.convolve_1d(f"a.conv1d.{number}", x, stride))
    x = tower.transposed(x)
    table = tower.need("a.position_embd.weight")
    learned = view(table, (table.ne[0], positions))
    pooled = tower.kind in {"qwen2a", "voxtral", "musicflamingo"}
    x = tower.vit(x, positions, learned, pooled=pooled)
    if tower.kind in {"ultravox", "voxtral", "meralion"}:
        inner = tower.width * tower.number("projector.stack_factor")
        count = x.ne[0] * x.ne[1]
        padded = -(-count // inner) * inner
        if padded > count:
            x = op("pad", (padded,), view(x, (count,)))
        x = view(x, (inner, padded // inner))
    if tower.kind == "ultravox":
        x = like("mul", like("rms_norm", x), tower.need("mm.a.norm_pre.weight"))
        x = tower.linear(x, "mm.a.mlp.1")
        x = op("glu", (x.ne[0] // 2, x.ne[1]), x)
        x = like("mul", like("rms_norm", x), tower.need("mm.a.norm_mid.weight"))
        return tower.linear(x, "mm.a.mlp.2")
    if tower.kind == "qwen2a":
        return tower.linear(x, "mm.a.fc")
    if tower.kind == "meralion":
        x = like("unary", tower.linear(tower.norm(x, "mm.a.norm_pre"), "mm.a.mlp.0"))
        gate, pool = tower.linear(x, "mm.a.mlp.1"), tower.linear(x, "mm.a.mlp.2")
        return tower.linear(like("mul", like("unary", gate), pool), "mm.a.mlp.3")
    return tower.mlp(x, "mm.a.mlp.1", "mm.a.mlp.2")


QWEN_TOKENS, LARGE_WARMUP = 4096, 46 * 46
TYPES: dict[str, Kind] = {
    "mlp": Kind(llava),
    "ldp": Kind(llava),
    "ldpv2": Kind(llava),
    "gemma3": Kind(siglip, merge=4),
    "idefics3": Kind(siglip),
    "lfm2": Kind(siglip, most_tokens=256),
    "janus_pro": Kind(siglip),
    "phi4": Kind(siglip, merge_key="", warmup_tokens=256, most_pixels_key="image_max_pixels"),
    "qwen2vl_merger": Kind(
        qwen2vl, merge=2, merge_key="spatial_merge_size", warmup_tokens=LARGE_WARMUP,
        most_tokens=QWEN_TOKENS,
    ),
    "qwen2.5vl_merger": Kind(
        qwen2vl, merge=2, merge_key="spatial_merge_size", warmup_tokens=LARGE_WARMUP,
        most_tokens=QWEN_TOKENS,
    ),
    "qwen3vl_merger": Kind(
        qwen3vl, merge=2, merge_key="spatial_merge_size", warmup_tokens=LARGE_WARMUP,
        most_tokens=QWEN_TOKENS,
    ),
    "pixtral": Kind(
        pixtral, merge_key="spatial_merge_size", warmup_tokens=256, most_tokens=1024
    ),
    "lightonocr": Kind(
        pixtral, merge_key="spatial_merge_size", warmup_tokens=256,
        longest_edge_key="preproc_image_size",
    ),
    "internvl": Kind(internvl, batches=True),
    "llama4": Kind(llama4),
    "kimivl": Kind(kimivl, warmup_tokens=256, most_tokens=1024),
    "glm4v": Kind(
        glm4v, merge=2, merge_key="spatial_merge_size", warmup_tokens=LARGE_WARMUP,
        most_tokens=QWEN_TOKENS,
    ),
    "resampler": Kind(resampler),
    "gemma4v": Kind(gemma4v, merge=3, warmup_tokens=256, most_tokens=1120, batches=True),
    "ultravox": Kind(whisper, "audio"),
    "voxtral": Kind(whisper, "audio"),
    "qwen2a": Kind(whisper, "audio"),
    "meralion": Kind(whisper, "audio"),
    "musicflamingo": Kind(whisper, "audio"),
}  # fmt: skip


def grid_of(tokens: int) -> tuple[int, int]:
    """The rectangle with the most of `tokens` tokens, near to a square."""
    side = isqrt(tokens)
    rectangles = [(wide, tokens // wide) for wide in range(max(side, 1), max(side, 1) + 9)]
    return max(rectangles, key=lambda pair: pair[0] * pair[1])
