"""Blocks that most model graphs are made of.

Source: the `build_*` helpers of src/llama-graph.cpp (build 11434).
"""

from __future__ import annotations

from dataclasses import dataclass

from infra_llm.core.fit.llama_cpp.cache import CELL_BYTES, CacheOptions, cells, window_cells
from infra_llm.core.fit.llama_cpp.hyper import Hyper
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.fit.llama_cpp.tensors import (
    F16,
    F32,
    I32,
    I64,
    Graph,
    LayoutError,
    Node,
    given,
    like,
    op,
    stored,
    view,
    write,
)
from infra_llm.core.fit.llama_cpp.weights import HOST, Placement, tensor_bytes, tied_output
from infra_llm.core.model import ModelProfile


@dataclass(frozen=True)
class Release:
    """What changed between releases of the engine and moves its buffers."""

    server_outputs: bool = True
    """A server reserves one row of logits a slot; False: one for each token of a micro-batch."""
    half_mask: bool = True
    """The attention mask is f16 from the start; False: f32 and a cast on the device."""
    rotates_cache: bool = True
    """Rows of quantized caches are rotated (Hadamard) before they are stored."""
    pins_norms: bool = True
    """Norms run on their layer's device; llama-fit-params forgets it when it adds up sizes."""
    second_input: bool = True
    """One more row of embeddings a token of the micro-batch lies on the host (seen in 11549)."""
    converts_in_buffer: bool = True
    """CUDA's flash attention converts quantized caches to f16 within the compute buffer."""


PINNED = Release()
RELEASES = {
    0: Release(
        server_outputs=False,
        half_mask=False,
        rotates_cache=False,
        second_input=False,
        converts_in_buffer=False,
    ),
    8600: Release(
        server_outputs=False, half_mask=False, second_input=False, converts_in_buffer=False
    ),
    9400: Release(second_input=False, converts_in_buffer=False),
    11000: Release(second_input=False),
    11500: PINNED,
}
"""By the first build that behaves so: rotation ggml-org/llama.cpp#21038, f16 mask #23764, output
rows #23861. The bounds are known to a few hundred builds."""


def release_of(build: int | None) -> Release:
    """The release that a build number belongs to; None stands for the pinned build."""
    if build is None:
        return PINNED
    return RELEASES[max(first for first in RELEASES if first <= build)]


THIRD_INPUT = frozenset(["qwen35", "qwen35moe", "qwen3next"])
"""Families of which a server of build 11549 holds one row more (seen with a small qwen35)."""


@dataclass(frozen=True)
class Batch:
    """The worst-case micro-batch of `sched_reserve`."""

    tokens: int
    sequences: int
    outputs: int


