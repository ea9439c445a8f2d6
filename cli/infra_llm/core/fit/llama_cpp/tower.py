"""The compute graph of an image or audio encoder, tensor by tensor.

Source: `clip_graph::build_vit` and the helpers beside it in tools/mtmd/clip.cpp, `ggml_conv_2d` and
`ggml_conv_1d` in ggml/src/ggml.c (build 11434). What comes after the layers, and how the pixels get
into them, is each projector's own (projectors.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.scheduler import Backend, buffer_peaks
from infra_llm.core.fit.llama_cpp.tensors import (
    F16,
    F32,
    I32,
    Graph,
    Node,
    given,
    like,
    op,
    stored,
    view,
)
from infra_llm.core.model import ModelProfile, Tensor

Turn = Callable[[Node], Node]
"""Rotary positions put on queries and keys."""


class Tower:
    """Builds one graph of one modality ("vision" or "audio") for one size of input.

    `size` is in pixels (width, height), for audio in frames (count, bins).
    """

    def __init__(
        self,
        projector: ModelProfile,
        modality: str,
        size: tuple[int, int],
        backend: Backend,
        *,
        kind: str = "",
        batch: int = 1,
    ) -> None:
        self.projector, self.modality, self.backend = projector, modality, backend
        self.kind = kind
        self.merge = 1
        """Patches along a side of one token's square."""
        self.flash = True
        self.half_mask = True
        """Masks are f16 from the start; False: they are cast (build 11434)."""
        self.size, self.batch = size, batch
        self.prefix = modality[0]
        self.graph = Graph()
        self._nodes: dict[str, Node | None] = {}
        self.width = self.number("embedding_length")
        self.heads = self.number("attention.head_count")
        self.heads_kv = self.number("attention.head_count_kv", self.heads)
        self.head = self.number("attention.head_dim", 0) or self.width // self.heads
        self.layers = self.number("block_count")
        self.patch = self.number("patch_size") if modality == "vision" else 1

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number of the header; raises BadInputError where it is needed and missing."""
        return header_number(self.projector, f"{self.modality}.{key}", default)

    def features(self) -> list[int]:
        """Layers whose outputs are used beside the last one's; empty where none is named."""
        found = self.projector.hyper.get(f"{self.modality}.feature_layer") or []
        items = found if isinstance(found, list) else [found]
        return [item for item in items if isinstance(item, int) and 0 <= item <= self.layers]

    @property
    def columns(self) -> int:
        return self.size[0] // self.patch

    @property
    def rows(self) -> int:
        return self.size[1] // self.patch

    @property
    def patches(self) -> int:
        return self.columns * self.rows

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.projector.all_tensors}

    def find(self, name: str) -> Node | None:
        """The weight of that name, or None."""
        if name not in self._nodes:
            tensor = self._tensors.get(name)
            self._nodes[name] = (
                stored(tensor.shape, tensor.bytes, 0, weight=True) if tensor else None
            )
        return self._nodes[name]

    def need(self, name: str) -> Node:
        """The weight of that name; raises BadInputError where the file lacks it."""
        found = self.find(name)
        if found is None:
            raise BadInputError(
                f"tensor {name} is missing",
                where=self.projector.name,
                hint="the engine needs it too; the file is incomplete",
            )
        return found

    def element(self, name: str) -> int:
        """Bytes of one element of a weight."""
        return F32 if self._tensors[name].type == "F32" else F16

    def input(self, *ne: int, element: int = I32) -> Node:
        return given(ne, element)

    def pixels(self, channels: int = 3) -> Node:
        return given((*self.size, channels, self.batch))

    # --- blocks -----------------------------------------------------------------------------------

    def linear(self, x: Node, name: str) -> Node:
        """`name`.weight, and `name`.bias where there is one."""
        weight = self.need(f"{name}.weight")
        x = op("mul_mat", (weight.ne[1], *x.ne[1:]), weight, x)
        bias = self.find(f"{name}.bias")
        return like("add", x, bias) if bias is not None else x

    def norm(self, x: Node, name: str, *, rms: bool = False) -> Node:
        """Layer norm or root mean square, with the weight and bias that there are."""
        x = like("rms_norm" if rms else "norm", x)
        for kind, suffix in (("mul", "weight"), ("add", "bias")):
            part = self.find(f"{name}.{suffix}")
            x = like(kind, x, part) if part is not None else x
        return x

    def mlp(self, x: Node, up: str, down: str, gate: str = "") -> Node:
        """build_ffn."""
        wide = self.linear(x, up)
        if gate and self.find(f"{gate}.weight") is not None:
            gated = self.linear(x, gate)
            wide = op("glu", gated.ne, gated, wide)
        else:
            wide = like("unary", wide)
        return self.linear(wide, down)

    def convolve(self, kernel: str, x: Node, stride: int) -> Node:
        """ggml_conv_2d without padding: (width, height, channels, batch)."""
        weight = self.need(kernel)
        k_wide, k_high, channels, filters = weight.ne
        across, down = (x.ne[0] - k_wide) // stride + 1, (x.ne[1] - k_high) // stride + 1
        inner, frames = k_wide * k_high * channels, x.ne[3]
        element = F32 if self._tensors[kernel].type == "BF16" else F16
        columns = op("im2col", (inner, across, down, frames), weight, x, element=element)
        flat = view(columns, (inner, across * down * frames), dense=True)
        kernels = view(weight, (inner, filters), dense=True)
        out = op("mul_mat", (flat.ne[1], filters), flat, kernels)
        turned = view(out, (across, down, filters, frames))
        return op("cont", turned.ne, turned)

    def convolve_1d(self, name: str, x: Node, stride: int) -> Node:
        """ggml_conv_1d_ph with its bias: half of the kernel is padded on both sides."""
        weight = self.need(f"{name}.weight")
        k_wide, channels, filters = weight.ne[:3]
        length = (x.ne[0] + 2 * (k_wide // 2) - k_wide) // stride + 1
        element = F32 if self._tensors[f"{name}.weight"].type == "BF16" else F16
        columns = op("im2col", (k_wide * channels, length), weight, x, element=element)
        kernels = view(weight, (k_wide * channels, filters), dense=True)
        out = op("mul_mat", (length, filters), columns, kernels)
        return like("add", out, self.need(f"{name}.bias"))

    def transposed(self, x: Node, *ne: int) -> Node:
        """A transpose made contiguous."""
        return op("cont", ne or (x.ne[1], x.ne[0], *x.ne[2:]), view(x, ne or x.ne))

    def patches_in(self, x: Node | None = None) -> Node:
        """build_inp: (width, patches, batch)."""
        x = self.convolve("v.patch_embd.weight", x or self.pixels(), self.patch)
        x = view(x, (self.patches, self.width, self.batch), dense=True)
        x = self.transposed(x)
        bias = self.find("v.patch_embd.bias")
        return like("add", x, bias) if bias is not None else x

    def positions_resized(self) -> Node:
        """resize_position_embeddings."""
        table = self.need("v.position_embd.weight")
        side = round(table.ne[1] ** 0.5)
        if (self.columns, self.rows) == (side, side):
            return table
        grid = view(table, (side, side, self.width))
        grid = op("upscale", (self.columns, self.rows, self.width), grid)
        return op("cont", (self.width, self.patches), view(grid, grid.ne))

    def attend(self, q: Node, k: Node, v: Node, name: str, mask: Node | None = None) -> Node:
        """build_attn: (head, heads, positions, batch) in, (width, positions * batch) out."""
        for x in (q, k, v):
            self.graph.expand(x)
        head, heads, rows, batch = q.ne
        seen, kv_heads = k.ne[2], k.ne[1]
        turned = view(q, (head, rows, heads, batch))
        k_view = view(k, (head, seen, kv_heads, batch))
        if self.flash:
            k16 = op("cast", k_view.ne, k_view, element=F16)
            v_view = view(v, (head, seen, kv_heads, batch))
            v16 = op("cast", v_view.ne, v_view, element=F16)
            sources = [turned, k16, v16]
            if mask is not None:
                seen_mask = mask if self.half_mask else op("cast", mask.ne, mask, element=F16)
                sources.append(seen_mask)
            x = op("flash_attn", (head, heads, rows, batch), *sources)
            x = view(x, (head * heads, rows * batch), dense=True)
        else:
            v_all = op("cont", (seen, head, kv_heads, batch), view(v, v.ne))
            scores = op("mul_mat", (seen, rows, heads, batch), k_view, turned)
            scores = like("soft_max", scores, *([mask] if mask is not None else []))
            x = op("mul_mat", (head, rows, heads, batch), v_all, scores)
            x = op("cont", (head * heads, rows * batch), view(x, x.ne))
        return self.linear(x, name)

    def layer(self, x: Node, number: int, **kinds: Any) -> Node:
        """One layer of build_vit: attention and feed-forward with their residuals."""
        name, rms = f"{self.prefix}.blk.{number}", kinds.get("rms", False)
        cur = self.norm(x, f"{name}.ln1", rms=rms)
        q, k, v = self.heads_of(cur, name, kinds["positions"], rms=rms)
        turn: Turn | None = kinds.get("turn")
        if turn is not None:
            q, k = turn(q), turn(k)
        if kinds.get("norm_v"):
            v = like("rms_norm", v)
        cur = self.attend(q, k, v, f"{name}.attn_out", kinds.get("mask"))
        cur = self.scaled(cur, f"{name}.ls1.weight")
        cur = self.after(cur, f"{name}.attn_post_norm", rms=rms)
        x = like("add", cur, x)
        cur = self.norm(x, f"{name}.ln2", rms=rms)
        up, down = f"{name}.ffn_up", f"{name}.ffn_down"
        if kinds.get("swapped") and self.need(f"{down}.weight").ne[0] == self.width:
            up, down = down, up  # files of old converters name them the other way round
        cur = self.mlp(cur, up, down, f"{name}.ffn_gate")
        cur = self.after(cur, f"{name}.ffn_post_norm", rms=rms)
        cur = self.scaled(cur, f"{name}.ls2.weight")
        x = like("add", x, cur)
        return self.scaled(x, f"{name}.out_scale.weight")

    def heads_of(self, x: Node, name: str, positions: int, *, rms: bool) -> tuple[Node, Node, Node]:
        """Queries, keys and values by head, normed where the file has norms for them."""
        shapes = [
            (self.head, count, positions, self.batch)
            for count in (self.heads, self.heads_kv, self.heads_kv)
        ]
        if self.find(f"{name}.attn_qkv.weight") is not None:
            both = self.linear(x, f"{name}.attn_qkv")
            parts = [view(both, shape) for shape in shapes]
            return (
                self._normed(parts[0], name, "q", rms),
                self._normed(parts[1], name, "k", rms),
                parts[2],
            )
        parts = [self.linear(x, f"{name}.attn_{part}") for part in "qkv"]
        norm = self.find(f"{name}.attn_q_norm.weight")
        each_head = norm is not None and norm.ne[0] == self.head
        if not each_head:
            parts[:2] = [self._normed(parts[n], name, "qk"[n], rms) for n in (0, 1)]
        parts = [view(part, shape, dense=True) for part, shape in zip(parts, shapes, strict=True)]
        if each_head:
            parts[:2] = [self._normed(parts[n], name, "qk"[n], rms) for n in (0, 1)]
        return parts[0], parts[1], parts[2]

    def _normed(self, x: Node, name: str, which: str, rms: bool) -> Node:
        place = f"{name}.attn_{which}_norm"
        return x if self.find(f"{place}.weight") is None else self.norm(x, place, rms=rms)

    def scaled(self, x: Node, name: str) -> Node:
        scale = self.find(name)
        return x if scale is None else like("mul", x, scale)

    def after(self, x: Node, name: str, *, rms: bool) -> Node:
        return x if self.find(f"{name}.weight") is None else self.norm(x, name, rms=rms)

    def vit(self, x: Node, positions: int, learned: Node | None = None, **kinds: Any) -> Node:
        """build_vit: (width, positions, batch) in and out."""
        rms = kinds.get("rms", False)
        if learned is not None:
            x = like("add", x, learned)
        x = view(x, (self.width, positions * self.batch), dense=True)
        if self.find(f"{self.prefix}.pre_ln.weight") is not None:
            x = self.norm(x, f"{self.prefix}.pre_ln", rms=rms)
        for number in range(self.layers):
            x = self.layer(x, number, positions=positions, **kinds)
        if kinds.get("pooled"):
            x = self.transposed(x)
            x = op("pool", (x.ne[0] // 2, x.ne[1]), x)
            x = self.transposed(x)
        if self.find(f"{self.prefix}.post_ln.weight") is not None:
            x = self.norm(x, f"{self.prefix}.post_ln", rms=rms)
        return view(x, (self.width, x.ne[1] // self.batch, self.batch), dense=True)

    def merged(self, x: Node, factor: int) -> Node:
        """build_patch_merge_permute: `factor` squared neighbours become one row."""
        wide, high = (-(-count // factor) * factor for count in (self.columns, self.rows))
        width = x.ne[0]
        x = view(x, (width, self.columns, self.rows), dense=True)
        if (wide, high) != (self.columns, self.rows):
            x = op("pad", (width, wide, high), x)
        x = view(x, (width * factor, high, wide // factor))
        x = op("cont", (width * factor**2, high // factor, wide // factor), x)
        rows = wide * high // factor**2
        return op("cont", (width * factor**2, rows), view(x, x.ne))

    def rotated(self, *positions: Node) -> Turn:
        """A rotation for each of the positions, in place (build_rope_2d, ggml_rope_multi)."""

        def turn(x: Node) -> Node:
            for place in positions:
                x = like("rope", x, place)
            return x

        return turn

    def peak(self, out: Node) -> list[int]:
        """Bytes of the compute buffer where the weights are; the host's beside it for a GPU."""
        self.graph.expand(out)
        return buffer_peaks(self.graph, self.backend)


def header_number(projector: ModelProfile, key: str, default: int | None = None) -> int:
    """A whole number above 0 of the header (0 only as a default).

    Raises BadInputError for another value, and where it is missing without a default.
    """
    value = projector.hyper.get(key, default)
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
    if not fine or (value == 0 and default != 0):
        raise BadInputError(
            f"the header lacks clip.{key}" if value is None else f"clip.{key} is {value!r}",
            where=projector.name,
            hint="the engine needs it too; the file is incomplete",
        )
    assert isinstance(value, int)
    return value
