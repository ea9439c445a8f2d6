"""vLLM: which locked environment a host gets, and its configuration file. Pure.

Sources: vllm/engine/arg_utils.py and vllm/entrypoints/openai/cli_args.py of 0.32.0 (option names;
`--config` reads them from YAML), vllm/envs.py (variables).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from infra_llm.core.catalogue import check_artifact
from infra_llm.core.engines import container
from infra_llm.core.engines.engine import (
    Engine,
    Launch,
    LaunchContext,
    Method,
    Pythons,
    ServiceNeeds,
)
from infra_llm.core.engines.llama_cpp import cuda_gpus
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu, HostHardware, accelerators
from infra_llm.core.os_family import os_family
from infra_llm.core.variables import AUTO

PYTHONS = ("3.11", "3.12", "3.13")
"""The lock files hold wheels for these."""
LIBRARIES = ("libnuma.so.1", "libstdc++.so.6")
"""Shared libraries that the CPU build needs and its wheels do not bring."""
CAPABILITY = 7.5
"""The wheels of 0.32.0 are for CUDA 13, which has no Volta any more."""
CONFIG = "vllm.yaml"


def engine_choice(
    catalogue: Mapping[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    pythons: Pythons,
) -> dict[str, Any]:
    """The locked environment for this host, as the role vllm takes it.

    Raises BadInputError for a machine, an interpreter or a card that vLLM has no wheels for, and
    for a model in a form that it does not load.
    """
    gpus = cuda_gpus(hardware)
    _check_cards(gpus, wishes)
    if wishes["vllm_install_method"] == "container" and (gpus or not accelerators(hardware)):
        cards = [gpu for gpu in gpus if gpu.vram_total_mib]
        method = container.method(catalogue, "vllm", hardware, wishes, cards)
    else:
        method = _environment(catalogue, hardware, pythons)
    return {"methods": [method], "os_family": os_family(hardware.system.distribution)}


def _check_cards(gpus: Sequence[Gpu], wishes: Mapping[str, Any]) -> None:
    for gpu in gpus:
        if gpu.compute_capability and float(gpu.compute_capability) < CAPABILITY:
            raise BadInputError(
                f"vLLM does not use {gpu.name}: its compute capability is "
                f"{gpu.compute_capability}, the least is {CAPABILITY:g}",
                where="infra_llm_engine",
                hint="set infra_llm_engine: llama.cpp",
            )
    if wishes["infra_llm_gpu_layers"] not in (AUTO, 0):
        raise BadInputError(
            "vLLM puts whole models on GPUs",
            where="infra_llm_gpu_layers",
            hint="leave infra_llm_gpu_layers at auto, or set infra_llm_engine: llama.cpp",
        )


def _environment(catalogue: Mapping[str, Any], hardware: HostHardware, pythons: Pythons) -> Method:
    """The locked Python environment."""
    machine, entries = hardware.cpu.architecture, catalogue["engines"]["vllm"]
    gpus = cuda_gpus(hardware)
    kind = "cuda" if gpus else "cpu"
    entry = entries[kind].get(machine)
    if not entry or (not gpus and accelerators(hardware)):
        raise BadInputError(
            f"no locked packages of vLLM for {machine}{_of_vendor(hardware)}",
            where="infra_llm_engine",
            hint="set infra_llm_engine: llama.cpp",
        )
    python = _python(pythons)
    lock = check_artifact(entry, f"catalogue vllm.{kind}")
    # The environment belongs to its interpreter as much as to its packages.
    identity = hashlib.sha256(f"{lock['sha256']} {python['version']}".encode()).hexdigest()
    release = f"{kind}-{lock['version']}-python{python['version']}-{identity[:8]}"
    wheels = [] if gpus else [check_artifact(entries["torch"][python["version"]], "torch")]
    return {
        "method": "venv",
        "release": release,
        "artifact": {**lock, "sha256": identity},
        "lock": {"filename": lock["filename"], "sha256": lock["sha256"]},
        "python": python["path"],
        "python_version": python["version"],
        "pip": check_artifact(catalogue["tools"]["pip"], "catalogue tools.pip"),
        "wheels": wheels,
        # Triton compiles a launcher for its kernels when a model is loaded.
        "compiler": bool(gpus),
    }


def _of_vendor(hardware: HostHardware) -> str:
    vendors = sorted({gpu.vendor for gpu in accelerators(hardware)})
    return f" with GPUs of {', '.join(vendors)}" if vendors else ""


def _python(pythons: Pythons) -> Mapping[str, str]:
    """The newest interpreter that the lock files have wheels for."""
    for python in pythons:
        if python["version"] in PYTHONS:
            return python
    found = ", ".join(python["version"] for python in pythons) or "none"
    raise BadInputError(
        f"vLLM needs Python {', '.join(PYTHONS)}; this host has {found}",
        where="infra_llm_engine",
        hint="install one of them on the host, or set infra_llm_engine: llama.cpp",
    )


def launch(context: LaunchContext) -> Launch:
    """The server's program, its configuration file and its environment."""
    wishes, layout, flags = context.wishes, context.layout, context.plan.flags
    settings: dict[str, Any] = {
        "model": context.model_path,
        "served-model-name": wishes["infra_llm_model"],
        "host": wishes["infra_llm_bind"],
        "port": wishes["infra_llm_port"],
        **{name.replace("_", "-"): value for name, value in flags.items()},
    }
    if _ranks(flags) > 1:
        # Processes of one host; left alone it takes Ray where that is installed.
        settings["distributed-executor-backend"] = "mp"
    config = f"{layout['etc']}/{CONFIG}"
    made = Launch(
        context_length=int(flags["max_model_len"]),
        files={CONFIG: _yaml(settings)},
    )
    if context.method.get("method") == "container":
        return _in_container(context, made, config)
    return replace(
        made,
        # Not the program `vllm`: it asks for the metadata of a distribution of that name, which
        # the CPU build has not.
        program=[f"{layout['engine']}/current/bin/python"],
        arguments=["-m", "vllm.entrypoints.openai.api_server", "--config", config],
        environment=environment(context),
    )


