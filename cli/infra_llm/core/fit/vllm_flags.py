"""vLLM's command line as flags: read, and held against what vLLM accepts.

Sources: vllm/engine/arg_utils.py, vllm/config/cache.py and parallel.py (0.32).
"""

from __future__ import annotations

import math
import re
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.wishes import MOST, FitWishes

SHORT = {"-tp": "tensor_parallel_size", "-pp": "pipeline_parallel_size", "-q": "quantization"}
CACHE_BYTES = {
    **dict.fromkeys(("auto", "bfloat16", "float16", "fp16", "bf16", "f16"), 2.0),
    **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "q8_0"), 1.0),
}
"""Bytes of an element of the KV cache, by vLLM's names and llama.cpp's next of kin."""
COUNTS = (
    "tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens",
)  # fmt: skip
_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kKmMgG])")
_UNITS = {"k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20, "g": 10**9, "G": 1 << 30}
"""vLLM reads 32k as 32,000 tokens and 32K as 32,768."""


def parse_flags(wishes: FitWishes) -> dict[str, Any]:
    """Wishes and flags as vLLM spells them: --max-model-len 8192, --enforce-eager.

    Raises BadInputError for what is no flag, and for values that vLLM would refuse.
    """
    pinned: dict[str, Any] = {
        name: value
        for name, value in (
            ("max_model_len", wishes.context),
            ("max_num_seqs", wishes.parallel),
            ("max_num_batched_tokens", wishes.batch),
            ("kv_cache_dtype", wishes.kv_type),
        )
        if value is not None
    }
    words = list(wishes.engine_flags)
    while words:
        word, equals, value = words.pop(0).partition("=")
        if word not in SHORT and not word.startswith("--"):
            raise BadInputError(
                f"{word[:80]!r} is no engine flag", where="after --", hint="write it as vLLM does"
            )
        name = SHORT.get(word, word[2:].replace("-", "_"))
        if equals:
            pinned[name] = _value(value)
        elif words and not words[0].startswith("--"):
            pinned[name] = _value(words.pop(0))
        else:
            pinned[name] = True
    _check(pinned)
    return pinned


def _value(text: str) -> Any:
    human = _HUMAN.fullmatch(text)
    if human:
        return int(float(human[1]) * _UNITS[human[2]])
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check(pinned: dict[str, Any]) -> None:
    for name in COUNTS:
        value = pinned.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= MOST):
            raise BadInputError(f"{_option(name)} is {value!r}", hint="give a number from 1 on")
    share = pinned.get("gpu_memory_utilization")
    number = isinstance(share, int | float) and math.isfinite(share)
    if share is not None and not (number and 0 < share <= 1):
        raise BadInputError(
            f"{_option('gpu_memory_utilization')} is {share!r}", hint="a share such as 0.9"
        )
    kind = pinned.get("kv_cache_dtype")
    if kind is not None and kind not in CACHE_BYTES:
        raise BadInputError(
            f"vLLM has no cache of type {kind!r}", hint=f"one of {', '.join(CACHE_BYTES)}"
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
