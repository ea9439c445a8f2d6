"""llama.cpp: which build a host gets and by which way, and its command line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.catalogue import engine_artifact
from infra_llm.core.engines.engine import Engine, Launch, LaunchContext
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import llama_server_arguments
from infra_llm.core.hardware import Gpu, HostHardware, accelerators
from infra_llm.core.variables import AUTO

LIBRARIES = ("libgomp.so.1", "libstdc++.so.6")
"""Shared libraries that llama.cpp's builds need and that a minimal distribution may lack."""
WHEEL_PYTHON = (3, 10)
"""The wheel xllamacpp is built for the stable ABI of CPython 3.10 (its tag is cp310-abi3)."""

_REDHAT = ("rhel", "rocky", "almalinux", "centos", "fedora", "ol")


def os_family(distribution: str) -> str:
    """The name that roles use for a family of distributions."""
    return "redhat" if distribution in _REDHAT else "debian"


def cuda_gpus(hardware: HostHardware) -> list[Gpu]:
    """The GPUs that a CUDA build would use."""
    return [gpu for gpu in accelerators(hardware) if gpu.vendor == "nvidia"]


def engine_choice(
    catalogue: Mapping[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    pythons: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The ways to install the engine on this host, in order, as the role llama_cpp takes them.

    A host without an NVIDIA GPU never compiles unless it is told to.

    Raises BadInputError when no way is left.
    """
    wished = wishes["llama_cpp_install_method"]
    engine, machine = "llama.cpp", hardware.cpu.architecture
    gpus = cuda_gpus(hardware)
    ways = [wished] if wished != AUTO else (["source"] if gpus else ["release", "wheel"])
    methods: list[dict[str, Any]] = []
    for way in ways:
        artifact = engine_artifact(catalogue, engine, way, machine)
        if artifact and (way != "wheel" or _serves_wheel(pythons)):
            release = _release(way, artifact)
            if way != "source":
                artifact = {**artifact, "folder": release}
            methods.append({"method": way, "artifact": artifact, "release": release})
    if not methods:
        versions = ", ".join(python["version"] for python in pythons) or "none"
        raise BadInputError(
            f"no {' or '.join(ways)} of {engine} for {machine} with Python {versions}",
            where="llama_cpp_install_method",
            hint="set llama_cpp_install_method: source",
        )
    capabilities = sorted(
        {g.compute_capability.replace(".", "") for g in gpus if g.compute_capability}
    )
    return {
        "methods": methods,
        "cuda_architectures": capabilities if methods[0]["method"] == "source" else [],
        "os_family": os_family(hardware.system.distribution),
    }


def installed_first(
    methods: Sequence[dict[str, Any]], installed_sha256: str | None
) -> list[dict[str, Any]]:
    """What is installed and would do comes first, so that it stays while it is wished."""
    return sorted(methods, key=lambda method: method["artifact"]["sha256"] != installed_sha256)


def _serves_wheel(pythons: Sequence[Mapping[str, str]]) -> bool:
    if not pythons:
        return False
    newest = tuple(int(part) for part in pythons[0]["version"].split("."))
    return newest >= WHEEL_PYTHON


def _release(method: str, artifact: Mapping[str, Any]) -> str:
    version = str(artifact["version"]).replace(" ", "-").replace("/", "-")
    return f"{method}-{version}-{artifact['sha256'][:8]}"


def launch(context: LaunchContext) -> Launch:
    """llama-server's command line; the wheel's launcher takes the flags instead."""
    wishes, flags = context.wishes, context.plan.flags
    return Launch(
        context_length=int(flags["ctx_size"]) // int(flags["parallel"]),
        arguments=[
            *("--model", context.model_path),
            *("--alias", wishes["infra_llm_model"]),
            *("--host", wishes["infra_llm_bind"]),
            *("--port", str(wishes["infra_llm_port"])),
            "--metrics",
            "--offline",
            # Level 4 is the one that logs the sizes of the buffers, which verification reads.
            *("--verbosity", "4"),
            *llama_server_arguments(flags),
        ],
    )


LLAMA_CPP = Engine(
    name="llama.cpp",
    role="llama_cpp",
    choose=engine_choice,
    launch=launch,
    planner="llama.cpp",
    libraries=LIBRARIES,
)
