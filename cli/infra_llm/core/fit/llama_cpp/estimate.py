"""What one set of flags needs and gives on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra_llm.core.fit.calibration import Calibration, Part, host_class
from infra_llm.core.fit.llama_cpp.builder import PINNED, Release
from infra_llm.core.fit.llama_cpp.cache import CacheOptions, checkpoint_bytes
from infra_llm.core.fit.llama_cpp.compute import compute_bytes
from infra_llm.core.fit.llama_cpp.graphs import APPROXIMATE
from infra_llm.core.fit.llama_cpp.hyper import Hyper, read_hyper
from infra_llm.core.fit.llama_cpp.memory import (
    MIB,
    Footprint,
    backend_of,
    cache_options,
    footprint,
)
from infra_llm.core.fit.llama_cpp.projector import Encoder, encoder_memory
from infra_llm.core.fit.llama_cpp.speculation import loaded, speculation
from infra_llm.core.fit.llama_cpp.tables import active_bytes, repacked_bytes, table_of
from infra_llm.core.fit.llama_cpp.weights import HOST, INPUT_TENSORS, skipped
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import DeviceMemory, EngineEstimate, TokensPerSecond
from infra_llm.core.speed import (
    CPU_HIGH,
    CPU_LOW,
    HIGH,
    LOW,
    cpu_seconds,
    gpu_seconds,
    prefill_rate,
)

PROCESS_MIB, TOKEN_BYTES = 52.5, 163
"""llama-server without a model, and what its tokenizer takes for each token: RSS of SmolLM2-135M
(49,152 tokens) and Gemma 3 270M (262,144) after their verification, less weights, cache, a
checkpoint and what is written of the compute buffer (`python -m tests.bench.resident`, build
11549); of the constant, 4.5 MiB are the heap of a streamed answer."""
EMBEDDING_PROCESS_MIB = 34.0
"""The same of a server that embeds: no sampler, no answers. all-MiniLM-L6-v2, build 11549, RSS
110.6 MiB less 43.5 of weights, 24.0 of outputs, 3.5 of compute buffer and 4.7 of tokens."""
PROOF_TOKENS, PROOF_CELLS = 350, 512
"""Prompt of the verification, and the cells that it fills: on the host a page of the compute buffer
counts from when it is written, which longer prompts do later."""
PROCESS_HIGH_MIB, TOKEN_HIGH_BYTES = 12.0, 60
"""What the heap grows by with longer prompts (measured likewise)."""
DRIVER_MIB, DRIVER_LOW_MIB, DRIVER_HIGH_MIB = 300.0, 140.0, 512.0
"""CUDA context of a process on a GPU, assumed until measured; public logs show 140 to 456."""
CHECKPOINTS = 32
"""Context checkpoints that a slot may keep, unless it is told (common/common.h)."""
HOST_RESERVE_MIB = 512.0
"""RAM left to the operating system."""
COMPUTE_BOUND, APPROXIMATE_BOUND = 0.01, 0.15
"""Error bounds of compute buffers: families met by the oracle, and those met in part."""
PROJECTOR_BOUND = 0.05
"""Of an encoder's buffer; every type was met exactly on the CPU, but no GPU was seen."""
HOST_BOUND = 0.03
USUAL_DEPTH = 1024
"""Tokens of context at which decode speed is given."""
HOP_SECONDS = 25e-6
"""Handing one token's row to the next device."""


@dataclass(frozen=True)
class Machine:
    """The part of the hardware that a plan depends on."""

    hardware: HostHardware
    gpus: tuple[Gpu, ...]
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    """Of this architecture and build, by device class."""

    def calibration(self, index: int | None) -> Calibration:
        """Corrections for one GPU, or the host for None; empty ones where nothing was measured."""
        known = self.name(index) if index is not None else host_class(self.hardware, self.gpus)
        return self.calibrations.get(known, Calibration())

    def name(self, index: int) -> str:
        """Name of a GPU, which is its device class."""
        return self.gpus[index].name or f"GPU {self.gpus[index].index}"

    def driver(self, index: int) -> Part:
        """The driver's part on a GPU: assumed, and corrected where it was measured."""
        assumed = Part(DRIVER_MIB, DRIVER_MIB - DRIVER_LOW_MIB, DRIVER_HIGH_MIB - DRIVER_MIB)
        return assumed.shifted(self.calibration(index).overhead)

    def pace(self, index: int) -> Part:
        """A GPU's speed over the predicted one, with its bounds."""
        return Part(1.0, 1.0 - LOW, HIGH - 1.0).scaled(self.calibration(index).decode)

    @property
    def ram_mib(self) -> float:
        """RAM that the server may use: the cgroup's limit or all, less the system's share."""
        memory = self.hardware.memory
        total = min(memory.limit_mib or memory.total_mib, memory.total_mib)
        return max(0.0, total - HOST_RESERVE_MIB)

    def vram_mib(self, index: int) -> float:
        """Memory of one GPU without what the driver reserves."""
        gpu = self.gpus[index]
        return float((gpu.vram_total_mib or 0) - (gpu.vram_reserved_mib or 0))


