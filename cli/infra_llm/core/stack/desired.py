"""The stack of a host as its roles are given it, what differs from that, and what is due. Pure.

A stack plan stands while its inputs do: a driver that we installed is not "present" to the next
run. The host keeps the applied one in a file of its own (layout `stack_state`), beside the
services, because several instances share it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from infra_llm.core.hardware import HostHardware
from infra_llm.core.stack.cuda import WHEELS
from infra_llm.core.stack.request import AUTO

STACK_ROLES = ("nvidia_driver", "cuda", "container_engine", "nvidia_container_toolkit")
"""In the order in which they run."""
STATE_SCHEMA = "infra-llm/stack-state/1"

_WISHES = (
    "infra_llm_engine",
    "infra_llm_driver_source",
    "infra_llm_driver_branch",
    "infra_llm_driver_modules",
    "infra_llm_cuda_source",
    "infra_llm_cuda_version",
    "infra_llm_container_engine",
    "infra_llm_secure_boot",
    "infra_llm_mig",
    "infra_llm_repositories",
    "llama_cpp_install_method",
)
_WITHOUT_NVIDIA = ("cpu", "hip", "sycl")
"""Backends of llama.cpp that use no NVIDIA card."""


def needs_stack(hardware: HostHardware, wishes: Mapping[str, Any]) -> bool:
    """Whether this host has NVIDIA cards that its engine is to use.

    The prebuilt archives and wheels of llama.cpp in the catalogue are for the CPU.
    """
    if not any(
        gpu.vendor == "nvidia" and not gpu.integrated and gpu.kernel_driver != "vfio-pci"
        for gpu in hardware.gpus
    ):
        return False
    if wishes["infra_llm_engine"] != "llama.cpp":
        return True
    prebuilt = wishes["llama_cpp_install_method"] in ("release", "wheel")
    return not prebuilt and wishes["llama_cpp_backend"] not in _WITHOUT_NVIDIA


def stack_inputs(hardware: HostHardware, wishes: Mapping[str, Any]) -> dict[str, Any]:
    """What the plan is made from, as far as installing it does not change it."""
    system, driver = hardware.system, hardware.driver
    return {
        "os": f"{system.distribution} {system.distribution_version}",
        "kernel": system.kernel,
        "cards": sorted(
            f"{gpu.pci_address} {gpu.pci_id} {gpu.compute_capability or ''}".strip()
            for gpu in hardware.gpus
            if gpu.vendor == "nvidia" and gpu.kernel_driver != "vfio-pci"
        ),
        "secure_boot": bool(driver.secure_boot),
        "nvswitch": driver.nvswitch,
        "wishes": {name: wishes[name] for name in _WISHES},
    }


def role_parts(
    plan: Mapping[str, Any], wishes: Mapping[str, Any], runtimes: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """What each role is given, by role; only the roles that have something to do.

    `runtimes` are the container engines that the host has.
    """
    driver, cuda, container = plan["driver"], plan["cuda"], plan["container"]
    parts: dict[str, dict[str, Any]] = {}
    if driver is None:
        return parts
    settings = {
        "fabric_manager": plan["fabric_manager"],
        "mig": plan["mig"],
        "power_limit_w": wishes["infra_llm_gpu_power_limit_w"],
        "ecc": wishes["infra_llm_gpu_ecc"],
    }
    idle = driver["source"] == "present" and not driver["packages"] and not driver["persistence"]
    if not idle or any(value not in (None, False, {}) for value in settings.values()):
        places = _repositories(plan, driver["source"], bool(driver["pin"]))
        parts["nvidia_driver"] = {"plan": driver, "repositories": places, **settings}
    if cuda["kind"] != "none":
        places = _repositories(plan, cuda["source"], cuda["source"] == "vendor")
        parts["cuda"] = {"plan": cuda, "repositories": places}
    if container is not None:
        own = [r for r in plan["repositories"] if r["name"] == "nvidia-container-toolkit"]
        engine = wishes["infra_llm_container_engine"]
        there = [name for name in ("docker", "podman") if name in runtimes]
        parts["container_engine"] = {"name": engine}
        parts["nvidia_container_toolkit"] = {
            "plan": container,
            "repositories": own,
            "engine": (there or ["docker"])[0] if engine == AUTO else engine,
        }
    return parts


def toolkit_of(stack: Mapping[str, Any]) -> dict[str, Any] | None:
    """The CUDA toolkit that a stack brings, or None.

    {"name": as "13.0 vendor", "root": its folder or "", "stub": whether it has one of libcuda.so
    to link against}.
    """
    cuda = stack["plan"]["cuda"] if stack else {"kind": "none"}
    if cuda["kind"] == "none":
        return None
    return {
        "name": f"{cuda['version']} {cuda['source']}",
        "root": cuda["root"],
        "stub": cuda["source"] != WHEELS,
    }


def build_environment(stack: Mapping[str, Any]) -> dict[str, str]:
    """What leads CMake to that toolkit; {} where none is needed.

    The distribution's is in the path, but not the compiler that its nvcc takes: nvcc 11.8 of Debian
    12 refuses that system's own gcc 12, and finds no other by itself.
    """
    cuda = stack["plan"]["cuda"] if stack else {}
    if cuda.get("source") == "distro" and cuda["kind"] == "toolkit":
        return {"CUDAHOSTCXX": "/usr/bin/cuda-g++"}
    root = cuda.get("root", "")
    return {"CUDACXX": f"{root}/bin/nvcc", "CUDAToolkit_ROOT": root} if root else {}


def _repositories(plan: Mapping[str, Any], source: str, vendor: bool) -> list[dict[str, Any]]:
    """The plan's repositories that a driver or toolkit from `source` needs."""
    wanted = {"distribution", "epel"} if source in ("vendor", "distro") else set()
    if vendor:
        wanted.add("nvidia-cuda")
    return [entry for entry in plan["repositories"] if entry["name"] in wanted]


def stack_changes(
    desired: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    differences: Mapping[str, list[str]],
) -> dict[str, list[str]]:
    """What differs on the host, by role; {} where nothing does.

    Parameters
    ----------
    desired: {"inputs", "plan", "roles", "settings"}, or {} for a host without a stack.
    before: the host's stack state, None where there is none.
    differences: what the audit found against the stack's receipts.

    """
    found: dict[str, list[str]] = {}
    parts: Mapping[str, Mapping[str, Any]] = desired.get("roles") or {}
    old: Mapping[str, Any] = (before or {}).get("roles") or {}
    for role, part in parts.items():
        texts = list(differences.get(role, []))
        if role not in old:
            texts.append(_words(role, part))
        elif old[role] != part:
            texts.append(f"{_words(role, old[role])} -> {_words(role, part)}")
        elif before is not None and not before.get("done"):
            texts.append(f"{_words(role, part)}: the last run did not finish")
        if texts:
            found[role] = texts
    if "nvidia_driver" in found and "nvidia_container_toolkit" in parts:
        # The CDI specification names the driver's files.
        found.setdefault("nvidia_container_toolkit", ["the driver changes"])
    return found


def _words(role: str, part: Mapping[str, Any]) -> str:
    if role == "nvidia_driver":
        plan = part["plan"]
        source = "kept" if plan["source"] == "present" else f"from {plan['source']}"
        return f"driver {plan['branch']} {plan['modules']} {source}".replace("  ", " ")
    if role == "cuda":
        return f"CUDA {part['plan']['version']} {part['plan']['kind']}"
    if role == "container_engine":
        return f"container engine {part['name']}"
    return f"container toolkit {part['plan']['version']}"
