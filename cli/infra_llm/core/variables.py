"""The variables that an inventory may set, as one table: names, types, ranges, defaults, words.

Validation, the defaults and docs/variables.md all come from this table. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core import value_checks as checks
from infra_llm.core.errors import BadInputError
from infra_llm.core.quantize import TYPES

AUTO = checks.AUTO
PREFIXES = ("infra_llm_", "llama_cpp_", "vllm_")
"""Variables that start so are ours: an unknown one is a typing mistake, not somebody else's."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
ENGINE_NAMES = ("llama.cpp", "ollama", "vllm", "llama-cpp-python")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

SECRET = ("infra_llm_api_key",)
"""Variables whose value is never shown."""


@dataclass(frozen=True)
class Variable:
    name: str
    default: Any
    check: checks.Check
    accepts: str
    """For people: what it takes."""
    text: str


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "infra_llm_model",
        "smollm2-135m-instruct-q4_1",
        checks.text_not_empty,
        "name",
        "The model to serve: a name from the catalogue or from infra_llm_models.",
    ),
    Variable(
        "infra_llm_models",
        {},
        checks.mapping,
        "mapping of name to artifact",
        "Models of your own, as in the catalogue: filename, sha256, size, licence, places. A model "
        "of several files has them in files; those without places take the model's (a url is then "
        "the folder's address, a path the folder). One in several quants has these in quants, each "
        "a model in itself: every host gets the one with the least loss that fits it and is fast "
        "enough.",
    ),
    Variable(
        "infra_llm_projector",
        "",
        checks.text,
        "name, or empty",
        "Image or audio encoder (mmproj) that is loaded beside the model, named like "
        "infra_llm_model. llama.cpp only.",
    ),
    Variable(
        "infra_llm_draft_model",
        "",
        checks.text,
        "name, or empty",
        "Small model of the same vocabulary that drafts for the model (speculative decoding), "
        "named like infra_llm_model. llama.cpp only.",
    ),
    Variable(
        "infra_llm_more_models",
        [],
        checks.texts,
        "list of names",
        "Further models that the same endpoint serves, all in memory together: llama-server's "
        "router. Each gets a share of the memory by its size. llama.cpp as release or source only.",
    ),
    Variable(
        "infra_llm_quantize",
        "",
        checks.choice("", *TYPES),
        "empty, " + ", ".join(TYPES),
        "Quantize the model on the host to this type with llama-quantize; the model must be a GGUF "
        "file in 16 or 32 bits. llama.cpp as release or source only: the wheel lacks it.",
    ),
    Variable(
        "infra_llm_engine",
        "llama.cpp",
        checks.choice(AUTO, *ENGINE_NAMES),
        ", ".join((AUTO, *ENGINE_NAMES)),
        "The inference engine. Another one is set up beside the one that serves, and takes over. "
        "auto takes llama.cpp for GGUF files and vllm for safetensors.",
    ),
    Variable(
        "infra_llm_engine_artifacts",
        {},
        checks.mapping,
        "mapping of engine to method to CPU architecture to artifact",
        "Engine releases of your own, in place of the catalogue's: filename, version, sha256, "
        "size, licence, places, as under engines there.",
    ),
    Variable(
        "infra_llm_instance",
        "",
        checks.instance,
        "empty, or 1 to 16 small letters and digits",
        "Name of a further service on the same machine, with an inventory name, a port, files and "
        "a user of its own. Each plans for the whole machine: share the memory by your wishes.",
    ),
    Variable(
        "infra_llm_context",
        AUTO,
        checks.integer(256, 16_777_216, auto=True, unit="tokens"),
        "256 to 16777216, or auto",
        "Context length of one request in tokens; auto takes what fits and the model was made for.",
    ),
    Variable(
        "infra_llm_parallel",
        AUTO,
        checks.integer(1, 256, auto=True),
        "1 to 256, or auto",
        "Parallel slots: requests served at the same time, each with infra_llm_context tokens.",
    ),
    Variable(
        "infra_llm_users",
        1,
        checks.integer(1, 10_000),
        "1 to 10000",
        "How many ask at the same time; what the plan leaves open follows from it.",
    ),
    Variable(
        "infra_llm_minimum_speed",
        0,
        checks.speed,
        "0 to 10000",
        "Decode tokens/s that one user must get by the plan; 0 asks for none. A slower launch "
        "counts as one that does not fit.",
    ),
    Variable(
        "infra_llm_kv_cache_type",
        AUTO,
        checks.choice(AUTO, *CACHE_TYPES),
        "auto, " + ", ".join(CACHE_TYPES),
        "Type of the KV cache; auto keeps f16 while that fits.",
    ),
    Variable(
        "infra_llm_gpu_layers",
        AUTO,
        checks.integer(0, 1000, auto=True),
        "0 to 1000, or auto",
        "Layers on the GPUs, the output layer counted.",
    ),
    Variable(
        "infra_llm_busy_gpus",
        "share",
        checks.choice("share", "refuse"),
        "share, refuse",
        "Where another program holds memory of a GPU when a plan is made: plan with what it leaves "
        "free, or refuse the host. (vLLM plans with whole cards.)",
    ),
    Variable(
        "infra_llm_threads",
        AUTO,
        checks.integer(1, 1024, auto=True),
        "1 to 1024, or auto",
        "CPU threads of the engine.",
    ),
    Variable(
        "infra_llm_port",
        8080,
        checks.integer(1024, 65535),
        "1024 to 65535",
        "TCP port of the endpoint.",
    ),
    Variable(
        "infra_llm_bind",
        "127.0.0.1",
        checks.address,
        "IP address of the host, 0.0.0.0, :: or localhost",
        "Address of the endpoint. Another one than loopback needs infra_llm_api_key and "
        "infra_llm_tls, or infra_llm_insecure.",
    ),
    Variable(
        "infra_llm_api_key",
        "",
        checks.api_key,
        "auto, or 16 to 256 characters",
        "Key that requests must carry. auto makes one on the host (/etc/infra-llm/api-key, 0600); "
        "one of your own belongs in a vault. It is in no command line, log, plan or state.",
    ),
    Variable(
        "infra_llm_tls",
        "",
        checks.tls,
        "site, or mapping of certificate, key, ca",
        "site: a certificate by a CA that infra-llm makes on the controller, renewed in time. Or "
        "your own, as paths of PEM files on the controller.",
    ),
    Variable(
        "infra_llm_insecure",
        False,
        checks.boolean,
        "true, false",
        "Opens the endpoint on infra_llm_bind without key or TLS; said in every report.",
    ),
    Variable(
        "infra_llm_allowed_networks",
        [],
        checks.networks,
        "list of networks",
        "Who may reach an endpoint that is open to the network (10.0.0.0/8); a rule of the host's "
        "nftables, ufw or firewalld says so, too. Empty: everyone.",
    ),
    Variable(
        "infra_llm_engine_port",
        AUTO,
        checks.integer(1024, 65535, auto=True),
        "1024 to 65535, or auto",
        "TCP port of the engine on loopback where a key or TLS stands before it; auto takes "
        "infra_llm_port and 10000.",
    ),
    Variable(
        "infra_llm_service_manager",
        AUTO,
        checks.choice(AUTO, "systemd", "supervisor"),
        "auto, systemd, supervisor",
        "What keeps the service running; auto takes systemd where it is pid 1, else supervisor.",
    ),
    Variable(
        "infra_llm_artifact_folders",
        [],
        checks.texts,
        "list of folders on the host",
        "Folders that are asked for every download first, by file name.",
    ),
    Variable(
        "infra_llm_package_index",
        AUTO,
        checks.text_not_empty,
        "URL of a simple index, or auto",
        "Python package index that hosts download from; auto takes what pip on the controller has.",
    ),
    Variable(
        "infra_llm_lock_stale_seconds",
        3600,
        checks.integer(60, 604_800, unit="seconds"),
        "60 to 604800",
        "A host's lock that was not renewed for so long is taken over.",
    ),
    Variable(
        "infra_llm_verify_prompt",
        "What is 1+1?",
        checks.text_not_empty,
        "text",
        "What the endpoint is asked to prove that it answers.",
    ),
    Variable(
        "infra_llm_verify_expect",
        "2",
        checks.text,
        "text",
        "What the answer must contain; empty accepts any answer that is not empty.",
    ),
    Variable(
        "llama_cpp_install_method",
        AUTO,
        checks.choice(AUTO, "release", "wheel", "source"),
        "auto, release, wheel, source",
        "How llama.cpp is installed. auto: without a GPU upstream's release archive where it can "
        "be reached, else the wheel xllamacpp; with an NVIDIA GPU a CUDA build from source.",
    ),
    Variable(
        "llama_cpp_backend",
        AUTO,
        checks.choice(AUTO, "cpu", "cuda", "hip", "sycl", "vulkan"),
        "auto, cpu, cuda, hip, sycl, vulkan",
        "What a build from source is for; auto takes cuda with an NVIDIA GPU, else cpu.",
    ),
    Variable(
        "llama_cpp_cuda_architectures",
        [],
        checks.architectures,
        "list, as [86, 120]",
        "CUDA architectures to compile for besides those of the host's own GPUs, so that hosts "
        "with different cards share one build.",
    ),
    Variable(
        "llama_cpp_builder",
        "",
        checks.text,
        "name of a host, or empty",
        "Which host compiles for those that are alike; the first of them where it is none of them.",
    ),
    Variable(
        "vllm_install_method",
        "venv",
        checks.choice("venv", "container"),
        "venv, container",
        "How vLLM is installed: a locked Python environment, or an image of the site's "
        "(infra_llm_engine_artifacts) that infra_llm_container_engine runs.",
    ),
    Variable(
        "infra_llm_driver_source",
        AUTO,
        checks.choice(AUTO, "vendor", "distro", "present"),
        "auto, vendor, distro, present",
        "Where NVIDIA's driver comes from: NVIDIA's repository, the distribution, or the one that "
        "is there. auto keeps a good one, else takes what serves cards and engine (docs/stack.md).",
    ),
    Variable(
        "infra_llm_driver_branch",
        AUTO,
        checks.integer(340, 999, auto=True),
        "a branch such as 580, or auto",
        "Driver branch; auto takes the long-term one that knows every card.",
    ),
    Variable(
        "infra_llm_driver_modules",
        AUTO,
        checks.choice(AUTO, "open", "proprietary"),
        "auto, open, proprietary",
        "Flavour of the kernel modules.",
    ),
    Variable(
        "infra_llm_cuda_source",
        AUTO,
        checks.choice(AUTO, "vendor", "distro", "wheels", "none"),
        "auto, vendor, distro, wheels, none",
        "Where the CUDA toolkit comes from; none for one that the site brings.",
    ),
    Variable(
        "infra_llm_cuda_version",
        AUTO,
        checks.cuda_version,
        'a release such as "12.9", or auto',
        "CUDA release; auto takes the newest that driver and cards allow.",
    ),
    Variable(
        "infra_llm_container_engine",
        "none",
        checks.choice("none", AUTO, "docker", "podman"),
        "none, auto, docker, podman",
        "Container engine that is to reach the GPUs; auto takes the one that is there, or docker.",
    ),
    Variable(
        "infra_llm_reboot",
        "never",
        checks.choice("never", "if_needed", "window"),
        "never, if_needed, window",
        "Whether a run may reboot the host for a driver, and when.",
    ),
    Variable(
        "infra_llm_reboot_window",
        "",
        checks.window,
        "a span of local time such as 01:00-05:00",
        "When infra_llm_reboot: window may reboot.",
    ),
    Variable(
        "infra_llm_reboot_timeout_seconds",
        900,
        checks.integer(60, 7200, unit="seconds"),
        "60 to 7200",
        "How long a host may take to come back.",
    ),
    Variable(
        "infra_llm_mig",
        {},
        checks.mig,
        "mapping of card to list of profiles",
        "MIG layout: PCI address, index or all, and profiles such as 1g.10gb; empty leaves it.",
    ),
    Variable(
        "infra_llm_gpu_power_limit_w",
        None,
        checks.optional(checks.integer(50, 2000, unit="W")),
        "50 to 2000, or null",
        "Power limit of each NVIDIA card in W; null leaves it.",
    ),
    Variable(
        "infra_llm_gpu_ecc",
        None,
        checks.optional_boolean,
        "true, false or null",
        "ECC of NVIDIA cards that have it; null leaves it.",
    ),
    Variable(
        "infra_llm_secure_boot",
        AUTO,
        checks.choice(AUTO, "refuse", "mok"),
        "auto, refuse, mok",
        "Under Secure Boot: auto takes the distribution's signed modules or refuses, refuse "
        "installs no module at all, mok signs with a key that is enrolled at the console.",
    ),
    Variable(
        "infra_llm_remove_foreign_driver",
        False,
        checks.boolean,
        "true, false",
        "Whether a driver installed from NVIDIA's .run file may be removed.",
    ),
    Variable(
        "infra_llm_repositories",
        {},
        checks.repositories,
        "mapping of name to url, key_url, key_fingerprint",
        "A site's mirrors of nvidia-cuda, nvidia-container-toolkit and epel.",
    ),
)