def _in_container(context: LaunchContext, made: Launch, config: str) -> Launch:
    layout, method, ranks = context.layout, context.method, _ranks(context.plan.flags)
    box = container.Container(
        engine=method["runtime"],
        name=layout["service"],
        user=layout["user"],
        containers=layout["containers"],
        run=layout["container_run"],
        read_only=[f"{layout['models']}/{context.model['filename']}", config],
        writable=[f"{layout['var']}/engine"],
        devices=container.planned_devices(dict(method), ranks),
        ranks=ranks,
        memory_mib=context.memory_max_mib,
        environment=environment(context),
    )
    words = container.command(box, ["vllm", "serve", "--config", config])
    return replace(
        made,
        program=words[:1],
        arguments=words[1:],
        container={"engine": box.engine, "name": box.name, "user": box.user},
    )


def _ranks(flags: Mapping[str, Any]) -> int:
    names = ("tensor_parallel_size", "pipeline_parallel_size")
    return prod(int(flags.get(name) or 1) for name in names)


def environment(context: LaunchContext) -> dict[str, str]:
    """Variables of vllm/envs.py and torch."""
    home, threads = f"{context.layout['var']}/engine", context.wishes["infra_llm_threads"]
    bound = {} if threads == AUTO else {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"}
    # Tensors of a model in RAM lie in huge pages where the kernel has them (madvise); torch's
    # c10/core/impl/alloc_cpu.cpp.
    huge = {} if context.plan.devices else {"THP_MEM_ALLOC_ENABLE": "1"}
    return {
        **bound,
        **huge,
        # Its own limit of 600 s would end the load of a large model from a slow disk.
        "VLLM_ENGINE_READY_TIMEOUT_S": str(context.start_seconds),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HOME": home,
        "PYTHONSAFEPATH": "1",
        # What is compiled stays for the next start: Python's code, torch's graphs, kernels.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": f"{home}/pycache",
        "VLLM_CACHE_ROOT": f"{home}/vllm",
        "VLLM_CONFIG_ROOT": f"{home}/vllm",
        "TRITON_CACHE_DIR": f"{home}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{home}/inductor",
    }


def _yaml(settings: Mapping[str, Any]) -> str:
    """Flat YAML: JSON's scalars are YAML's."""
    rows = (f"{name}: {json.dumps(value)}\n" for name, value in settings.items())
    return "# Written by infra-llm out of the plan.\n" + "".join(rows)


VLLM = Engine(
    name="vllm",
    role="vllm",
    choose=engine_choice,
    launch=launch,
    planner="vllm",
    libraries=LIBRARIES,
    context_is_shared=False,
    needs=ServiceNeeds(
        exec_memory=True,
        # Interfaces of the machine are looked up (netlink) for the workers' own sockets.
        address_families=("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"),
        margin_mib=2048,
        # Importing torch and vLLM took 30 s here with nothing in the caches; graphs are compiled
        # and captured on GPUs.
        start_seconds=600.0,
    ),
)
