"""plan_launch: the one entrance for the command line and the playbook's filter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.calibration import Calibration
from infra_llm.core.fit.llama_cpp.explain import plan_of
from infra_llm.core.fit.llama_cpp.search import Search
from infra_llm.core.fit.llama_cpp_python import plan_llama_cpp_python
from infra_llm.core.fit.ollama import plan_ollama
from infra_llm.core.fit.remembered import Remembered
from infra_llm.core.fit.vllm import OLDEST, plan_vllm
from infra_llm.core.fit.vllm_cpu import plan_vllm_cpu
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan, Reason
from infra_llm.core.speed import compute_capability

ENGINES = ("llama.cpp", "llama-cpp-python", "ollama", "vllm", "auto")
MANY_USERS = 8
"""From so many users at once on, continuous batching on GPUs pays for vLLM."""
NO_CALIBRATIONS: Mapping[str, Calibration] = MappingProxyType({})
_PLANS: Remembered[LaunchPlan] = Remembered(4096)


def plan_launch(
    hardware: HostHardware,
    model: ModelProfile,
    wishes: FitWishes,
    engine: str = "llama.cpp",
    calibrations: Mapping[str, Calibration] = NO_CALIBRATIONS,
) -> LaunchPlan:
    """Find the best launch that fits, or the honest no (`fits` is False, the reasons in `why`).

    `calibrations` are what earlier runs of this architecture and build measured, by device class
    (see `calibration.select`); they correct memory and speed, and narrow the bounds.
    Deterministic: it uses what the hardware is, not what happens to be free at the moment.
    Raises BadInputError for wishes that can't be meant and for models whose memory is not known.
    """
    wishes.check()
    key = plan_key(hardware, wishes, engine) + repr(sorted(calibrations.items()))
    make = partial(_plan, hardware, model, wishes, engine, calibrations)
    return _PLANS.of(model, key, make).copy()


def plan_key(hardware: HostHardware, wishes: FitWishes, engine: str) -> str:
    """Everything of the hardware that a plan depends on, so that alike hosts share it."""
    cards = [
        (
            gpu.name, gpu.vendor, gpu.vram_total_mib, gpu.vram_reserved_mib, gpu.vram_free_mib,
            gpu.compute_capability, gpu.memory_bandwidth_gbs, gpu.memory_bandwidth_measured_gbs,
            gpu.fp16_tflops, gpu.unified_memory, [(link.peer, link.kind) for link in gpu.links],
        )
        for gpu in accelerators(hardware)
    ]  # fmt: skip
    nodes = sum(bool(node.cpus) for node in hardware.numa)
    return repr((engine, cards, hardware.cpu, hardware.memory, nodes, wishes))


def _plan(
    hardware: HostHardware,
    model: ModelProfile,
    wishes: FitWishes,
    engine: str,
    calibrations: Mapping[str, Calibration],
) -> LaunchPlan:
    if engine not in ENGINES:
        raise BadInputError(f"unknown engine {engine!r}", hint=f"use one of {', '.join(ENGINES)}")
    if engine == "auto":
        chosen, why = choose_engine(hardware, model, wishes)
        plan = plan_launch(hardware, model, wishes, chosen, calibrations)
        plan.why.insert(0, Reason(why, "probe"))
        return plan
    if engine == "vllm":
        if model.projector or model.draft:
            raise BadInputError(
                "vLLM loads no second GGUF file beside the model",
                where=model.name or "model",
                hint="leave it out, or plan llama.cpp",
            )
        usable = [gpu for gpu in accelerators(hardware) if gpu.vram_total_mib]
        return (plan_vllm if usable else plan_vllm_cpu)(hardware, model, wishes)
    if model.format != "gguf":
        raise BadInputError(
            f"{engine} needs a GGUF file", where=model.name, hint="give a .gguf, or --engine vllm"
        )
    if model.pooling and engine != "llama.cpp":
        raise BadInputError(
            f"an embedding model is served by llama.cpp, not by {engine}",
            where=model.name,
            hint="set infra_llm_engine: llama.cpp",
        )
    if engine == "ollama":
        return plan_ollama(hardware, model, wishes, calibrations)
    if engine == "llama-cpp-python":
        return plan_llama_cpp_python(hardware, model, wishes)
    search = Search(hardware, model, wishes, calibrations)
    return plan_of(search, search.best())


def choose_engine(
    hardware: HostHardware, model: ModelProfile, wishes: FitWishes
) -> tuple[str, str]:
    """The engine for these users on this hardware, and why."""
    if model.format == "safetensors":
        return "vllm", "vLLM: the model comes as safetensors"
    capable = [
        gpu
        for gpu in hardware.gpus
        if gpu.vendor == "nvidia"
        and (compute_capability(gpu) or (0, 0)) >= OLDEST
        and gpu.vram_total_mib
    ]
    if wishes.users >= MANY_USERS and capable:
        return "llama.cpp", (
            f"llama.cpp: the model is a GGUF file; for {wishes.users} users at once vLLM with the "
            "safetensors of the same model would serve more"
        )
    return "llama.cpp", "llama.cpp: a GGUF file, few users, any mix of GPUs and RAM"
