"""A header's keys as llama.cpp understands them, layer by layer.

Source: `llama_model_base::load_hparams` in src/llama-model.cpp, src/llama-hparams.cpp and the
`load_arch_hparams` of each file in src/models (build 11434). An architecture whose memory is not of
a class that stands here is refused: its cache has other terms and a guess would be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile

_PLAIN = """llama llama-embed deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bloom
    stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo
    codeshell orion internlm2 minicpm minicpm3 gemma starcoder2 xverse command-r dbrx olmo olmoe
    openelm arctic deepseek deepseek2 deepseek2-ocr chatglm glm4 glm4moe bitnet jais jais2 nemotron
    exaone granite granitemoe chameleon plm bailingmoe bailingmoe2 dots1 arcee ernie4_5
    ernie4_5-moe hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus
    minimax-m2 cogvlm pangu-embedded mistral3 mistral4 paddleocr maincoder talkie"""
PLAIN = frozenset(_PLAIN.split())
"""One cell a token in every layer (GQA, MQA or MLA)."""


DAMAGED = "the engine stops at it too: the file is damaged or incomplete, download it again"


@dataclass(frozen=True)
class Window:
    """How an architecture lays out its sliding-window layers (`load_swa_pattern`)."""

    period: int = 0
    """One full layer every `period`; 0: the header's pattern array is required."""
    full_first: bool = False
    tokens: int = 0
    """Window where the header names none; 0: without the key there is no window."""
    fixed: bool = False
    """The engine uses `tokens` whatever the header says."""


WINDOWED = {
    "llama4": Window(4, tokens=8192, fixed=True),
    "gemma2": Window(2, tokens=4096),
    "gemma3": Window(6),
    "gemma4": Window(0),
    "cohere2": Window(4),
    "cohere2moe": Window(4, full_first=True),
    "olmo2": Window(4),
    "gpt-oss": Window(2),
    "exaone4": Window(4, tokens=4096),
    "exaone-moe": Window(4, tokens=128),
    "afmoe": Window(4),
    "laguna": Window(4, full_first=True),
    "mellum": Window(4),
    "muse-glimmer": Window(4),
    "plamo3": Window(8),
    "smallthinker": Window(4, full_first=True, tokens=4096, fixed=True),
    "mimo2": Window(0),
    "step35": Window(0),
    "spark2_5": Window(0),
    "maple": Window(0),
    "granite_swa": Window(0),
}
_RECURRENT = "mamba mamba2"
RECURRENT = frozenset(_RECURRENT.split())
"""No attention at all (`llm_arch_is_recurrent`)."""
_HYBRID_BY_HEADS = "jamba granitehybrid lfm2 lfm2moe nemotron_h nemotron_h_moe"
HYBRID_BY_HEADS = frozenset(_HYBRID_BY_HEADS.split())
"""A layer is recurrent where its head_count_kv is 0."""
HYBRID_BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
"""One attention layer every so many (`full_attention_interval`)."""
UNGROUPED = frozenset({"mamba", "jamba"})
"""Recurrent layers of Mamba's first kind, without groups."""
HYBRID_BOTH = frozenset({"falcon-h1"})
"""Every layer holds a cache and a state."""
ENCODERS = frozenset({"bert", "nomic-bert"})
"""No cache at all: a text is read at once (`create_memory` gives none)."""
SHARED_CACHE = frozenset({"gemma3n", "gemma4"})
MOST_LAYERS = 4096
MOST_EXPERTS = 1024
"""LLAMA_MAX_EXPERTS of src/llama-hparams.h."""
MOST_NUMBER = (1 << 31) - 1
EXAONE4_WINDOWED_LAYERS = 64
GEMMA3N_OWN_CACHES = 20


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters with the engine's defaults applied; tuples have one entry a layer."""

    architecture: str
    layers: int
    """Layers that run (the trunk), multi-token-prediction layers left out."""
    layers_all: int
    embedding: int
    vocab: int
    context: int
    heads: tuple[int, ...]
    heads_kv: tuple[int, ...]
    head_k: int
    head_v: int
    k_width: tuple[int, ...]
    """Elements of a K row of the cache (n_embd_k_gqa)."""
    v_width: tuple[int, ...]
    caches: tuple[bool, ...]
    """Layers that own a KV cache."""
    windowed: tuple[bool, ...]
    window: int
    """Tokens; 0 without sliding-window layers."""
    recurrent: tuple[bool, ...]
    state_r: int
    """Elements of the convolution state of a layer and sequence (n_embd_r)."""
    state_s: int
    """Elements of the recurrent state of a layer and sequence (n_embd_s)."""
    mla: bool
    experts: int
    experts_used: int
    feed_forward: int
    expert_feed_forward: int
    loads_mtp: bool = False
    """Layers of multi-token prediction are loaded (speculative decoding by them)."""

    @property
    def has_cache(self) -> bool:
        return any(self.caches)


