"""The variables that an inventory may set, as one table: names, types, ranges, defaults, words.

Validation, the defaults and docs/variables.md all come from this table. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError

PREFIXES = ("infra_llm_", "llama_cpp_")
"""Variables that start so are ours: an unknown one is a typing mistake, not somebody else's."""

AUTO = "auto"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ENGINE_NAMES = ("llama.cpp",)
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

_WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,4000}\s*")
"""What int() takes for certain: it refuses "--5", "²" and more than 4300 digits."""

Check = Callable[[Any], str]
"""Returns what is wrong in words, or an empty string."""


def _integer(low: int, high: int, *, auto: bool = False, unit: str = "") -> Check:
    def check(value: Any) -> str:
        if auto and value == AUTO:
            return ""
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number{unit and ' of ' + unit}{' or auto' if auto else ''}"
        return "" if low <= value <= high else f"must be from {low} to {high}"

    return check


def _choice(*values: str) -> Check:
    return lambda value: "" if value in values else f"must be one of {', '.join(values)}"


def _text(value: Any) -> str:
    """INI inventories turn a text like 2 into a number: it is taken for the text."""
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return "" if is_text else "must be a text"


def _text_not_empty(value: Any) -> str:
    return _text(value) or ("" if str(value).strip() else "must not be empty")


def _instance(value: Any) -> str:
    plain = re.fullmatch(r"[a-z0-9]{0,16}", str(value))
    return _text(value) or ("" if plain else "must be 1 to 16 small letters and digits")


def _texts(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ""
    return "must be a list of texts"


def _architectures(value: Any) -> str:
    """CUDA architectures as compute capability without the dot."""
    name = re.compile(r"[5-9][0-9]|1[0-9]{2}")
    if isinstance(value, list) and all(name.fullmatch(str(item)) for item in value):
        return ""
    return "must be a list of compute capabilities without the dot, as [86, 120]"


def _mapping(value: Any) -> str:
    return "" if isinstance(value, dict) else "must be a mapping"


@dataclass(frozen=True)
class Variable:
    name: str
    default: Any
    check: Check
    accepts: str
    """For people: what it takes."""
    text: str


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "infra_llm_model",
        "smollm2-135m-instruct-q4_1",
        _text_not_empty,
        "name",
        "The model to serve: a name from the catalogue or from infra_llm_models.",
    ),
    Variable(
        "infra_llm_models",
        {},
        _mapping,
        "mapping of name to artifact",
        "Models of your own, as in the catalogue: filename, sha256, size, licence, places.",
    ),
    Variable(
        "infra_llm_engine",
        "llama.cpp",
        _choice(*ENGINE_NAMES),
        ", ".join(ENGINE_NAMES),
        "The inference engine. Another one is set up beside the one that serves, and takes over.",
    ),
    Variable(
        "infra_llm_instance",
        "",
        _instance,
        "empty, or 1 to 16 small letters and digits",
        "Name of a further service on the same machine, with an inventory name, a port, files and "
        "a user of its own. Each plans for the whole machine: share the memory by your wishes.",
    ),
    Variable(
        "infra_llm_context",
        AUTO,
        _integer(256, 16_777_216, auto=True, unit="tokens"),
        "256 to 16777216, or auto",
        "Context length of one request in tokens; auto takes what fits and the model was made for.",
    ),
    Variable(
        "infra_llm_parallel",
        AUTO,
        _integer(1, 256, auto=True),
        "1 to 256, or auto",
        "Parallel slots: requests served at the same time, each with infra_llm_context tokens.",
    ),
    Variable(
        "infra_llm_kv_cache_type",
        AUTO,
        _choice(AUTO, *CACHE_TYPES),
        "auto, " + ", ".join(CACHE_TYPES),
        "Type of the KV cache; auto keeps f16 while that fits.",
    ),
    Variable(
        "infra_llm_gpu_layers",
        AUTO,
        _integer(0, 1000, auto=True),
        "0 to 1000, or auto",
        "Layers on the GPUs, the output layer counted.",
    ),
    Variable(
        "infra_llm_threads",
        AUTO,
        _integer(1, 1024, auto=True),
        "1 to 1024, or auto",
        "CPU threads of the engine.",
    ),
    Variable(
        "infra_llm_port",
        8080,
        _integer(1024, 65535),
        "1024 to 65535",
        "TCP port of the endpoint.",
    ),
    Variable(
        "infra_llm_bind",
        "127.0.0.1",
        _choice(*LOOPBACK),
        ", ".join(LOOPBACK),
        "Address of the endpoint. Only loopback in this version: there is no key and no TLS yet.",
    ),
    Variable(
        "infra_llm_service_manager",
        AUTO,
        _choice(AUTO, "systemd", "supervisor"),
        "auto, systemd, supervisor",
        "What keeps the service running; auto takes systemd where it is pid 1, else supervisor.",
    ),
    Variable(
        "infra_llm_artifact_folders",
        [],
        _texts,
        "list of folders on the host",
        "Folders that are asked for every download first, by file name.",
    ),
    Variable(
        "infra_llm_package_index",
        AUTO,
        _text_not_empty,
        "URL of a simple index, or auto",
        "Python package index that hosts download from; auto takes what pip on the controller has.",
    ),
    Variable(
        "infra_llm_lock_stale_seconds",
        3600,
        _integer(60, 604_800, unit="seconds"),
        "60 to 604800",
        "A host's lock that was not renewed for so long is taken over.",
    ),
    Variable(
        "infra_llm_verify_prompt",
        "What is 1+1?",
        _text_not_empty,
        "text",
        "What the endpoint is asked to prove that it answers.",
    ),
    Variable(
        "infra_llm_verify_expect",
        "2",
        _text,
        "text",
        "What the answer must contain; empty accepts any answer that is not empty.",
    ),
    Variable(
        "llama_cpp_install_method",
        AUTO,
        _choice(AUTO, "release", "wheel", "source"),
        "auto, release, wheel, source",
        "How llama.cpp is installed. auto: without a GPU upstream's release archive where it can "
        "be reached, else the wheel xllamacpp; with an NVIDIA GPU a CUDA build from source.",
    ),
    Variable(
        "llama_cpp_backend",
        AUTO,
        _choice(AUTO, "cpu", "cuda", "hip", "sycl", "vulkan"),
        "auto, cpu, cuda, hip, sycl, vulkan",
        "What a build from source is for; auto takes cuda with an NVIDIA GPU, else cpu.",
    ),
    Variable(
        "llama_cpp_cuda_architectures",
        [],
        _architectures,
        "list, as [86, 120]",
        "CUDA architectures to compile for besides those of the host's own GPUs, so that hosts "
        "with different cards share one build.",
    ),
)

BY_NAME = {variable.name: variable for variable in VARIABLES}
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
                found.append(f"{name} is {value!r}: it {wrong}")
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
    return {name: _normal(BY_NAME[name], value) for name, value in merged.items()}


def _normal(variable: Variable, value: Any) -> Any:
    """INI inventories mix up texts and numbers; the variable says which of them is meant."""
    takes_texts = variable.check in (_text, _text_not_empty, _instance)
    if takes_texts:
        return str(value)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    return value


def _is_deferred(value: Any) -> bool:
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return isinstance(value, dict) and "__ansible_vault" in value


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, BY_NAME, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; see docs/variables.md"