def reserve_batch(options: CacheOptions, release: Release) -> Batch:
    """Tokens, sequences and output rows that the engine reserves for."""
    sequences = options.sequences
    tokens = min(options.micro_batch, options.context)
    wanted = sequences * (1 + options.drafted)
    few = release.server_outputs and not options.embeddings
    outputs = min(tokens, wanted) if few else tokens
    return Batch(-(-tokens // sequences) * sequences, sequences, max(1, outputs))


MULTIMODAL_ROTARY = frozenset(
    ["qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "paddleocr"]
)


def positions_each(model: ModelProfile) -> int:
    """Positions a token (n_pos_per_embd): 4 with multi-section rotary positions."""
    sections = model.hyper.get("rope.dimension_sections") or []
    may = model.architecture in {"glm4", "glm4moe", "hunyuan_vl"}
    used = isinstance(sections, list) and len(sections) > 1 and sections[0] > 0 and sections[1] > 0
    return 4 if model.architecture in MULTIMODAL_ROTARY or (may and used) else 1


class Builder:
    """Builds one graph: `layer` says which layer's weights `weight` looks up."""

    def __init__(
        self,
        model: ModelProfile,
        hyper: Hyper,
        placement: Placement,
        options: CacheOptions,
        backend: Backend,
        release: Release,
    ) -> None:
        self.model, self.hyper, self.placement = model, hyper, placement
        self.options, self.backend, self.release = options, backend, release
        self.batch = reserve_batch(options, release)
        self.tokens = self.batch.tokens
        self.graph = Graph()
        self._tensors = model.by_layer
        self._weights: dict[tuple[int | None, str], Node | None] = {}
        self.positions = given((self.tokens * positions_each(model),), I32)
        self.masks: dict[bool, tuple[Node, Node, Node]] = {}
        self.rotations: dict[tuple[str, bool], Node] = {}
        self.state_rows: Node | None = None
        self.cells, self.streams = cells(options)
        self.short_cells = window_cells(hyper, options)
        self.full_offload = HOST not in (*placement.layer_device, placement.output_device)

    def weight(self, layer: int | None, role: str) -> Node | None:
        """The weight `role` of a layer (None: outside the layers), or None where there is none."""
        key = (layer, role)
        if key not in self._weights:
            tensor = self._tensors.get(key)
            if tensor is None:
                self._weights[key] = None
            else:
                place = self.placement.device_of(tensor)
                device = self.backend.host if place == HOST else place
                node = stored(tensor.shape, tensor_bytes(tensor, cuda=True), device, weight=True)
                node.name = tensor.name
                self._weights[key] = node
        return self._weights[key]

    def need(self, layer: int | None, role: str) -> Node:
        """A weight that the family must have. Raises LayoutError."""
        found = self.weight(layer, role)
        if found is None:
            raise LayoutError(f"there is no {role if layer is None else f'blk.{layer}.{role}'}")
        return found

    def mul_mat(self, weight: Node, x: Node) -> Node:
        """weight^T x: as many columns as the weight has rows. Raises LayoutError."""
        if weight.ne[0] != x.ne[0] or x.ne[2] % weight.ne[2]:
            raise LayoutError(f"tensor {weight.name} is {list(weight.ne)}, it meets {list(x.ne)}")
        return op("mul_mat", (weight.ne[1], x.ne[1], x.ne[2], x.ne[3]), weight, x)

    def norm(self, x: Node, layer: int | None, role: str) -> Node:
        """Root mean square or layer norm with its weight and bias, where the model has them."""
        weight, bias = self.weight(layer, f"{role}.weight"), self.weight(layer, f"{role}.bias")
        kind = "norm" if bias is not None else "rms_norm"
        x = Node(kind, x.ne, F32, (x,))
        pinned = self.full_offload and self.release.pins_norms
        if layer is not None and pinned and (weight is not None or bias is not None):
            x.device = self.placement.layer_device[layer]
        if weight is not None:
            x = like("mul", x, weight)
        return like("add", x, bias) if bias is not None else x

    def biased(self, x: Node, layer: int, role: str) -> Node:
        """mul_mat with `role`.weight and, where there is one, `role`.bias."""
        x = self.mul_mat(self.need(layer, f"{role}.weight"), x)
        bias = self.weight(layer, f"{role}.bias")
        return like("add", x, bias) if bias is not None else x

    def embed(self) -> Node:
        """Token embedding (build_inp_embd): both inputs exist, the token path is used."""
        table = self.need(None, "token_embd.weight")
        tokens = given((self.tokens,), I32)
        direct = given((self.hyper.embedding, self.tokens))
        x = op("get_rows", (table.ne[0], self.tokens), table, tokens)
        self.graph.expand(x)
        self.graph.expand(direct)
        if self.release.second_input:
            more = 2 if self.hyper.architecture in THIRD_INPUT else 1
            for _ in range(more):
                self.graph.expand(given((self.hyper.embedding, self.tokens)))
        return x

    def select(self, x: Node, outputs: Node) -> Node:
        """Keep the rows that give logits."""
        return op("get_rows", (x.ne[0], self.batch.outputs), x, outputs)

    def mask(self, windowed: bool) -> tuple[Node, Node, Node]:
        """Attention mask and the row numbers of K and V (build_attn_inp_kv, ..._iswa)."""
        if windowed not in self.masks:
            width = self.short_cells if windowed else self.cells
            rows = self.tokens // self.streams
            flash = self.options.flash_attention
            direct = flash and self.release.half_mask
            mask = given((width, rows, 1, self.streams), F16 if direct else F32)
            if flash and not direct:
                mask = op("cast", mask.ne, mask, element=F16)
            k_rows = given((self.tokens,), I64)
            wide = max(self.hyper.v_width, default=1)
            v_rows = given((self.tokens if flash else self.tokens * wide,), I64)
            self.masks[windowed] = (mask, k_rows, v_rows)
        return self.masks[windowed]

    def cache(self, layer: int) -> tuple[Node, Node]:
        """K and V of a layer (a layer that shares a cache looks into its owner's)."""
        hyper = self.hyper
        device = self.placement.layer_device[layer]
        device = self.backend.host if device == HOST else device
        width = self.short_cells if hyper.windowed[layer] else self.cells
        ne_k = (hyper.k_width[layer], width, self.streams)
        ne_v = (hyper.v_width[layer], width, self.streams)
        return stored(ne_k, 0, device, weight=False), stored(ne_v, 0, device, weight=False)

    def state(self, layer: int, width: int, device: int) -> Node:
        """The sequences' rows of a recurrent state (build_rs)."""
        del layer
        sequences = self.batch.sequences
        store = stored((width, sequences), 0, device, weight=False)
        if self.state_rows is None:
            self.state_rows = given((sequences,), I32)
        self.graph.expand(write(store, view(store, (0,)), store))
        rows = op("get_rows", (width, sequences), store, view(self.state_rows, (sequences,)))
        return self.graph.expand(rows)

    def store(self, x: Node, device: int) -> Node:
        """Copy a new state into the cache."""
        target = stored(x.ne, 0, device, weight=False)
        return write(target, x, view(target, x.ne))

    def rotate(self, x: Node, which: str, layer: int, head: int) -> Node:
        """Hadamard rotation of K or V rows for a quantized cache (llama_mul_mat_hadamard)."""
        kind = self.options.type_k if which == "k" else self.options.type_v
        plain = kind in {"f32", "f16", "bf16"} or head % 64
        if plain or not self.release.rotates_cache or self.hyper.mla:
            return x
        size = 64
        while which == "k" and head % (size * 2) == 0:
            size *= 2
        key = (which, self.hyper.windowed[layer])
        matrix = self.rotations.setdefault(key, given((size, size)))
        count = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3]
        if x.layout is None:
            x = op("cont", (size, count // size), x)
        shown = view(x, (size, count // size), dense=True)
        return view(op("mul_mat", shown.ne, matrix, shown), x.ne, dense=True)

    def scan(
        self, x: Node, dt: Node, b: Node, c: Node, layer: int, device: int, width: int
    ) -> Node:
        """Mamba's scan over the sequences' states, and the new states stored (build_rs)."""
        a = self.need(layer, "ssm_a")
        sequences = self.batch.sequences
        store = stored((width, sequences), 0, device, weight=False)
        if self.state_rows is None:
            self.state_rows = given((sequences,), I32)
        self.graph.expand(write(store, view(store, (0,)), store))
        rows = x.ne[0] * x.ne[1] * x.ne[2] * x.ne[3] + width * sequences
        ids = view(self.state_rows, (sequences,))
        out = op("ssm_scan", (rows,), store, x, dt, a, b, c, ids)
        self.graph.expand(out)
        self.graph.expand(self.store(view(out, (width, sequences)), device))
        return out

    def attend(self, q: Node, k: Node | None, v: Node | None, layer: int) -> Node:
        """Store K and V, attend to the cache (build_attn without the output projection)."""
        graph, hyper, options = self.graph, self.hyper, self.options
        mask, k_rows, v_rows = self.mask(hyper.windowed[layer])
        cache_k, cache_v = self.cache(layer)
        for x in (q, v, k):
            if x is not None:
                graph.expand(x)
        if k is not None:
            flat = view(k, (k.ne[0] * k.ne[1], k.ne[2]))
            graph.expand(write(cache_k, flat, k_rows, cache_k))
        if v is not None and not hyper.mla:
            flat = view(v, (v.ne[0] * v.ne[1], v.ne[2]))
            graph.expand(write(cache_v, flat, v_rows, cache_v))
        width = cache_k.ne[1]
        heads_kv = max(1, hyper.heads_kv[layer])
        head_k = hyper.k_width[layer] // heads_kv
        head_v = v.ne[0] if hyper.mla and v is not None else hyper.v_width[layer] // heads_kv
        seen = (head_k, width, heads_kv, self.streams)
        k_all = view(
            cache_k,
            seen,
            extent=self._row(options.type_k, head_k) * seen[1] * heads_kv * self.streams,
        )
        v_source = cache_k if hyper.mla else cache_v
        v_all = view(
            v_source,
            (head_v, *seen[1:]),
            extent=self._row(options.type_v, head_v) * seen[1] * heads_kv * self.streams,
        )
        rows = self.tokens // self.streams
        q = view(q, (q.ne[0], rows, self.hyper.heads[layer], self.streams))
        decompress = self.weight(layer, "attn_v_b.weight") if hyper.mla else None
        if options.flash_attention:
            x = op("flash_attn", (head_v, q.ne[2], rows, self.streams), q, k_all, v_all, mask)
            x.size += self._converted(k_all, v_all, layer)
            if decompress is not None:
                flat = view(x, (head_v, rows, q.ne[2], self.streams))
                x = op("mul_mat", (decompress.ne[1], *flat.ne[1:]), decompress, flat)
                x = op("cont", (x.ne[0], q.ne[2], rows, self.streams), view(x, x.ne))
            return graph.expand(view(x, (x.ne[0] * q.ne[2], self.tokens), dense=True))
        if hyper.mla:
            v_all = op("cont", (width, head_v, 1, self.streams), v_all, element=F16)
        kq = op("mul_mat", (width, rows, q.ne[2], self.streams), k_all, q)
        kq = like("soft_max", kq, mask)
        x = op("mul_mat", (head_v, rows, q.ne[2], self.streams), v_all, kq)
        if decompress is not None:
            x = op("mul_mat", (decompress.ne[1], *x.ne[1:]), decompress, x)
        x = op("cont", (x.ne[0] * x.ne[2], self.tokens), view(x, x.ne))
        return graph.expand(x)

    @staticmethod
    def _row(kind: str, elements: int) -> int:
        block, size = CELL_BYTES[kind]
        return -(-elements // block) * size

    def _converted(self, k: Node, v: Node, layer: int) -> int:
        """f16 copies of quantized K and V behind the result (fattn.cu, ..._get_alloc_size)."""
        device = self.placement.layer_device[layer]
        if not self.release.converts_in_buffer or device == HOST or not self.backend.cuda:
            return 0
        extra = 0
        for node, kind in ((k, self.options.type_k), (v, self.options.type_v)):
            if kind != "f16" and not (node is v and self.hyper.mla):
                extra += 2 * node.ne[0] * node.ne[1] * node.ne[2] * node.ne[3] + 128
        return extra

    def feed_forward(self, x: Node, layer: int, suffix: str = "") -> Node:
        """Dense feed-forward with or without a gate; `suffix` is _shexp for shared experts."""
        roles = [f"ffn_{part}{suffix}.weight" for part in ("up", "down")]
        if not any(self.weight(layer, role) for role in roles):
            return x
        up, down = (self.need(layer, role) for role in roles)
        gate = self.weight(layer, f"ffn_gate{suffix}.weight")
        wide = self.biased(x, layer, f"ffn_up{suffix}")
        if gate is not None:
            gated = self.biased(x, layer, f"ffn_gate{suffix}")
            wide = op("glu", gated.ne, gated, wide)
        elif down.ne[0] * 2 == up.ne[1]:
            wide = op("glu", (down.ne[0], *wide.ne[1:]), wide)
        else:
            wide = like("unary", wide)
        return self.biased(wide, layer, f"ffn_down{suffix}")

    def experts(self, x: Node, layer: int, *, normalize: bool, scale: bool) -> Node:
        """Mixture of experts (build_moe_ffn)."""
        hyper, graph, tokens = self.hyper, self.graph, x.ne[1]
        count, used = hyper.experts, hyper.experts_used
        logits = self.biased(x, layer, "ffn_gate_inp")
        probs = like("soft_max", logits)
        picked = probs
        bias = self.weight(layer, "exp_probs_b.bias")
        if bias is not None:
            picked = like("add", probs, bias)
        order = op("argsort", (count, tokens), picked, element=I32)
        chosen = view(order, (used, tokens))
        weights = op(
            "get_rows", (1, used, tokens), view(probs, (1, count, tokens), dense=True), chosen
        )
        if normalize:
            flat = view(weights, (used, tokens), dense=True)
            total = like("clamp", op("sum_rows", (1, tokens), flat))
            weights = view(like("div", flat, total), (1, used, tokens), dense=True)
        if scale:
            weights = like("scale", weights)
        graph.expand(weights)
        wide = view(x, (x.ne[0], 1, tokens), dense=True)
        early = hyper.architecture == "llama4"
        if early:
            wide = like("mul", op("repeat", (x.ne[0], used, tokens), wide), weights)
        merged = self.weight(layer, "ffn_gate_up_exps.weight")
        if merged is not None:
            both = self._routed(layer, "ffn_gate_up_exps", wide, chosen)
            half = (both.ne[0] // 2, used, tokens)
            hidden = op("glu", half, view(both, half), view(both, half))
        else:
            up = self._routed(layer, "ffn_up_exps", wide, chosen)
            if self.weight(layer, "ffn_gate_exps.weight") is not None:
                gate = self._routed(layer, "ffn_gate_exps", wide, chosen)
                hidden = op("glu", gate.ne, gate, up)
            else:
                hidden = like("unary", up)
        out = self._routed(layer, "ffn_down_exps", hidden, chosen)
        out = out if early else like("mul", out, weights)
        graph.expand(out)
        parts = [graph.expand(view(out, (out.ne[0], tokens))) for _ in range(used)]
        result = parts[0]
        for part in parts[1:]:
            result = graph.expand(op("add", (out.ne[0], tokens), result, part))
        return result if used > 1 else op("cont", result.ne, result)

    def _routed(self, layer: int, role: str, x: Node, chosen: Node) -> Node:
        """mul_mat_id with its bias."""
        weight = self.need(layer, f"{role}.weight")
        if weight.ne[0] != x.ne[0] or weight.ne[2] != self.hyper.experts:
            what = f"{self.hyper.experts} experts that take {x.ne[0]} numbers"
            raise LayoutError(f"tensor {weight.name} is {list(weight.ne[:3])}, not {what}")
        out = op("mul_mat_id", (weight.ne[1], chosen.ne[0], x.ne[2]), weight, x, chosen)
        bias = self.weight(layer, f"{role}.bias")
        return like("add_id", out, bias, chosen) if bias is not None else out

    def head(self, x: Node) -> None:
        """Logits; the engine keeps the normed rows and the logits to the end."""
        x.is_output = True
        output = self.weight(None, "output.weight")
        if output is None:
            tied = tied_output(self.model)
            if tied is None:
                raise LayoutError("there is no output.weight and no token_embd.weight")
            device = self.placement.output_device
            device = self.backend.host if device == HOST else device
            output = stored(tied.shape, tensor_bytes(tied, cuda=True), device, weight=True)
            output.name = tied.name
        logits = self.mul_mat(output, x)
        logits.is_output = True
        self.graph.expand(logits)
