"""vLLM: memory of a rank, parallelism over the topology, and the plan.

Formulas: vllm/v1/worker/gpu_worker.py (`determine_available_memory`) profiles a forward pass at
max_num_batched_tokens and gives the rest of utilization x memory to the KV cache. The profile's
peak is 2 T (3 n_ff + 3 E) / TP bytes, or the sampler's 10 x max_num_seqs x V x 4 where that is
more; seven complete public logs are met by the sum to 5 % (tests/accuracy).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.vllm_flags import CACHE_BYTES, parse_flags
from infra_llm.core.fit.wishes import MOST, FitWishes
from infra_llm.core.hardware import Gpu, HostHardware, accelerators
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import (
    Alternative,
    DeviceMemory,
    LaunchPlan,
    PlannedModel,
    Reason,
    TokensPerSecond,
)
from infra_llm.core.speed import HIGH, LOW, compute_capability, gpu_seconds, prefill_rate

MIB = 1 << 20
BLOCK = 16
"""Tokens of a KV block."""
NON_TORCH_MIB, NON_TORCH_LOW_MIB, NON_TORCH_HIGH_MIB = 300.0, 30.0, 600.0
"""CUDA context and NCCL outside of torch; public logs show 31 to 358 on one GPU."""
GRAPHS_MIB, GRAPHS_HIGH_MIB = 512.0, 1147.0
"""CUDA graphs, taken after the profile: 0.11 to 1.12 GiB in public logs."""
RESERVE_MIB = 512.0
HOST_MIB, HOST_HIGH_MIB = 4096.0, 8192.0
"""RAM of the API server, the engine and a worker for each GPU, assumed."""
KEPT_SHARE, KEPT_MIB = 0.05, 512.0
"""Of the RAM, left to the system."""
BATCHED_TOKENS = 8192
SEQUENCES = 256
SAMPLER_FLOATS = 10
VISION_STATES = 28.4
"""Hidden states of the image encoder alive at its peak (Llama 3.2 Vision log, 36.63 GiB)."""
NO_TEXT = re.compile(r"Bert|Roberta|ForMaskedLM|ForSequenceClassification")
"""Names in `architectures` of config.json of models that embed or classify."""
DEFAULT_CONTEXT = 32768
LEAST_CONTEXT = 2048


@dataclass(frozen=True)
class Shape:
    """What of config.json the memory depends on."""

    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    feed_forward: int
    vocab: int
    context: int
    weights: int
    vision: int
    """Bytes of one image's hidden state in the encoder; 0 for text models."""


