"""What the planner says that llama-fit-params prints, with RPC servers in place of GPUs."""

from __future__ import annotations

from typing import Any

from infra_llm.core.fit.llama_cpp.arguments import parse_arguments
from infra_llm.core.fit.llama_cpp.builder import Release
from infra_llm.core.fit.llama_cpp.cache import layer_cache_bytes
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.memory import cache_options, placement_of
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.model import ModelProfile

MIB = 1 << 20
ESTIMATE = Release(
    server_outputs=False, converts_in_buffer=False, pins_norms=False, second_input=False
)


def tool_prediction(model: ModelProfile, row: dict[str, Any]) -> tuple[list[float], list[float]]:
    flags, devices, hyper = parse_arguments(row["flags"]), row["devices"], read_hyper(model)
    if model.architecture == "grok":  # the engine forces it, and so does the search
        flags["flash_attn"] = "off"
    options, placement = cache_options(flags), placement_of(read_hyper(model), flags, devices)
    full = flags["n_gpu_layers"] > hyper.layers_all and not flags.get("override_tensor")
    backend = Backend(
        devices, alignment=32, offload=False, cuda=False, copies=4 if devices > 1 and full else 1
    )
    compute = compute_bytes(model, hyper, placement, options, backend, ESTIMATE)
    cache = [0.0] * (devices + 1)
    for layer, size in enumerate(layer_cache_bytes(hyper, options)):
        cache[placement.layer_device[layer]] += size / MIB
    return cache, [size / MIB for size in compute]