BY_NAME = {variable.name: variable for variable in VARIABLES}
_LONGEST_SHOWN = 200
INTERNAL = ("infra_llm_run",)
"""Set by the command line for its own playbooks."""


def defaults() -> dict[str, Any]:
    """Every variable with its default."""
    return {variable.name: variable.default for variable in VARIABLES}


def problems(variables: Mapping[str, Any], *, final: bool) -> list[str]:
    """What is wrong with these variables, a line each, every one saying what to do.

    With `final` false, values that are still templates or vaulted are left for later.
    """
    found = []
    for name, value in sorted(variables.items()):
        if not name.startswith(PREFIXES) or name in INTERNAL:
            continue
        variable = BY_NAME.get(name)
        if variable is None:
            found.append(f"unknown variable {name}{_did_you_mean(name)}")
        elif final or not _is_deferred(value):
            wrong = variable.check(value)
            if wrong:
                shown = "not shown" if name in SECRET else _shown(value)
                found.append(f"{name} is {shown}: it {wrong}")
    return found


def wishes(variables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All variables of the table for one host, defaults filled in, numbers as numbers.

    Raises BadInputError that lists everything that is wrong at once.
    """
    wrong = problems(variables, final=True)
    if wrong:
        raise BadInputError(
            "; ".join(wrong),
            where=where,
            hint="the variables and what they accept: docs/variables.md",
        )
    merged = {name: variables.get(name, default) for name, default in defaults().items()}
    return {name: checks.normal(BY_NAME[name].check, value) for name, value in merged.items()}


def _is_deferred(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return isinstance(value, dict) and "__ansible_vault" in value


def _shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        # Python prints no number of more than 4300 digits.
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see docs/variables.md"