def read_shape(model: ModelProfile) -> Shape:
    """Raises BadInputError for a model that is no Hugging Face folder, or lacks a key."""
    if model.format != "safetensors":
        raise BadInputError(
            "vLLM plans need config.json and safetensors",
            where=model.name or "model",
            hint="give the Hugging Face folder, or plan llama.cpp for a GGUF file",
        )
    config = model.hyper
    other = [name for name in config.get("architectures") or () if NO_TEXT.search(str(name))]
    if other:
        raise BadInputError(
            f"{other[0]} writes no text: vLLM is planned for models that do",
            where=model.name or "model",
            hint="an embedding model is served by llama.cpp as a GGUF file",
        )
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)

    def number(key: str, default: int | None = None, least: int = 1) -> int:
        return _number(text, key, default, least, model.name)

    heads = number("num_attention_heads")
    hidden = number("hidden_size")
    kinds = text.get("layer_types") or []
    if not isinstance(kinds, list):
        raise _not_read("layer_types", kinds, model.name)
    if any("linear" in str(kind) for kind in kinds) or "kv_lora_rank" in text:
        raise BadInputError(
            "the cache of this architecture (latent or linear attention) is not known for vLLM",
            where=model.name,
            hint="plan llama.cpp for its GGUF file",
        )
    wide = number("moe_intermediate_size", 0, 0) * number("num_experts_per_tok", 0, 0)
    return Shape(
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head=number("head_dim", hidden // heads),
        hidden=hidden,
        feed_forward=wide or number("intermediate_size", 4 * hidden),
        vocab=number("vocab_size", model.vocab_size or None),
        context=number("max_position_embeddings", DEFAULT_CONTEXT),
        weights=model.tensor_bytes or model.file_bytes,
        vision=_vision(config.get("vision_config"), model.name),
    )


def _number(
    config: Mapping[str, Any], key: str, default: int | None, least: int, where: str
) -> int:
    """A whole number of config.json; null stands for the default, as it does for vLLM."""
    value = config.get(key)
    value = default if value is None else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= int(value or 0) <= MOST:
        raise _not_read(key, value, where)
    return int(value or 0)


def _not_read(key: str, value: Any, where: str) -> BadInputError:
    plain = value is None or isinstance(value, str | int | float)
    what = repr(value)[:80] if plain else type(value).__name__
    return BadInputError(
        f"config.json: {key} is {what}",
        where=where,
        hint="download the model again, or plan llama.cpp for its GGUF file",
    )


def _vision(config: Any, where: str) -> int:
    if not isinstance(config, dict) or not config.get("patch_size"):
        return 0
    # Some give both sides of a square.
    sides = {
        key: value[0] if isinstance(value, list) and value else value
        for key, value in config.items()
    }
    image = _number(sides, "image_size", 448, 1, where)
    patches = (image // _number(sides, "patch_size", 1, 1, where)) ** 2 + 8
    tiles = _number(config, "max_num_tiles", 1, 1, where)
    return tiles * patches * _number(config, "hidden_size", 1024, 1, where) * 2


OLDEST = (7, 0)


@dataclass(frozen=True)
class Launch:
    """The part of the flags that decides memory."""

    tensor: int = 1
    pipeline: int = 1
    utilization: float = 0.9
    context: int = DEFAULT_CONTEXT
    sequences: int = SEQUENCES
    tokens: int = BATCHED_TOKENS
    cache_bytes: float = 2.0
    graphs: bool = True


def activation_mib(shape: Shape, launch: Launch) -> float:
    """Peak of the profiling pass on one rank."""
    forward = 2 * launch.tokens * 3 * (shape.feed_forward + shape.hidden) / launch.tensor
    sampler = SAMPLER_FLOATS * launch.sequences * shape.vocab * 4 / launch.tensor
    vision = VISION_STATES * launch.sequences * shape.vision
    return max(forward, sampler, vision) / MIB


def token_bytes(shape: Shape, launch: Launch) -> float:
    """KV bytes of a token on one rank of the widest pipeline stage."""
    heads = max(1, -(-shape.kv_heads // launch.tensor))
    layers = -(-shape.layers // launch.pipeline)
    return 2 * layers * heads * shape.head * launch.cache_bytes


def cache_tokens(shape: Shape, launch: Launch, total_mib: float, non_torch: float) -> int:
    """Tokens of KV cache of the deployment: the worst rank decides."""
    weights = shape.weights / (launch.tensor * launch.pipeline) / MIB
    room = launch.utilization * total_mib - weights - non_torch - activation_mib(shape, launch)
    blocks = int(room * MIB // (token_bytes(shape, launch) * BLOCK))
    return max(0, blocks) * BLOCK


def parallelism(shape: Shape, gpus: list[Gpu]) -> tuple[int, int]:
    """Tensor parallel inside NVLink where heads divide, pipeline parallel across PCIe."""
    count = len(gpus)
    linked = count > 1 and all(
        any(link.kind.startswith("NV") for link in gpu.links) for gpu in gpus
    )
    best = (1, count)
    for tensor in range(count, 0, -1):
        divides = shape.heads % tensor == 0 and count % tensor == 0
        if divides and (linked or tensor == 1):
            best = (tensor, count // tensor)
            break
    # A stage needs a layer at least.
    return best[0], min(best[1], shape.layers)


def _refuse_old(gpus: list[Gpu]) -> None:
    """vLLM's kernels need compute capability 7.0 (docs/getting_started/installation/gpu.md)."""
    for gpu in gpus:
        capability = compute_capability(gpu)
        if capability and capability < OLDEST:
            raise BadInputError(
                f"vLLM needs compute capability 7.0, {gpu.name or gpu.index} has "
                f"{gpu.compute_capability}",
                hint="plan llama.cpp for the GGUF file of the model",
            )


def plan_vllm(hardware: HostHardware, model: ModelProfile, wishes: FitWishes) -> LaunchPlan:
    """The launch of vLLM on this machine's GPUs; `vllm_cpu` plans for machines without."""
    shape = read_shape(model)
    gpus = [gpu for gpu in accelerators(hardware) if gpu.vram_total_mib]
    if not gpus:
        raise BadInputError(
            "no GPU to plan vLLM for",
            where=model.name or "model",
            hint="give one with its memory: --gpu NAME",
        )
    _refuse_old(gpus)
    least = min((gpu.vram_total_mib or 0) - (gpu.vram_reserved_mib or 0) for gpu in gpus)
    total = max(1.0, least)
    pinned = parse_flags(wishes)
    tensor, pipeline = parallelism(shape, gpus)
    spare = RESERVE_MIB + GRAPHS_HIGH_MIB + _shared_mib(hardware, gpus)
    default = max(0.5, min(0.95, (total - spare) / total))
    launch = Launch(
        tensor=int(pinned.get("tensor_parallel_size", tensor)),
        pipeline=int(pinned.get("pipeline_parallel_size", pipeline)),
        utilization=float(pinned.get("gpu_memory_utilization", round(default - 0.005, 2))),
        context=int(pinned.get("max_model_len", min(shape.context, DEFAULT_CONTEXT))),
        sequences=int(pinned.get("max_num_seqs", max(16, min(SEQUENCES, wishes.users * 2)))),
        tokens=int(pinned.get("max_num_batched_tokens", BATCHED_TOKENS)),
        cache_bytes=CACHE_BYTES.get(str(pinned.get("kv_cache_dtype", "auto")), 2.0),
        graphs=not pinned.get("enforce_eager", False),
    )
    if shape.heads % launch.tensor:
        raise BadInputError(
            f"tensor parallel {launch.tensor} does not divide {shape.heads} attention heads",
            hint="choose a divisor",
        )
    tokens = cache_tokens(shape, launch, total, NON_TORCH_MIB)
    worst = cache_tokens(shape, launch, total, NON_TORCH_HIGH_MIB)
    while "max_model_len" not in pinned and launch.context > max(worst, LEAST_CONTEXT):
        launch = Launch(**{**launch.__dict__, "context": max(LEAST_CONTEXT, launch.context // 2)})
    devices = _devices(shape, launch, gpus, total, tokens)
    memory = devices, _host(hardware, devices, gpus)
    plan = _plan(model, shape, launch, gpus, memory, (tokens, worst), wishes)
    available = hardware.memory.available_mib
    if available and available < HOST_MIB:
        words = f"only {available:,} MiB of RAM are free now, the server needs {HOST_MIB:,.0f}"
        plan.warnings.append(words)
    return plan


def ram_mib(hardware: HostHardware) -> float:
    """RAM that the server may use: the cgroup's limit or all, less the system's share."""
    memory = hardware.memory
    total = min(memory.limit_mib or memory.total_mib, memory.total_mib)
    return max(0.0, total - max(KEPT_MIB, KEPT_SHARE * total))


def _shared_mib(hardware: HostHardware, gpus: list[Gpu]) -> float:
    """What the host needs of a memory that the GPUs share with it."""
    if not any(gpu.unified_memory for gpu in gpus):
        return 0.0
    return HOST_HIGH_MIB + hardware.memory.total_mib - ram_mib(hardware)


def _host(hardware: HostHardware, devices: list[DeviceMemory], gpus: list[Gpu]) -> DeviceMemory:
    pairs = zip(devices, gpus, strict=False)  # fewer ranks than GPUs may be wished
    taken = sum(device.high_mib for device, gpu in pairs if gpu.unified_memory)
    return DeviceMemory(
        "host",
        overhead_mib=HOST_MIB,
        total_mib=HOST_MIB,
        high_mib=HOST_HIGH_MIB,
        capacity_mib=max(0.0, ram_mib(hardware) - taken),
    )


def _devices(
    shape: Shape, launch: Launch, gpus: list[Gpu], total: float, tokens: int
) -> list[DeviceMemory]:
    ranks = launch.tensor * launch.pipeline
    cache = tokens * token_bytes(shape, launch) / MIB
    weights = shape.weights / ranks / MIB
    graphs = GRAPHS_MIB if launch.graphs else 0.0
    activation = activation_mib(shape, launch)
    return [
        DeviceMemory(
            name=gpu.name or f"GPU {gpu.index}",
            weights_mib=weights,
            kv_cache_mib=cache,
            compute_mib=activation,
            overhead_mib=NON_TORCH_MIB + graphs,
            total_mib=weights + cache + activation + NON_TORCH_MIB + graphs,
            low_mib=launch.utilization * total - NON_TORCH_HIGH_MIB,
            high_mib=launch.utilization * total + (GRAPHS_HIGH_MIB if launch.graphs else 0.0),
            capacity_mib=float(gpu.vram_total_mib or 0),
        )
        for gpu in gpus[:ranks]
    ]


def _flags(launch: Launch) -> dict[str, Any]:
    return {
        "tensor_parallel_size": launch.tensor,
        "pipeline_parallel_size": launch.pipeline,
        "gpu_memory_utilization": launch.utilization,
        "max_model_len": launch.context,
        "max_num_seqs": launch.sequences,
        "max_num_batched_tokens": launch.tokens,
        "kv_cache_dtype": "fp8" if launch.cache_bytes == 1 else "auto",
        "enforce_eager": not launch.graphs,
    }


def _plan(
    model: ModelProfile,
    shape: Shape,
    launch: Launch,
    gpus: list[Gpu],
    memory: tuple[list[DeviceMemory], DeviceMemory],
    tokens: tuple[int, int],
    wishes: FitWishes,
) -> LaunchPlan:
    usual, worst = tokens
    devices, host = memory
    short = host.high_mib - host.capacity_mib
    fits = worst >= launch.context and launch.tensor * launch.pipeline <= len(gpus) and short <= 0
    seconds = gpu_seconds(
        gpus[0], shape.weights // launch.tensor, 0, float(shape.layers), k_quant=False
    )
    decode = 1 / seconds
    missing = (launch.context - worst) * token_bytes(shape, launch) / MIB
    plan = LaunchPlan(
        engine="vllm",
        fits=fits,
        model=PlannedModel(
            model.name, model.architecture, model.quant, model.sha256, model.file_bytes,
            model.parameters,
        ),
        flags=_flags(launch),
        devices=devices,
        host=host,
        tokens_per_second=TokensPerSecond(
            decode, prefill_rate(gpus[0], 1, model.parameters) * launch.tensor,
            decode * LOW, decode * HIGH,
        ),
        max_context=min(usual, shape.context),
        max_parallel=usual // max(1, launch.context),
        binding_constraint="KV cache on the worst rank",
        why=_reasons(shape, launch, usual, worst),
    )  # fmt: skip
    if not fits and missing > 0:
        plan.binding_constraint = f"{missing:,.0f} MiB of memory are missing on each rank"
        plan.alternatives = [
            Alternative(change=f"max_model_len {worst // BLOCK * BLOCK}", context=worst),
            Alternative(change="kv_cache_dtype fp8", note="halves the cache"),
        ]
    if short > 0:
        plan.binding_constraint = f"{short:,.0f} MiB of RAM are missing on the host"
        plan.alternatives.append(Alternative(change=f"{short:,.0f} MiB more memory on the host"))
    if wishes.users > plan.max_parallel:
        plan.warnings.append(
            f"{plan.max_parallel} sequences of {launch.context} tokens fit at once; "
            "longer queues wait"
        )
    return plan


def _reasons(shape: Shape, launch: Launch, usual: int, worst: int) -> list[Reason]:
    each = token_bytes(shape, launch)
    split = f"tensor parallel {launch.tensor}, pipeline parallel {launch.pipeline}"
    return [
        Reason(f"weights {shape.weights / MIB:,.0f} MiB over {split}", "header"),
        Reason(
            f"KV cache {usual:,} tokens ({worst:,} at the least) of {each:,.0f} bytes a rank",
            "calibrated",
        ),
        Reason(
            f"activation peak {activation_mib(shape, launch):,.0f} MiB for "
            f"{launch.tokens} tokens and {launch.sequences} sequences",
            "calibrated",
        ),
        Reason(f"outside of torch {NON_TORCH_MIB:.0f} MiB, graphs {GRAPHS_MIB:.0f}", "assumed"),
    ]