@dataclass
class Estimate:
    """Memory and speed of one launch."""

    flags: dict[str, Any]
    devices: list[DeviceMemory]
    host: DeviceMemory
    speed: TokensPerSecond
    used: Footprint

    @property
    def entries(self) -> list[DeviceMemory]:
        return [*self.devices, self.host]

    @property
    def fits(self) -> bool:
        return all(entry.high_mib <= entry.capacity_mib for entry in self.entries)

    @property
    def tightest(self) -> DeviceMemory:
        """The device with the least room left, as a share of what it has."""
        return min(
            self.entries,
            key=lambda entry: (entry.capacity_mib - entry.high_mib) / max(entry.capacity_mib, 1.0),
        )


def estimate(
    machine: Machine,
    model: ModelProfile,
    hyper: Hyper,
    flags: Mapping[str, Any],
    release: Release = PINNED,
    compute: tuple[int, ...] | None = None,
) -> Estimate:
    """Memory with bounds on each device, and tokens/s; `compute` as in `footprint`."""
    cuda = all(gpu.vendor == "nvidia" for gpu in machine.gpus)
    used = footprint(model, hyper, flags, len(machine.gpus), release, cuda=cuda, compute=compute)
    approximate = hyper.architecture in APPROXIMATE or speculation(flags).mtp
    bound = APPROXIMATE_BOUND if approximate else COMPUTE_BOUND
    flash = "on" if cache_options(flags).flash_attention else "off"
    devices = [_gpu(used, n, machine, bound, flash) for n in range(len(machine.gpus))]
    idle = 0 if machine.gpus or compute else _untouched(model, hyper, flags, release, used)
    copies = _repacked(machine, model, loaded(hyper, flags), flags)
    host = _host(used, machine, model, flags, (bound, flash, idle / MIB, copies / MIB))
    _keep_checkpoints(host, hyper, flags)
    if model.projector:
        count = len(machine.gpus) if flags.get("mmproj_offload", True) else 0
        encoder = encoder_memory(model.projector, flags, gpus=count, cuda=cuda)
        _add_projector(devices[0] if count else host, machine, encoder, on_gpu=bool(count))
        host.overhead_mib += encoder.host / MIB
        host.total_mib += encoder.host / MIB
        host.low_mib += encoder.host / MIB
        host.high_mib += encoder.host_largest / MIB
    # A MiB that a GPU of a unified-memory system takes is gone for the CPU.
    pairs = zip(devices, machine.gpus, strict=True)
    taken = sum(device.high_mib for device, gpu in pairs if gpu.unified_memory)
    host.capacity_mib = max(0.0, host.capacity_mib - taken)
    return Estimate(
        flags=dict(flags),
        devices=devices,
        host=host,
        speed=speed(machine, model, hyper, flags, used),
        used=used,
    )


def _add_projector(
    entry: DeviceMemory, machine: Machine, encoder: Encoder, *, on_gpu: bool
) -> None:
    """An encoder's weights and buffer, and the driver of a GPU that holds nothing else.

    On the host a page of the buffer counts from when an image is seen: all of it is in `high`.
    """
    if on_gpu and not entry.total_mib:
        driver = machine.driver(0)
        entry.overhead_mib = entry.total_mib = driver.value
        entry.low_mib, entry.high_mib = driver.value - driver.below, driver.value + driver.above
    weights, largest = encoder.weights / MIB, encoder.largest / MIB
    compute = encoder.compute / MIB if on_gpu else 0.0
    entry.weights_mib += weights
    entry.overhead_mib += compute
    entry.total_mib += weights + compute
    entry.low_mib += weights + compute * (1 - PROJECTOR_BOUND)
    entry.high_mib += weights + largest * (1 + PROJECTOR_BOUND)


def _keep_checkpoints(host: DeviceMemory, hyper: Hyper, flags: Mapping[str, Any]) -> None:
    """Add what the slots keep to go back: one of the verification's prompt, all of them at most."""
    options = cache_options(flags)
    each = checkpoint_bytes(hyper, options) / MIB
    count = int(flags.get("ctx_checkpoints", CHECKPOINTS)) * options.sequences
    if not each or not count:
        return
    first = checkpoint_bytes(hyper, options, PROOF_TOKENS) / MIB
    host.overhead_mib += first
    host.total_mib += first
    host.low_mib += first
    host.high_mib += count * each


