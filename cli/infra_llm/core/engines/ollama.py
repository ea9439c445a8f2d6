"""Ollama: its release archive, and its service's environment. Pure.

Sources: ollama's envconfig/config.go (variables), types/model/name.go (names), llm/llama_server.go
(what it passes on to llama-server), docs/linux.mdx (archives).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from infra_llm.core.catalogue import engine_artifact
from infra_llm.core.engines.engine import Engine, Launch, LaunchContext, Pythons, ServiceNeeds
from infra_llm.core.engines.llama_cpp import cuda_gpus
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.os_family import os_family

LIBRARIES = ("libzstd.so.1", "libgomp.so.1", "libstdc++.so.6")
"""libzstd unpacks the archive; Ollama's llama-server needs the others (llama/server/)."""
LEAST_CAPABILITY = 5.0
"""Ollama's docs/gpu.mdx: older cards are left out in silence."""
_LEAST_STALL_SECONDS = 300
"""Ollama's own default of OLLAMA_LOAD_TIMEOUT."""
_SLOWEST_LOAD_MIB_S = 25.0
_MIB = 1 << 20
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"([A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(:{_PART})?")


def engine_choice(
    catalogue: Mapping[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    _pythons: Pythons,
) -> dict[str, Any]:
    """The release archive for this host, as the role ollama takes it.

    Raises BadInputError for a CPU architecture without one, for a card that Ollama would leave
    out, and for a model whose name Ollama does not take.
    """
    machine = hardware.cpu.architecture
    artifact = engine_artifact(catalogue, "ollama", "release", machine)
    if not artifact:
        raise BadInputError(
            f"no release of Ollama for {machine}",
            where="infra_llm_engine",
            hint="name one under infra_llm_engine_artifacts, or set infra_llm_engine: llama.cpp",
        )
    for gpu in cuda_gpus(hardware):
        if gpu.compute_capability and float(gpu.compute_capability) < LEAST_CAPABILITY:
            raise BadInputError(
                f"Ollama does not use {gpu.name}: its compute capability is "
                f"{gpu.compute_capability}, the least is {LEAST_CAPABILITY:g}",
                where="infra_llm_engine",
                hint="set infra_llm_engine: llama.cpp",
            )
    name = wishes["infra_llm_model"]
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"Ollama takes no model named {name!r}",
            where="infra_llm_model",
            hint="letters, digits, '_', '-' and '.', at most 80; name it so under infra_llm_models",
        )
    version = re.sub(r"[^A-Za-z0-9.]+", "-", str(artifact["version"]))
    release = f"release-{version}-{artifact['sha256'][:8]}"
    method = {
        "method": "release",
        "artifact": {**artifact, "folder": release},
        "release": release,
    }
    return {"methods": [method], "os_family": os_family(hardware.system.distribution)}


def launch(context: LaunchContext) -> Launch:
    """`ollama serve` with everything that it would otherwise choose itself."""
    wishes, flags, home = context.wishes, context.plan.flags, context.layout["engine_data"]
    bind = wishes["infra_llm_bind"]
    address = f"[{bind}]" if ":" in bind else bind
    stall = max(_LEAST_STALL_SECONDS, 60 + context.model["size"] / _MIB / _SLOWEST_LOAD_MIB_S)
    environment = {name: str(value) for name, value in flags["environment"].items()}
    return Launch(
        context_length=int(flags["parameters"]["num_ctx"]),
        program=[f"{context.layout['engine']}/current/bin/ollama"],
        arguments=["serve"],
        environment={
            **environment,
            # Ollama makes a key below its home when it starts.
            "HOME": home,
            "OLLAMA_HOST": f"{address}:{wishes['infra_llm_port']}",
            "OLLAMA_MODELS": f"{home}/models",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_LOAD_TIMEOUT": f"{stall:.0f}s",
            "OLLAMA_NO_CLOUD": "1",
        },
        parameters=dict(flags["parameters"]),
    )


OLLAMA = Engine(
    name="ollama",
    role="ollama",
    choose=engine_choice,
    launch=launch,
    planner="ollama",
    health="/api/version",
    running="/api/ps",
    # Not: create, copy, delete, pull, push, blobs, which change the host's models.
    public_paths=(
        "/",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/generate",
        "/api/ps",
        "/api/show",
        "/api/tags",
        "/api/version",
        "/v1/",
    ),
    model_role="ollama_model",
    # Ollama writes the weights anew when it takes a GGUF file, and keeps what was sent meanwhile.
    model_copies=2,
    libraries=LIBRARIES,
    # Its own process beside llama-server's, and llama-quantize's while a model is made.
    metrics="",
    needs=ServiceNeeds(writable=("engine_data",), margin_mib=1024, told_after_start=True),
)
