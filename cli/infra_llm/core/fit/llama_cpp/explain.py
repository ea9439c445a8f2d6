"""From an estimate to a plan in words: what binds, what else is possible, why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from infra_llm.core.fit.calibration import host_class
from infra_llm.core.fit.llama_cpp.cache import cells, checkpoint_bytes, layer_cache_bytes
from infra_llm.core.fit.llama_cpp.estimate import Estimate, Machine, engine_estimate
from infra_llm.core.fit.llama_cpp.graphs import APPROXIMATE
from infra_llm.core.fit.llama_cpp.limits import not_known
from infra_llm.core.fit.llama_cpp.memory import MIB, cache_options
from infra_llm.core.fit.llama_cpp.projector import encoder_memory, kinds_of
from infra_llm.core.fit.llama_cpp.search import LEAST_CONTEXT, NUMA, Search
from infra_llm.core.plan import (
    Alternative,
    DeviceMemory,
    LaunchPlan,
    PlannedModel,
    Reason,
    TokensPerSecond,
)
from infra_llm.core.speed import UNKNOWN_GBS, bandwidth, compute_capability

OLDEST_CUDA = 5
"""CMAKE_CUDA_ARCHITECTURES of ggml/src/ggml-cuda/CMakeLists.txt begin with 50."""
MOST_CONTEXT = 1 << 20
MOST_PARALLEL = 64
CONTEXT_GRAIN = 1024


def plan_of(search: Search, found: Estimate) -> LaunchPlan:
    """The plan with its figures, reasons and alternatives."""
    model, wishes = search.model, search.wishes
    slow = wishes.minimum_decode is not None and found.speed.decode < wishes.minimum_decode
    fits = found.fits and not slow
    plan = LaunchPlan(
        engine="llama.cpp",
        fits=fits,
        model=PlannedModel(
            name=model.name,
            architecture=model.architecture,
            quant=model.quant,
            sha256=model.sha256,
            file_bytes=model.file_bytes,
            parameters=model.parameters,
        ),
        flags=clean(found.flags),
        devices=found.devices,
        host=found.host,
        tokens_per_second=found.speed,
        binding_constraint=binding(found, slow),
        why=reasons(search, found),
    )
    if model.pooling:
        # It writes no tokens: what is read of a text is all that it does.
        plan.tokens_per_second = TokensPerSecond(prefill=found.speed.prefill)
    if fits:
        fixed = int(found.flags["ctx_size"])
        plan.max_context = fixed if model.pooling else max_context(search, found)
        plan.max_parallel = max_parallel(search, found)
        plan.alternatives = improvements(search, found, plan.max_context)
    else:
        plan.alternatives = remedies(search, found, slow)
    plan.warnings = warnings(search, found)
    plan.engine_estimate = engine_estimate(
        search.machine, model, search.hyper, found, search.release
    )
    return plan


def clean(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags without those that say nothing."""
    return {name: value for name, value in flags.items() if value is not None}


def binding(found: Estimate, slow: bool) -> str:
    """What limits the launch, in words."""
    over = [entry for entry in found.entries if entry.high_mib > entry.capacity_mib]
    if over:
        worst = max(over, key=lambda entry: entry.high_mib - entry.capacity_mib)
        missing = worst.high_mib - worst.capacity_mib
        return f"{missing:,.0f} MiB of memory are missing on {label(worst)}"
    if slow:
        return f"decode speed of {found.speed.decode:.1f} tokens/s"
    tight = found.tightest
    return f"memory of {label(tight)}: {tight.capacity_mib - tight.high_mib:,.0f} MiB are left"


def label(entry: DeviceMemory) -> str:
    """A device by its name."""
    return "the host" if entry.name == "host" else entry.name


def max_context(search: Search, found: Estimate) -> int:
    """Largest context of all slots that fits with the other flags unchanged."""
    context, slots = int(found.flags["ctx_size"]), int(found.flags["parallel"])
    top = min(max(search.hyper.context * slots, context), MOST_CONTEXT)
    steps = max(0, top - context) // CONTEXT_GRAIN
    best = largest(
        search, found, lambda n: {"ctx_size": min(top, context + n * CONTEXT_GRAIN)}, steps
    )
    return min(top, context + best * CONTEXT_GRAIN)