def _untouched(
    model: ModelProfile,
    hyper: Hyper,
    flags: Mapping[str, Any],
    release: Release,
    used: Footprint,
) -> int:
    """Bytes of the host's compute buffer that verification does not reach.

    The buffer is laid out for the largest graph; the graph of the verification's own prompt, laid
    out by the same rules, is what is written.
    """
    options = cache_options(flags)
    small = replace(
        options,
        context=min(options.context, PROOF_CELLS * options.sequences),
        micro_batch=min(options.micro_batch, PROOF_TOKENS),
    )
    backend = backend_of(hyper, flags, 0, cuda=False)
    reached = compute_bytes(model, hyper, used.placement, small, backend, release)[-1]
    beside = used.beside_compute[-1] if used.beside_compute else 0
    return max(0, used.compute[-1] - beside - reached)


def _unread(options: CacheOptions, used: Footprint) -> int:
    """Bytes of the rows of outputs that grow with a text to embed, beyond the verification's.

    Its text is a word for every two tokens that the context leaves (`speed_prompt`).
    """
    if not options.embeddings:
        return 0
    text = max(64, options.context // options.sequences // 2 - 48)
    reached = min(options.micro_batch, PROOF_TOKENS, text)
    return used.output - used.output * reached // options.micro_batch


def _gpu(used: Footprint, index: int, machine: Machine, bound: float, flash: str) -> DeviceMemory:
    parts = (used.weights[index], used.cache[index], used.compute[index])
    weights, cache, predicted = (part / MIB for part in parts)
    doubt = bound * predicted
    compute = Part(predicted, doubt, doubt).scaled(machine.calibration(index).compute.get(flash))
    driver = machine.driver(index) if any(parts) else Part(0.0, 0.0, 0.0)
    total = weights + cache + compute.value + driver.value
    return DeviceMemory(
        name=machine.name(index),
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute.value,
        overhead_mib=driver.value,
        compute_correction_mib=compute.correction,
        overhead_correction_mib=driver.correction,
        total_mib=total,
        low_mib=total - compute.below - driver.below,
        high_mib=total + compute.above + driver.above,
        capacity_mib=machine.vram_mib(index),
    )


def _host(
    used: Footprint,
    machine: Machine,
    model: ModelProfile,
    flags: Mapping[str, Any],
    graph: tuple[float, str, float, float],
) -> DeviceMemory:
    """The server's RSS after its verification; what longer prompts and a cache add is in `high`.

    `graph` is the doubt of the compute buffer, flash attention, the MiB of it that are not touched,
    and those of weights in the order of the CPU's kernels.
    """
    weights, cache = used.weights[-1] / MIB, used.cache[-1] / MIB
    bound, flash, idle, copies = graph
    weights += copies
    calibration = machine.calibration(None)
    unread = _unread(cache_options(flags), used) / MIB
    predicted = (used.compute[-1] + used.output) / MIB - unread
    doubt = bound * predicted
    compute = Part(predicted, doubt, doubt).scaled(calibration.compute.get(flash))
    tokens = model.vocab_size + (model.draft.vocab_size if model.draft else 0)
    alone = EMBEDDING_PROCESS_MIB if model.pooling else PROCESS_MIB
    process = alone + tokens * TOKEN_BYTES / MIB
    spread = HOST_BOUND * (weights + cache + compute.value + process)
    overhead = Part(process, spread, spread).shifted(calibration.overhead)
    untouched = min(idle, compute.value)
    total = weights + cache + compute.value - untouched + overhead.value
    grows = PROCESS_HIGH_MIB + tokens * TOKEN_HIGH_BYTES / MIB + compute.above + idle + unread
    cache_ram = float(flags.get("cache_ram") or 0)
    return DeviceMemory(
        name="host",
        weights_mib=weights,
        kv_cache_mib=cache,
        compute_mib=compute.value - untouched,
        overhead_mib=overhead.value,
        compute_correction_mib=compute.correction,
        overhead_correction_mib=overhead.correction,
        untouched_mib=untouched,
        total_mib=total,
        low_mib=total - overhead.below,
        high_mib=total + max(overhead.above, grows) + cache_ram,
        capacity_mib=machine.ram_mib,
    )


def _repacked(machine: Machine, model: ModelProfile, hyper: Hyper, flags: Mapping[str, Any]) -> int:
    """Bytes of CPU_REPACK, a draft model's included; none where GPUs are."""
    if machine.gpus or not flags.get("repack", True):
        return 0
    sets = machine.hardware.cpu.instruction_sets
    draft = model.draft
    beside = repacked_bytes(draft, read_hyper(draft), sets) if draft else 0
    return repacked_bytes(model, hyper, sets) + beside


def speed(
    machine: Machine, model: ModelProfile, hyper: Hyper, flags: Mapping[str, Any], used: Footprint
) -> TokensPerSecond:
    """Decode of one user at 1,024 tokens of context, and prefill."""
    count = len(machine.gpus)
    work, layers = used.work, [0.0] * (count + 1)
    cpu, threads = machine.hardware.cpu, int(flags.get("threads") or 1)
    options = cache_options(flags)
    depth = min(1.0, USUAL_DEPTH * options.sequences / max(1, options.context))
    cache = [0.0] * (count + 1)
    for layer, size in enumerate(used.layer_cache):
        cache[used.placement.layer_device[layer]] += size * depth / options.sequences
        layers[used.placement.layer_device[layer]] += 1.0 if layer < hyper.layers else 0.0
    k_quant = "_K" in model.quant
    seconds = [
        gpu_seconds(gpu, work[n], int(cache[n]), layers[n], k_quant=k_quant)
        for n, gpu in enumerate(machine.gpus)
    ]
    paces = [machine.pace(n) for n in range(count)]
    plain = sum(seconds)
    seconds = [time / pace.value for time, pace in zip(seconds, paces, strict=True)]
    parameters = table_of(model, hyper).active_parameters
    bits = 8 * max(1, sum(work)) / parameters
    on_host = cpu_seconds(cpu, threads, work[-1], int(cache[-1]), layers[-1], bits=bits)
    busy = [n for n in range(count) if used.weights[n]]
    hops = max(0, len(busy) - 1 + (1 if work[-1] and busy else 0))
    total = sum(seconds) + on_host + hops * HOP_SECONDS
    decode = 1.0 / total if total > 0 else 0.0
    share = on_host / total if total else 0.0
    slowest = None if share > 0.5 or not busy else machine.gpus[busy[-1]]
    prefill = prefill_rate(slowest, threads, parameters)
    low = min((1 - paces[n].below / paces[n].value for n in busy), default=LOW)
    high = max((1 + paces[n].above / paces[n].value for n in busy), default=HIGH)
    return TokensPerSecond(
        decode=decode,
        prefill=prefill,
        low=decode * (share * CPU_LOW + (1 - share) * low),
        high=decode * (share * CPU_HIGH + (1 - share) * high),
        correction=(total - sum(seconds) + plain) / total if total else 1.0,
    )


def engine_estimate(
    machine: Machine, model: ModelProfile, hyper: Hyper, found: Estimate, release: Release
) -> list[EngineEstimate]:
    """What llama-fit-params should print for a launch, corrections of earlier runs included.

    It differs from a server: logits of a whole micro-batch, norms that are not pinned, no second
    row of inputs; and its host row leaves out what the CPU's kernels reorder (common/fit.cpp,
    tools/fit-params: met by the sweep in whole MiB).
    """
    printed = replace(release, server_outputs=False, pins_norms=False, second_input=False)
    cuda = all(gpu.vendor == "nvidia" for gpu in machine.gpus)
    alone = replace(model, draft=None) if model.draft else model
    used = footprint(alone, hyper, found.flags, len(machine.gpus), printed, cuda=cuda)
    bound = APPROXIMATE_BOUND if hyper.architecture in APPROXIMATE else COMPUTE_BOUND
    return [
        EngineEstimate(
            name=entry.name,
            model_mib=weights / MIB,
            context_mib=cache / MIB,
            compute_mib=compute / MIB + entry.compute_correction_mib,
            bound_mib=bound * compute / MIB,
        )
        for entry, weights, cache, compute in zip(
            found.entries, used.weights, used.cache, used.compute, strict=True
        )
    ]


def layer_costs(
    machine: Machine, model: ModelProfile, hyper: Hyper, used: Footprint
) -> tuple[list[int], list[list[float]]]:
    """Bytes of each layer on a GPU (the output last) and the seconds each GPU takes for it."""
    table = table_of(model, hyper)
    sizes, reads = [*used.layer_cache, 0], [0] * (hyper.layers_all + 1)
    if used.placement.overrides:
        for tensor in model.all_tensors:
            on_host = used.placement.device_of(tensor) == HOST
            if tensor.name in INPUT_TENSORS or skipped(tensor, hyper) or on_host:
                continue
            place = hyper.layers_all if tensor.layer is None else tensor.layer
            sizes[place] += tensor.bytes
            reads[place] += active_bytes(tensor, hyper)
    else:
        for layer, sums in enumerate(table.layers):
            sizes[layer] += sums.plain_gpu
            reads[layer] += sums.active
            if layer not in used.placement.expert_hosts:
                sizes[layer] += sums.experts_gpu
                reads[layer] += sums.active_experts
    sizes[-1] += table.tied_gpu
    reads[-1] += table.tied
    seconds = [
        [gpu_seconds(gpu, read, 0, 1.0, k_quant=False) / machine.pace(n).value for read in reads]
        for n, gpu in enumerate(machine.gpus)
    ]
    return sizes, seconds
