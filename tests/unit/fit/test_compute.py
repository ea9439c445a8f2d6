"""Compute buffers against the engine's own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import profile

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import InfraLlmError
from infra_llm.core.fit.llama_cpp.arguments import parse_arguments
from infra_llm.core.fit.llama_cpp.builder import Release
from infra_llm.core.fit.llama_cpp.cache import layer_cache_bytes
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.graphs import APPROXIMATE
from infra_llm.core.fit.llama_cpp.hyper import read_hyper
from infra_llm.core.fit.llama_cpp.memory import cache_options, footprint, placement_of
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.model import ModelProfile

MIB = 1 << 20
FIXTURES = Path(__file__).parents[2] / "fixtures" / "ground-truth"
ARCHITECTURES = json.loads((FIXTURES / "architectures.json").read_text())["models"]
ESTIMATE = Release(
    server_outputs=False, converts_in_buffer=False, pins_norms=False, second_input=False
)
"""What llama-fit-params reserves: logits of a whole micro-batch, norms not pinned."""


def predicted(model: ModelProfile, row: dict[str, Any]) -> tuple[float, list[float]]:
    hyper, flags = read_hyper(model), parse_arguments(row["flags"])
    if model.architecture == "grok":  # the engine forces it, and so does the search
        flags["flash_attn"] = "off"
    options, devices = cache_options(flags), row["devices"]
    placement = placement_of(hyper, flags, devices)
    full = flags["n_gpu_layers"] > hyper.layers_all
    backend = Backend(
        devices, alignment=32, offload=False, cuda=False, copies=4 if devices > 1 and full else 1
    )
    compute = compute_bytes(model, hyper, placement, options, backend, ESTIMATE)
    return sum(layer_cache_bytes(hyper, options)) / MIB, [size / MIB for size in compute]


def supported() -> list[dict[str, Any]]:
    found = []
    for entry in ARCHITECTURES:
        try:
            read_hyper(from_dict(ModelProfile, entry["profile"]))
        except InfraLlmError:
            continue
        found.append(entry)
    return found


@pytest.mark.parametrize("entry", supported(), ids=lambda entry: str(entry["name"]))
def test_every_supported_architecture_meets_the_engine(entry: dict[str, Any]) -> None:
    model = from_dict(ModelProfile, entry["profile"])
    for row in entry["rows"]:
        cache, compute = predicted(model, row)
        assert cache == pytest.approx(row["cache_mib"], abs=0.02), row["flags"]
        if model.architecture in APPROXIMATE:
            continue
        for mine, engine in zip(compute, row["compute_mib"], strict=False):
            assert mine == pytest.approx(engine, abs=0.02), row["flags"]


def test_most_architectures_are_supported_and_exact() -> None:
    families = {entry["profile"]["architecture"] for entry in supported()}
    assert len(families - APPROXIMATE) >= 60


@pytest.mark.parametrize(
    ("name", "flags", "logged"),
    [  # buffers of public CUDA logs, see fixtures/ground-truth/memory.json
        ("gt001", "qwen3-235b-a22b.Q8_0", [1024.0]),
        ("gt002", "qwen3-235b-a22b.Q6_K", [774.0]),
        ("gt065", "qwen3-30b-a3b.F16", [898.0]),
        ("gt034", "qwen3.5-122b-a10b.Q4_K_M-unsloth", [966.5, 130.02, 130.02, 503.0]),
    ],
)
def test_compute_equals_the_logs_of_real_gpus(
    name: str, flags: str, logged: list[float], tmp_path: Path
) -> None:
    case = json.loads((FIXTURES / "cases.json").read_text())["memory.json"][name]
    model = profile(flags, tmp_path)
    parsed = parse_arguments(case["llama_cpp_flags"])
    from infra_llm.core.fit.llama_cpp.builder import release_of

    used = footprint(
        model,
        read_hyper(model),
        parsed,
        case["devices"],
        release_of(9000 if name == "gt034" else 0),
    )
    for mine, engine in zip(used.compute, logged, strict=False):
        assert mine / MIB == pytest.approx(engine, rel=0.001, abs=0.6)