def max_parallel(search: Search, found: Estimate) -> int:
    """Most slots with the plan's context for each."""
    slots = int(found.flags["parallel"])
    each = max(1, int(found.flags["ctx_size"]) // slots)
    return slots + largest(
        search,
        found,
        lambda n: {"parallel": slots + n, "ctx_size": each * (slots + n)},
        max(0, MOST_PARALLEL - slots),
    )


def largest(
    search: Search, found: Estimate, change: Callable[[int], dict[str, Any]], steps: int
) -> int:
    """The largest step whose flags fit; step 0 is `found`.

    Compute buffers are laid out at both ends and taken as linear between them (they are sums of
    terms that are linear in the context); the answer is laid out again.
    """
    if not steps:
        return 0
    end = search.assess({**found.flags, **change(steps)})
    if end.fits:
        return steps
    pairs = list(zip(found.used.compute, end.used.compute, strict=True))
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        between = tuple(int(a + (b - a) * middle / steps) for a, b in pairs)
        if search.assess({**found.flags, **change(middle)}, between).fits:
            low = middle
        else:
            high = middle - 1
    while low and not search.assess({**found.flags, **change(low)}).fits:
        low -= max(1, steps // 64)
    return max(low, 0)


def improvements(search: Search, found: Estimate, most: int) -> list[Alternative]:
    """What a little more memory or another flag would give."""
    found_list: list[Alternative] = []
    context = int(found.flags["ctx_size"])
    if most > context:
        found_list.append(
            Alternative(
                change=f"context {most}",
                flags={"ctx_size": most},
                context=most,
                decode=found.speed.decode,
                note="fits too; the plan keeps to what was asked",
            )
        )
    trained = search.hyper.context * int(found.flags["parallel"])
    doubled = max(context, most) * 2
    if doubled <= trained:
        larger = search.assess({**found.flags, "ctx_size": doubled})
        for entry in larger.entries:
            missing = entry.high_mib - entry.capacity_mib
            if missing > 0:
                found_list.append(
                    Alternative(
                        change=f"{missing:,.0f} MiB more on {label(entry)}",
                        fits=False,
                        flags={"ctx_size": doubled},
                        context=doubled,
                        note=f"would allow {doubled} tokens of context",
                    )
                )
    if found.flags["cache_type_k"] == "f16" and found.flags["flash_attn"] == "on":
        smaller = {**found.flags, "cache_type_k": "q8_0", "cache_type_v": "q8_0"}
        saved = sum(layer_cache_bytes(search.hyper, cache_options(found.flags))) * 15 / 32 / MIB
        if saved > 1:
            found_list.append(
                Alternative(
                    change="cache type q8_0",
                    flags={"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
                    context=int(smaller["ctx_size"]),
                    decode=found.speed.decode,
                    total_mib=-saved,
                    note=f"saves {saved:,.0f} MiB",
                )
            )
    return found_list


def remedies(search: Search, found: Estimate, slow: bool) -> list[Alternative]:
    """What would have to change for the launch to fit."""
    answers: list[Alternative] = []
    for entry in found.entries:
        missing = entry.high_mib - entry.capacity_mib
        if missing > 0:
            answers.append(
                Alternative(
                    change=f"{missing:,.0f} MiB more memory on {label(entry)}",
                    note="with the flags of this plan",
                )
            )
    if slow:
        answers.append(Alternative(change="accept a lower speed", decode=found.speed.decode))
    answers.extend(relaxed(search, found))
    ratio = min(
        (entry.capacity_mib - entry.kv_cache_mib - entry.compute_mib - entry.overhead_mib)
        / entry.weights_mib
        for entry in found.entries
        if entry.weights_mib
    )
    memory = search.machine.ram_mib + sum(
        search.machine.vram_mib(n) for n in range(len(search.machine.gpus))
    )
    fixed = sum(e.kv_cache_mib + e.compute_mib + e.overhead_mib for e in found.entries)
    room = (memory - fixed) / max(1.0, sum(e.weights_mib for e in found.entries))
    share = max(ratio, min(room, 1.0))
    if not found.fits and 0 < share < 1:
        bits = 8 * search.model.tensor_bytes / max(1, search.model.parameters)
        answers.append(
            Alternative(
                change=f"a smaller quant: {bits * share:.1f} bits a weight at most, not {bits:.1f}",
                total_mib=share * search.model.tensor_bytes / MIB,
                note=f"a file of at most {share * search.model.file_bytes / (1 << 30):.1f} GiB",
            )
        )
    return answers


def relaxed(search: Search, found: Estimate) -> list[Alternative]:
    """The same search with pinned flags let go, one kind at a time."""
    answers: list[Alternative] = []
    for names, words in (
        (("n_gpu_layers", "tensor_split", "override_tensor", "n_cpu_moe"), "layers as they fit"),
        (("cache_type_k", "cache_type_v"), "a smaller cache type"),
        (("ctx_size",), "a smaller context"),
    ):
        if not any(name in search.pinned for name in names):
            continue
        kept = {key: value for key, value in search.pinned.items() if key not in names}
        machine = search.machine
        other = Search(machine.hardware, search.model, search.wishes, machine.calibrations)
        other.pinned = kept
        other.base = {
            key: value for key, value in search.base.items() if key not in names or key in kept
        }
        for name, value in (("cache_type_k", "f16"), ("cache_type_v", "f16")):
            other.base.setdefault(name, value)
        result = other.best()
        if result.fits:
            context = int(result.flags["ctx_size"])
            answers.append(
                Alternative(
                    change=f"{words}: {context} tokens, {result.flags['n_gpu_layers']} GPU layers",
                    flags={
                        key: value
                        for key, value in result.flags.items()
                        if found.flags.get(key) != value
                    },
                    context=context,
                    decode=result.speed.decode,
                    note=f"{result.speed.decode:.1f} tokens/s",
                )
            )
    return answers


def reasons(search: Search, found: Estimate) -> list[Reason]:
    """Why in words, each with its source."""
    hyper, flags, used = search.hyper, found.flags, found.used
    size, streams = cells(cache_options(flags))
    answers = [
        Reason(
            f"weights {sum(used.weights) / MIB:,.2f} MiB, summed over the tensor table", "header"
        ),
        Reason(
            f"cache {sum(used.cache) / MIB:,.2f} MiB: {size} cells in {streams} streams, "
            f"{sum(hyper.caches)} of {hyper.layers} layers, K {flags['cache_type_k']}, "
            f"V {flags['cache_type_v']}"
            + (f", window {hyper.window} in {sum(hyper.windowed)} layers" if hyper.window else "")
            + (f", state in {sum(hyper.recurrent)} layers" if any(hyper.recurrent) else ""),
            "header",
        ),
        Reason(
            f"compute buffers {sum(used.compute) / MIB:,.2f} MiB for a micro-batch of "
            f"{flags['ubatch_size']}: the engine's graph laid out by its own allocator",
            "assumed" if hyper.architecture in APPROXIMATE else "calibrated",
        ),
        *companions(search, found),
        *calibrated(search.machine, found),
        Reason(f"{flags['threads']} threads: one a physical core that may be used", "probe"),
        *loading(search, found),
    ]
    if search.machine.gpus:
        count = min(int(flags["n_gpu_layers"]), hyper.layers_all + 1)
        where = f"{count} of {hyper.layers_all + 1} layers on the GPUs"
        if flags.get("n_cpu_moe"):
            where += f", the experts of {flags['n_cpu_moe']} layers on the host"
        answers.append(Reason(where, "header"))
        if any(not search.machine.calibration(n).overhead for n in range(len(found.devices))):
            answers.append(
                Reason("driver: 300 MiB a GPU and process, 140 to 512 seen elsewhere", "assumed")
            )
    if search.model.pooling:
        words = f"an embedding model ({search.model.pooling} of a text's tokens): it does not chat"
        answers.append(Reason(f"{words}, and reads a text in one micro-batch", "header"))
        return answers
    answers.append(
        Reason(
            f"decode {found.speed.decode:.1f} tokens/s ({found.speed.low:.1f} to "
            f"{found.speed.high:.1f}): "
            + ("" if search.machine.gpus else "weights unpacked by the cores, or ")
            + "bytes read a token over bandwidth",
            "calibrated" if search.machine.gpus and not unmeasured(search) else "assumed",
        )
    )
    return answers


def unmeasured(search: Search) -> list[str]:
    """Names of GPUs whose bandwidth neither a probe nor the table knows."""
    gpus = search.machine.gpus
    return [search.machine.name(n) for n, gpu in enumerate(gpus) if not bandwidth(gpu)]


def companions(search: Search, found: Estimate) -> list[Reason]:
    """What an image encoder and a draft model take, and where."""
    model, answers = search.model, []
    if model.projector:
        on_gpu = bool(search.machine.gpus) and found.flags.get("mmproj_offload", True)
        where = search.machine.name(0) if on_gpu else "the host"
        cuda = all(gpu.vendor == "nvidia" for gpu in search.machine.gpus)
        encoder = encoder_memory(model.projector, found.flags, gpus=int(on_gpu), cuda=cuda)
        kinds = " and ".join(name for _, name in kinds_of(model.projector))
        words = (
            f"encoder {kinds} on {where}: weights {encoder.weights / MIB:,.1f} MiB, buffer "
            f"{encoder.compute / MIB:,.1f} MiB, {encoder.largest / MIB:,.1f} MiB for the largest "
            "image"
        )
        answers.append(Reason(words, "calibrated"))
    drafted = int(found.flags.get("spec_draft_n_max") or 0)
    if search.hyper.loads_mtp and not model.draft:
        words = f"{search.hyper.layers_all - search.hyper.layers} layers of the model draft"
        size = sum(found.used.beside) / MIB
        answers.append(
            Reason(f"{words} {drafted} tokens at once: {size:,.1f} MiB of cache", "header")
        )
    if model.draft:
        size = sum(found.used.beside) / MIB
        words = (
            f"draft model {model.draft.name}, {drafted} tokens at once: {size:,.1f} MiB of weights "
            "and cache"
        )
        answers.append(Reason(f"{words}; speed is given without it", "header"))
    return answers


def loading(search: Search, found: Estimate) -> list[Reason]:
    """Why the file is mapped or locked as it is, and what several NUMA nodes change."""
    flags, answers = found.flags, []
    room = found.host.capacity_mib - found.host.high_mib
    if flags.get("mmap", True) and not flags.get("mlock"):
        words = (
            "mapped, so that a restart finds it in memory; not locked: the host keeps "
            f"{max(room, 0):,.0f} MiB free, so nothing drives it out"
        )
        answers.append(Reason(f"load mode mmap: the file is {words}", "probe"))
    kept = checkpoint_bytes(search.hyper, cache_options(flags)) / MIB
    if kept and "ctx_checkpoints" in flags:
        slots = int(flags["parallel"])
        most = kept * int(flags["ctx_checkpoints"]) * slots
        words = f"{flags['ctx_checkpoints']} of {kept:,.1f} MiB a slot, {most:,.0f} MiB at most"
        answers.append(Reason(f"context checkpoints in RAM: {words}", "header"))
    if flags.get("numa") == NUMA and "numa" not in search.pinned:
        words = f"{search.numa_nodes()} NUMA nodes and weights that the processor reads"
        answers.append(Reason(f"threads on all nodes (--numa {NUMA}): {words}", "probe"))
    return answers


def calibrated(machine: Machine, found: Estimate) -> list[Reason]:
    """What earlier runs changed, a line for each device class."""
    rows = {entry.name: (entry, machine.calibration(n)) for n, entry in enumerate(found.devices)}
    own = host_class(machine.hardware, machine.gpus)
    lines = {**rows, own: (found.host, machine.calibration(None))}
    return [
        Reason(
            f"calibrated: {known.runs} run{'s' * (known.runs > 1)} on {name}: overhead "
            f"{entry.overhead_mib:,.0f} MiB ({entry.overhead_correction_mib:+,.0f}), "
            f"compute {entry.compute_mib:,.0f} MiB ({entry.compute_correction_mib:+,.0f})"
            + (f", speed x{known.decode.mean:.2f}" if known.decode else ""),
            "calibrated",
        )
        for name, (entry, known) in lines.items()
        if known.runs and entry.total_mib
    ]


def warnings(search: Search, found: Estimate) -> list[str]:
    """What does not change the plan's flags but should be known; free memory may stand here."""
    told = []
    available = search.machine.hardware.memory.available_mib
    need = found.host.total_mib
    if available and available < need:
        told.append(f"only {available:,} MiB of RAM are free now, the server needs {need:,.0f}")
    for gpu in search.machine.gpus:
        capability = compute_capability(gpu)
        if capability and capability[0] < OLDEST_CUDA:
            told.append(
                f"{gpu.name} has compute capability {gpu.compute_capability}: CUDA builds of "
                "llama.cpp serve cards from 5.0"
            )
    for name in dict.fromkeys(unmeasured(search)):
        told.append(f"the bandwidth of {name} is not known: speed is for {UNKNOWN_GBS:.0f} GB/s")
    for entry, gpu in zip(found.devices, search.machine.gpus, strict=True):
        free = gpu.vram_free_mib
        if free is not None and free < entry.total_mib:
            told.append(f"only {free:,} MiB are free on {entry.name} now")
    each = int(found.flags["ctx_size"]) // int(found.flags["parallel"])
    if search.hyper.context and each > search.hyper.context:
        told.append(
            f"{each:,} tokens a slot are more than the {search.hyper.context:,} that the model was "
            "trained for"
        )
    unknown = not_known(list(search.pinned))
    if unknown:
        told.append(f"not reckoned with: {', '.join(unknown)}")
    if each < LEAST_CONTEXT and not search.model.pooling:
        told.append("the context of a slot is short for chats")
    if search.hyper.loads_mtp:
        told.append("the draft head's buffers were met with one family only: bounds of 15 %")
    if search.hyper.architecture in APPROXIMATE:
        told.append("compute buffers of this family are met within 15 % only")
    return told
