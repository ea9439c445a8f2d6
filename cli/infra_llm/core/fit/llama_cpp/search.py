"""Search for the best llama.cpp launch.

In the order of preference: everything on the GPUs; experts of some layers on the host; some layers
on the host; all on the host. Within each, the split over uneven GPUs is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.calibration import Calibration
from infra_llm.core.fit.llama_cpp.arguments import parse_arguments
from infra_llm.core.fit.llama_cpp.builder import Release, release_of
from infra_llm.core.fit.llama_cpp.cache import checkpoint_bytes
from infra_llm.core.fit.llama_cpp.estimate import (
    APPROXIMATE_BOUND,
    CHECKPOINTS,
    PROJECTOR_BOUND,
    Estimate,
    Machine,
    estimate,
    layer_costs,
)
from infra_llm.core.fit.llama_cpp.hyper import ENCODERS, read_hyper
from infra_llm.core.fit.llama_cpp.limits import check_flags, refuse_files
from infra_llm.core.fit.llama_cpp.memory import MIB, cache_options
from infra_llm.core.fit.llama_cpp.projector import encoder_memory
from infra_llm.core.fit.llama_cpp.speculation import loaded, speculative_flags
from infra_llm.core.fit.llama_cpp.split import split_layers
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import Gpu, HostHardware, accelerators
from infra_llm.core.model import ModelProfile

SLOT_CONTEXT = 8192
"""Tokens a slot gets where nobody asked for more."""
LARGE_CONTEXT = 32768
"""Tokens a slot gets where the GPUs have room left."""
EMBEDDING_CONTEXT = 2048
"""Tokens of a text to embed where nobody asked for more: buffers grow with it."""
LEAST_CONTEXT = 2048
CONTEXT_STEP = 256
MOST_SLOTS = 4
KV_TYPES = ("f16", "q8_0")
"""Cache types that are tried without being asked: q8_0 costs less than 0.1 % of perplexity."""
SPEED_GAIN = 1.15
"""A smaller cache type must be so much faster to be worth it."""
SPLIT_TRIES = 4
CHECKPOINT_SHARE = 0.05
"""Of the RAM that may be used, what context checkpoints get at most."""
NUMA = "distribute"
"""Where the processor works on several nodes: its threads are pinned in turn to all of them, and
the mapped file is faulted in by whoever reads it, so that memory of all nodes is used at once
(`set_numa_thread_affinity` in ggml-cpu.c, `llama_mmap` in src/llama-mmap.cpp)."""


class Search:
    """One search: the machine, the model and the flags that are pinned."""

    def __init__(
        self,
        hardware: HostHardware,
        model: ModelProfile,
        wishes: FitWishes,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> None:
        self.pinned = pinned_flags(wishes)
        gpus = tuple(gpu for gpu in accelerators(hardware) if (gpu.vram_total_mib or 0) > 0)
        if self.pinned.get("split_mode") == "none" and gpus:
            gpus = (one_of(gpus, int(self.pinned.get("main_gpu", 0))),)
        self.machine = Machine(hardware, gpus, calibrations or {})
        self.model, self.hyper, self.wishes = model, read_hyper(model), wishes
        self.release: Release = release_of(wishes.engine_build)
        self.base = default_flags(self.machine, wishes, self.pinned)
        self.base = {**speculative_flags(model, self.pinned, len(gpus)), **self.base}
        self.hyper = loaded(self.hyper, self.base)
        if self.hyper.architecture == "grok":  # the engine forces it (llama-context.cpp)
            self.base["flash_attn"] = "off"
        if model.pooling:
            self.base["embeddings"] = True
            check_embedding(model, self.pinned, int(self.base["parallel"]))

    def best(self) -> Estimate:
        """The best launch that fits, or the least bad one that does not."""
        found = self.found()
        if "numa" not in self.pinned and self.numa_nodes() > 1 and found.used.work[-1]:
            found.flags["numa"] = NUMA
        return found

    def checkpoints(self, flags: Mapping[str, Any]) -> dict[str, int]:
        """How many context checkpoints a slot keeps; none is named where the model makes none.

        The engine's own 32 of a hybrid model's states are gigabytes.
        """
        options = cache_options(flags)
        each = checkpoint_bytes(self.hyper, options) * options.sequences
        if not each or "ctx_checkpoints" in self.pinned:
            return {}
        room = CHECKPOINT_SHARE * self.machine.ram_mib * MIB
        return {"ctx_checkpoints": max(1, min(CHECKPOINTS, int(room // each)))}

    def numa_nodes(self) -> int:
        """Nodes that have processors; a node may be memory alone."""
        return sum(bool(node.cpus) for node in self.machine.hardware.numa)

    def found(self) -> Estimate:
        """`best` without the flags that change no memory."""
        found: Estimate | None = None
        last: Estimate | None = None
        for context in self.contexts():
            for kind in self.cache_types():
                flags = {**self.base, "ctx_size": context, **kind}
                if self.model.pooling:
                    flags |= self.whole_text(context)
                last = self.place(flags)
                better = found is None or last.speed.decode > SPEED_GAIN * found.speed.decode
                if last.fits and better:
                    found = last
                # On a processor a smaller type reads prompts slower (docs/planner.md): only room is
                # a reason for it.
                if found and (self.everything_on_gpus(found) or self.on_processor):
                    break
            if found is not None:
                return self.grow(found)
        assert last is not None
        return last

    def whole_text(self, context: int) -> dict[str, int]:
        """A text is embedded in one micro-batch, so that one holds a slot's whole context."""
        each = context // int(self.base["parallel"])
        sizes = {"batch_size": each, "ubatch_size": each}
        return {name: size for name, size in sizes.items() if name not in self.pinned}

    @property
    def on_processor(self) -> bool:
        """No layer can come onto a GPU."""
        return not self.machine.gpus or self.pinned.get("n_gpu_layers") == 0

    def everything_on_gpus(self, found: Estimate) -> bool:
        """No layer and no expert is left on the host."""
        layers = int(found.flags["n_gpu_layers"])
        return layers > self.hyper.layers_all and not found.used.placement.expert_hosts

    def contexts(self) -> list[int]:
        """Contexts to try, the wished one first."""
        if self.pinned.get("ctx_size"):
            return [int(self.pinned["ctx_size"])]
        slots = int(self.base["parallel"])
        usual = EMBEDDING_CONTEXT if self.model.pooling else SLOT_CONTEXT
        context = min(self.hyper.context or usual, usual)
        steps = [context]
        while steps[-1] > LEAST_CONTEXT:
            steps.append(max(LEAST_CONTEXT, steps[-1] // 2 // CONTEXT_STEP * CONTEXT_STEP))
        return [step * slots for step in steps]

    def cache_types(self) -> list[dict[str, str]]:
        """Cache types to try: only the pinned ones, f16 alone without flash attention."""
        if "cache_type_k" in self.pinned or "cache_type_v" in self.pinned:
            return [{}]
        whole = all(width % 32 == 0 for width in (*self.hyper.k_width, *self.hyper.v_width))
        kinds = KV_TYPES if self.base["flash_attn"] == "on" and whole else KV_TYPES[:1]
        return [{"cache_type_k": kind, "cache_type_v": kind} for kind in kinds]

    def assess(self, flags: dict[str, Any], compute: tuple[int, ...] | None = None) -> Estimate:
        """Memory and speed of these flags; `compute` skips laying out the graph."""
        return estimate(self.machine, self.model, self.hyper, flags, self.release, compute)

    def place(self, flags: dict[str, Any]) -> Estimate:
        """Put layers and experts where they fit, the most on the GPUs."""
        flags = {**flags, **self.checkpoints(flags)}
        if not self.machine.gpus:
            plain = {**flags, "n_gpu_layers": int(flags.get("n_gpu_layers", 0))}
            found = self.assess(plain)
            if not found.fits and "repack" not in self.pinned:
                # Without the reordered copies prompts are slower, but the weights stand once.
                lean = self.assess({**plain, "repack": False})
                return lean if lean.fits else found
            return found
        if "n_gpu_layers" in self.pinned:
            return self.spread(flags, int(flags["n_gpu_layers"]))
        every = self.hyper.layers_all + 1
        if not self.hopeless(flags):
            full = self.spread(flags, every)
            if full.fits:
                return full
        options = []
        kept = any(name in self.pinned for name in ("override_tensor", "n_cpu_moe", "cpu_moe"))
        if self.hyper.experts and not kept:
            layers = self.hyper.layers_all

            def with_experts(count: int, hint: tuple[int, ...] | None) -> Estimate:
                moved = {**flags, "n_cpu_moe": layers - count}
                return self.spread(moved, every, hint)

            options.append(self.most(with_experts, 0, layers - 1))
            if options[0].fits:
                return options[0]
        options.append(
            self.most(lambda n, hint: self.spread(flags, n, hint), 0, self.hyper.layers_all)
        )
        fitting = [option for option in options if option.fits]
        return max(fitting or options, key=lambda option: option.speed.decode)

    def hopeless(self, flags: dict[str, Any]) -> bool:
        """The weights alone are more than the GPUs have: no need to lay out the graph."""
        count = len(self.machine.gpus)
        everything = self.assess(
            {**flags, "n_gpu_layers": self.hyper.layers_all + 1}, (0,) * (count + 1)
        )
        room = sum(self.machine.vram_mib(n) for n in range(count))
        return sum(entry.total_mib for entry in everything.devices) > room

    def most(
        self, make: Callable[[int, tuple[int, ...] | None], Estimate], low: int, high: int
    ) -> Estimate:
        """The estimate of the largest number that fits; more must need more on the GPUs.

        The graph is laid out in the middle, and its buffers stand for all numbers until the
        answer is near; there each step is laid out again.
        """
        hint = make((low + high) // 2, None).used.compute
        first, last = low, high
        while first < last:
            middle = (first + last + 1) // 2
            tried = make(middle, hint)
            if all(entry.high_mib <= entry.capacity_mib for entry in tried.devices):
                first = middle
            else:
                last = middle - 1
        best = make(first, None)
        while not best.fits and first > low and _gpus_over(best):
            first -= 1
            best = make(first, None)
        while best.fits and first < high:
            more = make(first + 1, None)
            if not more.fits:
                break
            first, best = first + 1, more
        return best

    def spread(
        self, flags: dict[str, Any], layers: int, hint: tuple[int, ...] | None = None
    ) -> Estimate:
        """`layers` on the GPUs, split as well as possible."""
        flags = {**flags, "n_gpu_layers": layers}
        gpus = len(self.machine.gpus)
        if gpus == 1 or layers == 0 or "tensor_split" in self.pinned:
            return self.assess(flags, hint)
        flags["tensor_split"] = self.engine_split()
        best = current = self.assess(flags, hint)
        placed = any(name in self.pinned for name in ("n_gpu_layers", "override_tensor"))
        if placed and best.fits:
            # Who places layers by hand gets the split that the engine makes.
            return best
        for _ in range(SPLIT_TRIES):
            counts = self.exact_split(current, layers)
            if counts is None or counts == current.flags["tensor_split"]:
                break
            current = self.assess({**flags, "tensor_split": counts}, hint)
            if (current.fits, current.speed.decode) >= (best.fits, best.speed.decode):
                best = current
            if current.fits:
                break
        return best

    def engine_split(self) -> list[int]:
        """The engine's own split: by memory."""
        sizes = [int(self.machine.vram_mib(n)) for n in range(len(self.machine.gpus))]
        common = gcd(*sizes) or 1
        return [size // common for size in sizes]

    def exact_split(self, current: Estimate, layers: int) -> list[int] | None:
        """Counts of layers for each GPU by dynamic programming, for these compute buffers."""
        sizes, seconds = layer_costs(self.machine, self.model, self.hyper, current.used)
        first = max(0, self.hyper.layers_all + 1 - layers)
        largest = max(entry.compute_mib for entry in current.devices)
        room: list[int] = []
        for entry in current.devices:
            margin = (entry.compute_mib or largest) * (1 + APPROXIMATE_BOUND / 8)
            driver = self.machine.driver(len(room))
            taken = margin + driver.value + driver.above
            if not room and self.model.projector and current.flags.get("mmproj_offload", True):
                cuda = all(gpu.vendor == "nvidia" for gpu in self.machine.gpus)
                encoder = encoder_memory(self.model.projector, current.flags, gpus=1, cuda=cuda)
                taken += (encoder.weights + (1 + PROJECTOR_BOUND) * encoder.largest) / MIB
            beside = current.used.beside[len(room)] if current.used.beside else 0
            room.append(max(0, int((entry.capacity_mib - taken) * MIB) - beside))
        return split_layers(sizes[first:], [row[first:] for row in seconds], room)

    def grow(self, found: Estimate) -> Estimate:
        """A larger context where the GPUs hold everything and have room left."""
        if "ctx_size" in self.pinned or not self.machine.gpus or self.model.pooling:
            return found
        if not self.everything_on_gpus(found):
            return found
        slots = int(found.flags["parallel"])
        context = int(found.flags["ctx_size"])
        limit = min(self.hyper.context or SLOT_CONTEXT, LARGE_CONTEXT) * slots
        while context * 2 <= limit:
            context *= 2
            flags = {key: value for key, value in found.flags.items() if key != "tensor_split"}
            flags = {**flags, "ctx_size": context}
            flags |= self.checkpoints(flags)
            larger = self.spread(flags, int(flags["n_gpu_layers"]))
            if not larger.fits:
                break
            found = larger
        return found


def pinned_flags(wishes: FitWishes) -> dict[str, Any]:
    """Wishes and engine flags as one set of flags that the search must keep."""
    flash = wishes.flash_attention
    fields = {
        "ctx_size": wishes.context,
        "parallel": wishes.parallel,
        "cache_type_k": wishes.kv_type,
        "cache_type_v": wishes.kv_type_v or wishes.kv_type,
        "n_gpu_layers": wishes.gpu_layers,
        "n_cpu_moe": wishes.cpu_moe_layers,
        "threads": wishes.threads,
        "batch_size": wishes.batch,
        "ubatch_size": wishes.ubatch,
        "flash_attn": None if flash is None else ("on" if flash else "off"),
        "tensor_split": list(wishes.tensor_split) if wishes.tensor_split else None,
        "mmproj": wishes.projector_file,
        "model_draft": wishes.draft_file,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    asked = parse_arguments(wishes.engine_flags)
    refuse_files(asked)
    pinned = {**given, **asked}
    check_flags(pinned)
    # "As many as the processor has" and "as the model was trained for" are what is solved anyway.
    pinned = {
        name: value
        for name, value in pinned.items()
        if not (name in {"threads", "threads_batch"} and int(value) < 1)
        and not (name == "ctx_size" and not value)
    }
    if pinned.get("flash_attn") == "auto":
        pinned["flash_attn"] = "on"
    if pinned.get("override_tensor") and "n_gpu_layers" not in pinned:
        pinned["n_gpu_layers"] = 999
    return pinned


def one_of(gpus: tuple[Gpu, ...], number: int) -> Gpu:
    """The GPU that serves alone. Raises BadInputError."""
    if number >= len(gpus):
        count = f"there are {len(gpus)} GPUs" if len(gpus) > 1 else "there is 1 GPU"
        raise BadInputError(
            f"--main-gpu {number}: {count}", hint=f"give a number from 0 to {len(gpus) - 1}"
        )
    return gpus[number]


def check_embedding(model: ModelProfile, pinned: Mapping[str, Any], slots: int) -> None:
    """Raise BadInputError for a reranker, and for more context than an encoder has positions."""
    if model.pooling == "rank":
        raise BadInputError(
            "a model that scores pairs of texts (reranking) is not served",
            where=model.name or "model",
            hint="choose a model that embeds, or one that writes text",
        )
    context = int(pinned.get("ctx_size") or 0) // slots
    if model.architecture in ENCODERS and context > model.context_length:
        raise BadInputError(
            f"a text of {context} tokens is wished, the model reads {model.context_length}",
            where=model.name or "model",
            hint=f"wish a context of at most {model.context_length}",
        )


def default_flags(machine: Machine, wishes: FitWishes, pinned: dict[str, Any]) -> dict[str, Any]:
    """Explicit flags before the search; the engine's own fitting is off."""
    cpu = machine.hardware.cpu
    threads = max(1, min(cpu.cores, cpu.usable_threads))
    flags: dict[str, Any] = {
        "ctx_size": 0,
        "parallel": min(wishes.users, MOST_SLOTS),
        "kv_unified": False,
        "cache_type_k": "f16",
        "cache_type_v": "f16",
        "flash_attn": "on",
        "n_gpu_layers": 0,
        "batch_size": 2048,
        "ubatch_size": 512,
        "threads": threads,
        "threads_batch": max(threads, cpu.usable_threads),
        "mmap": True,
        "mlock": False,
        "cache_ram": 0,
        "fit": "off",
    }
    if "threads" in pinned:
        flags["threads_batch"] = pinned["threads"]
    return {**flags, **pinned}


def _gpus_over(found: Estimate) -> bool:
    return any(entry.high_mib > entry.capacity_mib for entry in found.devices)
