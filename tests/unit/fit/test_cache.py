"""KV cache and recurrent state against figures of real logs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.errors import InfraLlmError
from infra_llm.core.fit.llama_cpp.cache import CacheOptions, layer_cache_bytes
from infra_llm.core.fit.llama_cpp.hyper import memory_class, read_hyper

MIB = 1 << 20


def total(name: str, folder: Path, **options: object) -> float:
    hyper = read_hyper(profile(name, folder))
    return sum(layer_cache_bytes(hyper, CacheOptions(**options))) / MIB  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "logged"),
    [
        ("qwen3-235b-a22b.Q8_0", {"context": 32768}, 6016.0),  # ground truth gt001
        ("qwen3-235b-a22b.Q6_K", {"context": 16384, "type_k": "q8_0", "type_v": "q8_0"}, 1598.0),
        ("llama-3.1-8b.Q4_0", {"context": 16384}, 2048.0),  # gt003
        ("gemma-3-27b.Q4_K_M", {"context": 32768, "full_window": True}, 15872.0),  # gt008
        ("qwen3.5-122b-a10b.Q4_K_M", {"context": 4096}, 96.0 + 149.06),  # P100 surface
    ],
)
def test_cache_equals_the_engine_log(
    name: str, options: dict[str, object], logged: float, tmp_path: Path
) -> None:
    assert total(name, tmp_path, **options) == pytest.approx(logged, abs=0.005)


def test_unknown_memory_class_is_refused() -> None:
    with pytest.raises(InfraLlmError, match="deepseek4"):
        memory_class("deepseek4")


def test_cache_type_that_does_not_divide_the_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InfraLlmError, match="q9_9"):
        total("llama-3.1-8b.Q4_0", tmp_path, context=1024, type_k="q9_9")
