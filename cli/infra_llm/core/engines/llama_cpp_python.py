"""llama-cpp-python's OpenAI-compatible server: a light engine, one request at a time. Pure.

Its package on the index is a source only. Its Python part needs no compiling, and the libraries are
those of a build of llama.cpp out of the same source, which the role llama_cpp makes (and hosts
share). Sources: llama_cpp/server/settings.py of 0.3.36 (settings), ggml.h (numbers of types).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from infra_llm.core.catalogue import check_artifact
from infra_llm.core.engines.engine import Engine, Launch, LaunchContext, Pythons
from infra_llm.core.engines.llama_cpp import LIBRARIES, engine_choice
from infra_llm.core.engines.vllm import PYTHONS
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.variables import AUTO

CONFIG = "llama-cpp-python.json"
TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20,
    "bf16": 30,
}  # fmt: skip
SPLITS = {"none": 0, "layer": 1, "row": 2}
NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}
_SAME = {
    "ctx_size": "n_ctx",
    "batch_size": "n_batch",
    "ubatch_size": "n_ubatch",
    "n_gpu_layers": "n_gpu_layers",
    "threads": "n_threads",
    "threads_batch": "n_threads_batch",
    "tensor_split": "tensor_split",
    "main_gpu": "main_gpu",
    "mmap": "use_mmap",
    "mlock": "use_mlock",
}
_WITHOUT = frozenset(
    {"parallel", "cache_ram", "kv_unified", "swa_full", "repack", "fit", "fit_target", "warmup"}
)
"""Flags of llama-server that this server has no use for: it has one slot and no prompt cache."""


def choose(
    catalogue: Mapping[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    pythons: Pythons,
) -> dict[str, Any]:
    """The locked environment and the build of llama.cpp, as the role llama_cpp_python takes them.

    Raises BadInputError without a usable interpreter, and for more than one request at a time.
    """
    if wishes["infra_llm_parallel"] not in (AUTO, 1):
        raise BadInputError(
            "llama-cpp-python serves one request at a time",
            where="infra_llm_parallel",
            hint="leave infra_llm_parallel at auto, or set infra_llm_engine: llama.cpp",
        )
    python = next((python for python in pythons if python["version"] in PYTHONS), None)
    if python is None:
        found = ", ".join(python["version"] for python in pythons) or "none"
        raise BadInputError(
            f"llama-cpp-python is locked for Python {', '.join(PYTHONS)}; this host has {found}",
            where="infra_llm_engine",
            hint="install one of them on the host, or set infra_llm_engine: llama.cpp",
        )
    build = engine_choice(
        catalogue, hardware, {**wishes, "llama_cpp_install_method": "source"}, pythons
    )
    (libraries,) = build["methods"]
    entry = catalogue["engines"]["llama-cpp-python"]["lock"]["any"]
    lock = check_artifact(entry, "catalogue llama-cpp-python")
    of = json.dumps([lock["sha256"], python["version"], libraries["release"]])
    identity = hashlib.sha256(of.encode()).hexdigest()
    method = {
        "method": "venv",
        "release": f"{lock['version']}-python{python['version']}-{identity[:8]}",
        "artifact": {**lock, "sha256": identity},
        "lock": {"filename": lock["filename"], "sha256": lock["sha256"]},
        "python": python["path"],
        "python_version": python["version"],
        "pip": check_artifact(catalogue["tools"]["pip"], "catalogue tools.pip"),
        "libraries": libraries,
    }
    return {"methods": [method], "os_family": build["os_family"]}


def launch(context: LaunchContext) -> Launch:
    """The server's configuration file. Raises BadInputError for a flag that it can't be told."""
    wishes, layout, flags = context.wishes, context.layout, context.plan.flags
    settings = {
        "host": wishes["infra_llm_bind"],
        "port": wishes["infra_llm_port"],
        # By default a new request ends the one that is being answered.
        "interrupt_requests": False,
        "models": [
            {
                "model": context.model_path,
                "model_alias": wishes["infra_llm_model"],
                # On, they take the context times the vocabulary times four bytes.
                "logits_all": False,
                **model_settings(flags),
            }
        ],
    }
    current = f"{layout['engine']}/current"
    return Launch(
        context_length=int(flags["ctx_size"]),
        program=[f"{current}/bin/python", f"{current}/serve.py"],
        arguments=[f"{layout['etc']}/{CONFIG}"],
        environment={"PYTHONSAFEPATH": "1"},
        files={CONFIG: json.dumps(settings, indent=1) + "\n"},
    )


def model_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's flags in the server's words."""
    found: dict[str, Any] = {}
    for name, value in flags.items():
        if name in _SAME:
            found[_SAME[name]] = value
        elif name in ("cache_type_k", "cache_type_v"):
            found["type_" + name[-1]] = TYPES[value]
        elif name == "flash_attn":
            found["flash_attn"] = value not in ("off", "0", False)
        elif name == "split_mode":
            found["split_mode"] = SPLITS[value]
        elif name == "numa":
            found["numa"] = NUMA[value]
        elif name not in _WITHOUT:
            raise BadInputError(
                f"llama-cpp-python's server can't be told {name}",
                where="infra_llm_engine",
                hint="set infra_llm_engine: llama.cpp",
            )
    return found


LLAMA_CPP_PYTHON = Engine(
    name="llama-cpp-python",
    role="llama_cpp_python",
    choose=choose,
    launch=launch,
    planner="llama-cpp-python",
    one_at_a_time=True,
    libraries=LIBRARIES,
)