def read_hyper(model: ModelProfile) -> Hyper:
    """Derive the hyper-parameters of a GGUF profile.

    Raises BadInputError for an architecture whose memory class is not known, and for headers that
    lack a key which the engine needs too.
    """
    known = memory_class(model.architecture)
    layers_all, layers = _layers(model)
    heads = _per_layer(model, "attention.head_count", layers_all, 0)
    heads_kv = _per_layer(model, "attention.head_count_kv", layers_all, None) or heads
    embedding = _count(model, "embedding_length")
    default = embedding // heads[0] if heads and heads[0] else 0
    head_k = _number(model, "attention.key_length") or default
    head_v = _number(model, "attention.value_length") or default
    windowed, window = _windows(model, layers, layers_all)
    k_swa = _number(model, "attention.key_length_swa") or head_k
    v_swa = _number(model, "attention.value_length_swa") or head_v
    recurrent = _recurrent(model, known, layers, layers_all, heads_kv)
    mla = all(_number(model, f"attention.{name}_length_mla") for name in ("key", "value"))
    if any(recurrent):
        _check_state(model)
    state_r, state_s = _state(model, embedding, heads, head_k)
    experts, experts_used = _experts(model, layers_all)
    return Hyper(
        architecture=model.architecture,
        layers=layers,
        layers_all=layers_all,
        embedding=embedding,
        vocab=model.vocab_size,
        context=model.context_length,
        heads=heads,
        heads_kv=heads_kv,
        head_k=head_k,
        head_v=head_v,
        k_width=tuple(
            h * (k_swa if w else head_k) for h, w in zip(heads_kv, windowed, strict=True)
        ),
        v_width=tuple(
            h * (v_swa if w else head_v) for h, w in zip(heads_kv, windowed, strict=True)
        ),
        caches=_caches(model, known, layers, layers_all, recurrent),
        windowed=windowed,
        window=window,
        recurrent=recurrent,
        state_r=state_r if any(recurrent) else 0,
        state_s=state_s if any(recurrent) else 0,
        mla=mla,
        experts=experts,
        experts_used=experts_used,
        feed_forward=max(_per_layer(model, "feed_forward_length", layers_all, 0), default=0),
        expert_feed_forward=max(
            _per_layer(model, "expert_feed_forward_length", layers_all, 0), default=0
        ),
    )


def memory_class(architecture: str) -> str:
    """Name the class of `llama_model::create_memory` (src/llama-model.cpp) or refuse."""
    for name, members in (
        ("plain", PLAIN),
        ("windowed", frozenset(WINDOWED)),
        ("recurrent", RECURRENT),
        ("encoder", ENCODERS),
        ("hybrid", HYBRID_BY_HEADS | frozenset(HYBRID_BY_INTERVAL) | HYBRID_BOTH),
    ):
        if architecture in members:
            return name
    raise BadInputError(
        f"the memory of architecture {architecture!r} is not known to this planner",
        where="model",
        hint="its cache or state class has other terms than those that were checked; a plan for it "
        "would be a guess. Choose another model, or upgrade infra-llm",
    )


