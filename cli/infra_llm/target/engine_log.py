"""What llama.cpp says about itself in its log: where the memory went, and the layers.

Pure, standard library, Python 3.8. Formats: llama.cpp src/llama-model.cpp (model buffers, offloaded
layers), src/llama-kv-cache.cpp, src/llama-memory-recurrent.cpp (KV and RS buffers),
src/llama-context.cpp (compute and output buffers, parameters), from the `llm_load_tensors` names
of 2024 to the `sched_reserve` ones of 2026. Buffers are printed from log verbosity 4 on.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Match, Optional, Tuple

_KINDS = {"model": "model", "": "model", "LoRA": "model", "KV": "kv_cache", "RS": "recurrent",
          "compute": "compute", "output": "output"}  # fmt: skip
_BUFFER = re.compile(r"(\w+):\s+(\S+)\s+(?:(model|KV|RS|compute|output|LoRA)\s+)?"
                     r"buffer size\s*=\s*([\d.]+) MiB")  # fmt: skip
_ENCODER = ("reserve_compute_meta", "alloc_compute_meta")
"""Functions of tools/mtmd/clip.cpp that log an image encoder's buffer."""
_CONTEXT = re.compile(r"constructing llama_context|llama_new_context_with_model: n_ctx ")
_FITTED = re.compile(r"fitting params to (?:free|device) memory took")
START_MARK = re.compile(rb"^(?!\[ *\d+\] )(?:.*\bbuild_info: |.*\bmain: build = |build: \d+ )")
"""One of the first lines that a start writes. Those of the servers that the router started come
with their port before them."""
_SPAWNED = re.compile(r"spawning server instance with name=(\S+) on port (\d+)")
_STARTED = re.compile(START_MARK.pattern.decode("ascii"))
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_PARAMETER = re.compile(
    r"llama_(?:context|new_context_with_model): (n_ctx|n_ctx_seq|n_batch|n_ubatch|n_seq_max|"
    r"flash_attn)\s*= (\w+)"
)
_FLASH = re.compile(r"Flash Attention (?:was \w+, set to )?(enabled|disabled)")
_CELLS = re.compile(
    r"size =\s*[\d.]+ MiB \(\s*(\d+) cells,\s*(\d+) layers,.*?K \((\w+)\).*?V \((\w+)\)"
)
_KV_SELF = re.compile(r"KV self size\s*=.*?K \((\w+)\).*?V \((\w+)\)")
_SLOTS = re.compile(r"n_slots = (\d+)")


@dataclass
class EngineLog:
    """Sizes in MiB. `None` where the log does not say."""

    devices: Dict[str, Dict[str, float]] = field(default_factory=dict)
    """By the engine's buffer name (CPU, CPU_Mapped, CUDA0, CUDA_Host ...): model, kv_cache,
    recurrent, compute, output, encoder (an image encoder's compute buffer)."""
    layers_offloaded: Optional[int] = None
    layers_total: Optional[int] = None
    flash_attention: Optional[bool] = None
    n_ctx: Optional[int] = None
    n_ctx_seq: Optional[int] = None
    n_batch: Optional[int] = None
    n_ubatch: Optional[int] = None
    n_seq_max: Optional[int] = None
    n_slots: Optional[int] = None
    kv_caches: List[Dict[str, Any]] = field(default_factory=list)
    """Each {"cells", "layers", "type_k", "type_v"}; models with sliding windows have two."""

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)


def last_start(text: str) -> str:
    """The part of a log file that the engine wrote since it was last started."""
    start = 0
    for match in re.finditer(r"^.*$", text, re.MULTILINE):
        if _STARTED.search(match.group()):
            start = match.start()
    return text[start:]


def of_model(text: str, name: str) -> str:
    """What the server of one model wrote, out of the log of the router that started it.

    The router puts "[port] " before each of its lines (tools/server/server-models.cpp). The whole
    text where no router started it.
    """
    ports = [port for model, port in _SPAWNED.findall(text) if model == name]
    if not ports:
        return text
    mark = "[{:>5}] ".format(ports[-1])
    return "\n".join(line.split(mark, 1)[1] for line in text.splitlines() if mark in line)


def parse_buffer_lines(text: str) -> Dict[str, Dict[str, float]]:
    """Buffer sizes in MiB by device, {device: {model, kv_cache, recurrent, compute, output}}."""
    return parse_engine_log(text).devices


def parse_engine_log(text: str) -> EngineLog:
    """Read what the engine logged while loading; lines of anything else are passed over."""
    reader = _Reader()
    for line in last_start(text).splitlines():
        reader.line(line)
    return reader.finish()


class _Reader:
    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.log = EngineLog()
        # A list entry a context, by (function, device): buffers are reserved anew now and then,
        # and then the last size counts; a vision projector prints its own from another function.
        self.compute: List[Dict[Tuple[str, str], float]] = [{}]

    def line(self, line: str) -> None:
        if _FITTED.search(line):
            # What came before was a trial that allocated nothing.
            self._start()
        elif _CONTEXT.search(line):
            self.compute.append({})
        buffer = _BUFFER.search(line)
        if buffer:
            self._buffer(buffer)
        else:
            self._other(line)

    def _buffer(self, found: Match[str]) -> None:
        function, device, kind, size = found.groups()
        if kind == "compute":
            self.compute[-1][function, device] = float(size)
            return
        sizes = self.log.devices.setdefault(device, {})
        name = _KINDS[kind or ""]
        sizes[name] = round(sizes.get(name, 0.0) + float(size), 2)

    def _other(self, line: str) -> None:
        log = self.log
        offloaded = _OFFLOADED.search(line)
        if offloaded and log.layers_total is None:
            log.layers_offloaded, log.layers_total = map(int, offloaded.groups())
        parameter = _PARAMETER.search(line)
        if parameter:
            self._parameter(parameter.group(1), parameter.group(2))
        flash = _FLASH.search(line)
        if flash:
            log.flash_attention = flash.group(1) == "enabled"
        cells = _CELLS.search(line) if "cache" in line else None
        if cells:
            self._cache(int(cells.group(1)), int(cells.group(2)), cells.group(3), cells.group(4))
        kv_self = _KV_SELF.search(line)
        if kv_self and not log.kv_caches:
            self._cache(log.n_ctx, None, kv_self.group(1), kv_self.group(2))
        slots = _SLOTS.search(line)
        if slots:
            log.n_slots = int(slots.group(1))

    def _cache(self, cells: Optional[int], layers: Optional[int], k: str, v: str) -> None:
        self.log.kv_caches.append({"cells": cells, "layers": layers, "type_k": k, "type_v": v})

    def _parameter(self, name: str, value: str) -> None:
        if name == "flash_attn":
            known = {"0": False, "disabled": False, "1": True, "enabled": True}
            self.log.flash_attention = known.get(value, self.log.flash_attention)
        elif value.isdigit() and getattr(self.log, name) is None:
            # A draft model's context comes later; the served model's own comes first.
            setattr(self.log, name, int(value))

    def finish(self) -> EngineLog:
        for context in self.compute:
            for (function, device), size in context.items():
                sizes = self.log.devices.setdefault(device, {})
                name = "encoder" if function in _ENCODER else "compute"
                sizes[name] = round(sizes.get(name, 0.0) + size, 2)
        return self.log
