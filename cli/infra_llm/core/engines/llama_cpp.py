"""llama.cpp: which build a host gets and by which way, and its command line. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra_llm.core import router
from infra_llm.core.catalogue import Artifact, engine_artifact
from infra_llm.core.engines.engine import Engine, Launch, LaunchContext, Method, model_path
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import llama_server_arguments
from infra_llm.core.hardware import Gpu, HostHardware, accelerators
from infra_llm.core.os_family import os_family
from infra_llm.core.variables import AUTO

LIBRARIES = ("libgomp.so.1", "libstdc++.so.6")
"""Shared libraries that llama.cpp's builds need and that a minimal distribution may lack."""
WHEEL_PYTHON = (3, 10)
"""The wheel xllamacpp is built for the stable ABI of CPython 3.10 (its tag is cp310-abi3)."""

PROGRAMS = (
    "llama-server",
    "llama-cli",
    "llama-bench",
    "llama-quantize",
    "llama-fit-params",
    "ggml-rpc-server",
)
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    # A release is shipped to other hosts, so it must not be made for this CPU; the variants that
    # ggml loads at run time bring the speed back.
    "-DGGML_NATIVE=OFF",
    "-DGGML_BACKEND_DL=ON",
    "-DGGML_CPU_ALL_VARIANTS=ON",
    "-DGGML_RPC=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
)
RPATH = "-DCMAKE_INSTALL_RPATH=$ORIGIN"
"""The release is moved into place: its programs find the libraries beside them."""
BACKEND_OPTIONS = {
    "cpu": (),
    # NCCL would be linked wherever the builder happens to have it, and be missed on other hosts.
    "cuda": ("-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF"),
    "hip": ("-DGGML_HIP=ON",),
    "sycl": ("-DGGML_SYCL=ON", "-DCMAKE_C_COMPILER=icx", "-DCMAKE_CXX_COMPILER=icpx"),
    "vulkan": ("-DGGML_VULKAN=ON",),
}
"""Switches of llama.cpp's docs/build.md."""
GPU_VENDORS = {
    "cpu": (),
    "cuda": ("nvidia",),
    "hip": ("amd",),
    "sycl": ("intel",),
    "vulkan": ("nvidia", "amd", "intel"),
}
"""Whose GPUs a build for a backend can use."""

_PROGRAM_OF = {
    "infra_llm_quantize": "llama-quantize",
    "infra_llm_more_models": "router, which starts a server for each model",
}

NEEDS_PACKAGES = ("vulkan",)
"""Backends whose headers and compilers distributions have: the role installs them. CUDA comes with
the stack, ROCm and oneAPI have to be there."""

LEFT_OUT = ("libggml-cpu-sapphirerapids.so",)
"""Files of a build that are not kept. The AMX variant dies with an illegal instruction where GCC's
_tile_loadconfig loses the configuration (Debian 12's 12.2 does) or a thread has no permission for
tiles: ggml-org/llama.cpp#26954. CPUs with AMX get the next best variant (zen4, cooperlake)."""


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
    needing = _needs_programs(wishes)
    if needing:
        if wished == "wheel":
            raise BadInputError(
                f"the wheel xllamacpp is a library without programs: no {_PROGRAM_OF[needing]}",
                where="llama_cpp_install_method",
                hint=f"set it to release or source, or leave {needing} empty",
            )
        ways = [way for way in ways if way != "wheel"]
    methods: list[dict[str, Any]] = []
    for way in ways:
        artifact = engine_artifact(catalogue, engine, way, machine)
        if artifact and (way != "wheel" or _serves_wheel(pythons)):
            methods.append(_method(way, artifact, hardware, wishes))
    if not methods:
        versions = ", ".join(python["version"] for python in pythons) or "none"
        raise BadInputError(
            f"no {' or '.join(ways)} of {engine} for {machine} with Python {versions}",
            where="llama_cpp_install_method",
            hint="install Python 3.10 or later beside the system's (EL 9: dnf install python3.12), "
            "or set llama_cpp_install_method: source",
        )
    cards = [
        {"name": gpu.name or gpu.pci_id or "GPU", "compute_capability": gpu.compute_capability}
        for gpu in gpus
        if gpu.compute_capability
    ]
    return {
        "methods": methods,
        "os_family": os_family(hardware.system.distribution),
        "cards": cards,
    }


def _needs_programs(wishes: Mapping[str, Any]) -> str:
    """The wish that the wheel can't fulfil, "" for none."""
    return next((name for name in _PROGRAM_OF if wishes[name]), "")


def _serves_wheel(pythons: Sequence[Mapping[str, str]]) -> bool:
    if not pythons:
        return False
    newest = tuple(int(part) for part in pythons[0]["version"].split("."))
    return newest >= WHEEL_PYTHON


def _method(
    way: str, artifact: Artifact, hardware: HostHardware, wishes: Mapping[str, Any]
) -> Method:
    version = str(artifact["version"]).replace(" ", "-").replace("/", "-")
    if way != "source":
        release = f"{way}-{version}-{artifact['sha256'][:8]}"
        return {
            "method": way,
            "artifact": {**artifact, "folder": release},
            "release": release,
        }
    build = build_of_source(hardware, wishes)
    of = json.dumps([artifact["sha256"], build], sort_keys=True)
    release = f"{way}-{version}-{hashlib.sha256(of.encode()).hexdigest()[:12]}"
    return {"method": way, "artifact": artifact, "release": release, "build": build}


