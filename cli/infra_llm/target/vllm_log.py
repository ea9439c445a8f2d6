"""What vLLM says about itself in its log: weights, room of the KV cache, CUDA graphs.

Pure, standard library, Python 3.8. Formats of 0.32.0: vllm/v1/worker/gpu_model_runner.py (model
loading, graphs), gpu_worker.py and cpu_worker.py (memory of the cache), v1/core/kv_cache_utils.py
(its tokens); older releases write "GPU KV cache size" alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional

START_MARK = re.compile(rb"vllm\.entrypoints\.openai\.api_server|api_utils\.py.*version ")
"""One of the first lines that a start writes."""
_MIB = 1024.0
_WEIGHTS = re.compile(r"Model loading took ([\d.]+) Gi?B")
_CACHE = re.compile(r"Available KV cache memory: ([\d.]+) GiB")
_CPU_CACHE = re.compile(r"(?:Explicitly|Auto) set \(([\d.]+)/[\d.]+\) GiB for KV cache")
_TOKENS = re.compile(r"(CPU|GPU) KV cache size: ([\d,]+) tokens")
_AT_ONCE = re.compile(r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")
_GRAPHS = re.compile(r"Graph capturing finished in .* took ([\d.-]+) GiB")


@dataclass
class VllmLog:
    """Sizes in MiB, of one rank. None where the log does not say."""

    device: Optional[str] = None
    """CPU or GPU: where the KV cache is."""
    weights_mib: Optional[float] = None
    kv_cache_mib: Optional[float] = None
    kv_cache_tokens: Optional[int] = None
    """Of the deployment: the worst rank decides."""
    context: Optional[int] = None
    """max_model_len."""
    at_once: Optional[float] = None
    """Requests of the whole context that the cache holds."""
    graphs_mib: Optional[float] = None

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)


def parse_vllm_log(text: str) -> VllmLog:
    """Read what one start logged; the last word counts, lines of anything else are passed over."""
    log = VllmLog()
    for line in text.splitlines():
        for pattern, field in ((_WEIGHTS, "weights_mib"), (_CACHE, "kv_cache_mib"),
                               (_CPU_CACHE, "kv_cache_mib"), (_GRAPHS, "graphs_mib")):  # fmt: skip
            found = pattern.search(line)
            if found:
                setattr(log, field, round(float(found.group(1)) * _MIB, 1))
        tokens = _TOKENS.search(line)
        if tokens:
            log.device, log.kv_cache_tokens = tokens.group(1), _number(tokens.group(2))
        at_once = _AT_ONCE.search(line)
        if at_once:
            log.context, log.at_once = _number(at_once.group(1)), float(at_once.group(2))
    return log


def _number(text: str) -> int:
    return int(text.replace(",", ""))