def _layers(model: ModelProfile) -> tuple[int, int]:
    """All layers, and those of the trunk; every tensor's layer is one of them."""
    count = _count(model, "block_count")
    if count > MOST_LAYERS:
        raise impossible(model, "block_count", count)
    drafting = _number(model, "nextn_predict_layers")
    if drafting >= count:
        raise impossible(model, "nextn_predict_layers", drafting)
    last = max(model.layer_tensors, default=0)
    if last >= count:
        raise BadInputError(
            f"it holds tensors of layer {last}, {model.architecture}.block_count is {count}",
            where=model.name or "GGUF header",
            hint=DAMAGED,
        )
    return count, count - drafting


def _experts(model: ModelProfile, layers: int) -> tuple[int, int]:
    """Experts of a layer, and those that a token uses: none, or one of them at least."""
    count = _number(model, "expert_count")
    if count > MOST_EXPERTS:
        raise impossible(model, "expert_count", count)
    used = _per_layer(model, "expert_used_count", layers, 0)
    most = max(used, default=0)
    if not min(1, count) <= most <= count:
        raise impossible(model, "expert_used_count", most)
    return count, most


def _check_state(model: ModelProfile) -> None:
    """The sizes of a recurrent layer, which the graph divides by: none of them may be 0."""
    if model.architecture.startswith("lfm2"):
        _count(model, "shortconv.l_cache")
        return
    for key in ("conv_kernel", "inner_size", "state_size", "time_step_rank"):
        _count(model, f"ssm.{key}")
    if model.architecture not in UNGROUPED:
        _count(model, "ssm.group_count")


def impossible(model: ModelProfile, key: str, value: Any) -> BadInputError:
    """The error for a key of the header that can't be meant."""
    shown = type(value).__name__ if isinstance(value, list) else repr(value)[:80]
    return BadInputError(
        f"key {model.architecture}.{key} is {shown}",
        where=model.name or "GGUF header",
        hint=DAMAGED,
    )


def _count(model: ModelProfile, key: str) -> int:
    """A key that must be there, from 1 on."""
    value = _number(model, key)
    if not value:
        raise impossible(model, key, model.hyper.get(key))
    return value


def _number(model: ModelProfile, key: str, default: int = 0) -> int:
    """A whole number from 0 on that a key may hold."""
    value = model.hyper.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_NUMBER:
        raise impossible(model, key, value)
    return value


def _per_layer(model: ModelProfile, key: str, layers: int, default: Any) -> tuple[int, ...]:
    """A key that holds one number, or one a layer."""
    value = model.hyper.get(key, default)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value] * layers
    if len(items) < layers:
        raise BadInputError(
            f"key {model.architecture}.{key} has {len(items)} entries for {layers} layers",
            where=model.name or "GGUF header",
            hint=DAMAGED,
        )
    for item in items[:layers]:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item <= MOST_NUMBER:
            raise impossible(model, key, item)
    return tuple(items[:layers])


def _windows(model: ModelProfile, layers: int, layers_all: int) -> tuple[tuple[bool, ...], int]:
    """Which layers attend to a sliding window, and its tokens."""
    none = (False,) * layers_all
    rule = WINDOWED.get(model.architecture)
    tokens = model.hyper.get("attention.sliding_window")
    if tokens is not None:
        tokens = _number(model, "attention.sliding_window")
    if model.architecture in {"lfm2", "lfm2moe"} and tokens:
        heads_kv = _per_layer(model, "attention.head_count_kv", layers_all, 0)
        return tuple(heads > 0 for heads in heads_kv), tokens
    if rule is None:
        return none, 0
    if model.architecture == "exaone4" and layers != EXAONE4_WINDOWED_LAYERS:
        return none, 0
    if (tokens == 0) or (not tokens and not rule.tokens):
        return none, 0
    window = rule.tokens if rule.fixed else tokens or rule.tokens
    pattern = model.hyper.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) < layers:
            raise BadInputError(
                f"sliding_window_pattern has {len(pattern)} entries for {layers} layers",
                where=model.name or "GGUF header",
                hint=DAMAGED,
            )
        return tuple(bool(p) for p in (pattern + [False] * layers_all)[:layers_all]), window
    period = _number(model, "attention.sliding_window_pattern", rule.period)
    if not period and pattern is None:
        raise impossible(model, "attention.sliding_window_pattern", None)

    def is_windowed(layer: int) -> bool:
        if layer >= layers:
            return False
        if not period:
            return True
        place = layer % period
        return place != 0 if rule.full_first else place < period - 1

    return tuple(is_windowed(layer) for layer in range(layers_all)), window