def build_of_source(hardware: HostHardware, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that tells one build of a source from another: what is alike is built once.

    {"options": CMake's, "programs", "left_out": files, "architectures": CUDA's, "system":
    distribution and CPU, "cuda": the stack's toolkit, whose libraries the programs load}; no
    "cuda" without one.
    """
    gpus = accelerators(hardware)
    backend = wishes["llama_cpp_backend"]
    if backend == AUTO:
        backend = "cuda" if cuda_gpus(hardware) else "cpu"
    capabilities = {g.compute_capability.replace(".", "") for g in gpus if g.compute_capability}
    capabilities |= {str(name) for name in wishes["llama_cpp_cuda_architectures"]}
    architectures = sorted(capabilities, key=int) if backend == "cuda" else []
    if backend == "cuda" and not architectures:
        raise BadInputError(
            "no compute capability of a GPU is known to compile for",
            where="llama_cpp_cuda_architectures",
            hint="give them, as [86]; or install the driver first",
        )
    options = [*CMAKE_OPTIONS, *BACKEND_OPTIONS[backend]]
    toolkit = wishes.get("cuda") if backend == "cuda" else None
    if backend == "cuda":
        # "real" leaves out PTX: the binary holds just what these cards run.
        options.append("-DCMAKE_CUDA_ARCHITECTURES=" + ";".join(f"{a}-real" for a in architectures))
    options += _toolkit_options(toolkit or {})
    if backend == "hip":
        targets = sorted({gpu.gfx_target for gpu in gpus if gpu.gfx_target})
        if not targets:
            raise BadInputError(
                "no gfx target of an AMD GPU is known to compile for",
                where="llama_cpp_backend",
                hint="install AMD's driver first, or set llama_cpp_backend: vulkan",
            )
        options.append("-DGPU_TARGETS=" + ";".join(targets))
    system, cpu = hardware.system, hardware.cpu
    build = {
        "options": options,
        "programs": list(PROGRAMS),
        "left_out": list(LEFT_OUT),
        "architectures": architectures,
        "system": f"{system.distribution}-{system.distribution_version}-{cpu.architecture}",
    }
    if backend in NEEDS_PACKAGES:
        build["backend"] = backend
    return {**build, "cuda": toolkit["name"]} if toolkit else build


def _toolkit_options(toolkit: Mapping[str, Any]) -> list[str]:
    """Where the programs find the toolkit's libraries, and what it lacks."""
    root = toolkit.get("root")
    options = [f"{RPATH};{root}/lib64" if root else RPATH]
    if toolkit.get("stub") is False:
        # Virtual memory management is linked against libcuda.so, whose stub no wheel has.
        options.append("-DGGML_CUDA_NO_VMM=ON")
    return options


COMPANION_OPTIONS = {"projector": "--mmproj", "draft": "--model-draft"}


def reaches(hardware: HostHardware, method: Method) -> HostHardware:
    """The machine without the GPUs that the build can't use.

    The wheel and upstream's archives of the catalogue are builds for the processor alone.
    """
    options = (method.get("build") or {}).get("options") or ()
    backends = [name for name, switches in BACKEND_OPTIONS.items() if {*switches} & {*options}]
    vendors = {vendor for backend in backends for vendor in GPU_VENDORS[backend]}
    if all(gpu.vendor in vendors for gpu in accelerators(hardware)):
        return hardware
    return replace(hardware, gpus=[gpu for gpu in hardware.gpus if gpu.vendor in vendors])


def launch(context: LaunchContext) -> Launch:
    """llama-server's command line; the wheel's launcher takes the flags instead."""
    wishes, flags = context.wishes, context.plan.flags
    always = [
        *("--host", wishes["infra_llm_bind"]),
        *("--port", str(wishes["infra_llm_port"])),
        "--metrics",
        "--offline",
        # Level 4 is the one that logs the sizes of the buffers, which verification reads.
        *("--verbosity", "4"),
    ]
    length = int(flags["ctx_size"]) // int(flags["parallel"])
    if not context.more:
        beside = context.companion_paths.items()
        model = [
            *("--model", context.model_path),
            *(word for part, path in beside for word in (COMPANION_OPTIONS[part], path)),
            *("--alias", wishes["infra_llm_model"]),
        ]
        return Launch(length, arguments=[*model, *always, *llama_server_arguments(flags)])
    models = [
        (str(wishes["infra_llm_model"]), context.model_path, flags),
        *((name, model_path(model, context.layout), own) for name, model, own in context.more),
    ]
    path = f"{context.layout['etc']}/{router.PRESET}"
    return Launch(
        length,
        # What stands on the command line would overrule the preset of every model.
        arguments=["--models-preset", path, "--models-max", str(len(models)), *always],
        files={router.PRESET: router.preset(models)},
    )


LLAMA_CPP = Engine(
    name="llama.cpp",
    role="llama_cpp",
    choose=engine_choice,
    launch=launch,
    planner="llama.cpp",
    reaches=reaches,
    companions=True,
    libraries=LIBRARIES,
)