def _recurrent(
    model: ModelProfile, known: str, layers: int, layers_all: int, heads_kv: tuple[int, ...]
) -> tuple[bool, ...]:
    architecture = model.architecture
    if known == "recurrent" or architecture in HYBRID_BOTH:
        return tuple(layer < layers for layer in range(layers_all))
    if architecture in HYBRID_BY_INTERVAL:
        listed = model.hyper.get("attention.recurrent_layers")
        if isinstance(listed, list):
            if len(listed) < layers_all:
                raise impossible(model, "attention.recurrent_layers", listed)
            return tuple(bool(item) for item in listed[:layers_all])
        period = _number(model, "full_attention_interval") or HYBRID_BY_INTERVAL[architecture]
        return tuple(layer < layers and (layer + 1) % period != 0 for layer in range(layers_all))
    if architecture in HYBRID_BY_HEADS:
        dense = (
            _per_layer(model, "feed_forward_length", layers_all, 0)
            if architecture.startswith("nemotron_h")
            else (0,) * layers_all
        )
        return tuple(
            layer < layers and heads_kv[layer] == 0 and dense[layer] == 0
            for layer in range(layers_all)
        )
    return (False,) * layers_all


def _caches(
    model: ModelProfile, known: str, layers: int, layers_all: int, recurrent: tuple[bool, ...]
) -> tuple[bool, ...]:
    """Layers with a KV cache of their own (the layer filters of `create_memory`)."""
    if known in ("recurrent", "encoder"):
        return (False,) * layers_all
    own = layers
    if model.architecture == "gemma3n":
        own = GEMMA3N_OWN_CACHES
    elif model.architecture == "gemma4":
        own = layers_all - _number(model, "attention.shared_kv_layers")
    dense = (
        _per_layer(model, "feed_forward_length", layers_all, 0)
        if model.architecture.startswith("nemotron_h")
        else (0,) * layers_all
    )
    both = model.architecture in HYBRID_BOTH
    return tuple(
        layer < min(own, layers) and (both or not recurrent[layer]) and dense[layer] == 0
        for layer in range(layers_all)
    )


def _state(
    model: ModelProfile, embedding: int, heads: tuple[int, ...], head_k: int
) -> tuple[int, int]:
    """n_embd_r and n_embd_s of src/llama-hparams.cpp, in elements."""

    def number(key: str) -> int:
        return _number(model, key)

    wkv = number("wkv.head_size")
    if wkv:
        return (number("token_shift_count") or 2) * embedding, embedding * wkv
    conv, inner = number("ssm.conv_kernel"), number("ssm.inner_size")
    if number("shortconv.l_cache"):
        return embedding * (number("shortconv.l_cache") - 1), number("ssm.state_size") * inner
    kda, most_heads = number("kda.head_dim"), max(heads, default=0)
    if kda:
        return 3 * (conv - 1 if conv else 3) * heads[0] * kda, kda * kda * heads[0]
    state, groups = number("ssm.state_size"), number("ssm.group_count")
    r = max(conv - 1, 0) * (inner + 2 * groups * state)
    if model.architecture == "minimax-01":
        return r, head_k * head_k * most_heads
    return r, state * inner
