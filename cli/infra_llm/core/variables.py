"""The variables that an inventory may set, as one table: names, types, ranges, defaults, words.

Validation, the defaults and docs/variables.md all come from this table. Pure.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError

PREFIXES = ("infra_llm_", "llama_cpp_")
"""Variables that start so are ours: an unknown one is a typing mistake, not somebody else's."""

AUTO = "auto"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ENGINE_NAMES = ("llama.cpp", "ollama", "vllm", "llama-cpp-python")
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
SECRET = ("infra_llm_api_key",)
"""Variables whose value is never shown."""

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


def _optional(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def _cuda_version(value: Any) -> str:
    """INI inventories turn 12.9 into a number."""
    if value == AUTO or (
        isinstance(value, str | float) and re.fullmatch(r"\d{2}\.\d{1,2}", str(value))
    ):
        return ""
    return 'must be auto or a release such as "12.9"'


def _window(value: Any) -> str:
    hour = r"([01]\d|2[0-3]):[0-5]\d"
    if isinstance(value, str) and (not value or re.fullmatch(f"{hour}-{hour}", value)):
        return ""
    return 'must be a span of the host\'s local time such as "01:00-05:00"'


def _mig(value: Any) -> str:
    fine = isinstance(value, dict) and all(
        isinstance(profiles, list) and all(isinstance(profile, str) for profile in profiles)
        for profiles in value.values()
    )
    return "" if fine else "must map a card (PCI address, index or all) to a list of profiles"


REPOSITORY_KEYS = ("url", "key_url", "key_fingerprint")


def _repositories(value: Any) -> str:
    if not isinstance(value, dict):
        return "must map a repository's name to url, key_url and key_fingerprint"
    for name, entry in value.items():
        if not isinstance(entry, dict) or not set(entry) <= set(REPOSITORY_KEYS):
            return f"may give {name} only {', '.join(REPOSITORY_KEYS)}"
        fingerprint = entry.get("key_fingerprint", "0" * 40)
        if not re.fullmatch(r"[0-9A-Fa-f]{40}", str(fingerprint)):
            return f"must have 40 hexadecimal digits as {name}.key_fingerprint"
        for key in ("url", "key_url"):
            if not re.match(r"(https?|file)://", str(entry.get(key, "file://"))):
                return f"must have an http, https or file URL as {name}.{key}"
    return ""


def _boolean(value: Any) -> str:
    """INI inventories write true and yes as texts."""
    words = isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE
    return "" if isinstance(value, bool) or words else "must be true or false"


def _optional_boolean(value: Any) -> str:
    return "" if value is None else _boolean(value)


def _address(value: Any) -> str:
    if value == "localhost":
        return ""
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return "must be an IP address of the host, 0.0.0.0, :: or localhost"
    return ""


def _api_key(value: Any) -> str:
    if value in ("", AUTO):
        return ""
    good = isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]{16,256}", value)
    return "" if good else "must be auto, or 16 to 256 characters without spaces"


def _tls(value: Any) -> str:
    if value in ("", "site"):
        return ""
    known = {"certificate", "key", "ca"}
    if isinstance(value, dict) and {"certificate", "key"} <= set(value) <= known:
        return "" if all(isinstance(path, str) for path in value.values()) else "must name files"
    return "must be site, or a mapping with certificate, key and perhaps ca"


def _networks(value: Any) -> str:
    if not isinstance(value, list):
        return "must be a list of networks"
    for text in value:
        try:
            ipaddress.ip_network(text if isinstance(text, str) else "")
        except ValueError as error:
            return f"must be a list of networks like 10.0.0.0/8 ({error})"
    return ""


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
        "Models of your own, as in the catalogue: filename, sha256, size, licence, places. A model "
        "of several files has them in files; those without places take the model's (a url is then "
        "the folder's address, a path the folder).",
    ),
    Variable(
        "infra_llm_engine",
        "llama.cpp",
        _choice(*ENGINE_NAMES),
        ", ".join(ENGINE_NAMES),
        "The inference engine. Another one is set up beside the one that serves, and takes over.",
    ),
    Variable(
        "infra_llm_engine_artifacts",
        {},
        _mapping,
        "mapping of engine to method to CPU architecture to artifact",
        "Engine releases of your own, in place of the catalogue's: filename, version, sha256, "
        "size, licence, places, as under engines there.",
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
        "infra_llm_busy_gpus",
        "share",
        _choice("share", "refuse"),
        "share, refuse",
        "Where another program holds memory of a GPU when a plan is made: plan with what it leaves "
        "free, or refuse the host. (vLLM plans with whole cards.)",
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
        _address,
        "IP address of the host, 0.0.0.0, :: or localhost",
        "Address of the endpoint. Another one than loopback needs infra_llm_api_key and "
        "infra_llm_tls, or infra_llm_insecure.",
    ),
    Variable(
        "infra_llm_api_key",
        "",
        _api_key,
        "auto, or 16 to 256 characters",
        "Key that requests must carry. auto makes one on the host (/etc/infra-llm/api-key, 0600); "
        "one of your own belongs in a vault. It is in no command line, log, plan or state.",
    ),
    Variable(
        "infra_llm_tls",
        "",
        _tls,
        "site, or mapping of certificate, key, ca",
        "site: a certificate by a CA that infra-llm makes on the controller, renewed in time. Or "
        "your own, as paths of PEM files on the controller.",
    ),
    Variable(
        "infra_llm_insecure",
        False,
        _boolean,
        "true, false",
        "Opens the endpoint on infra_llm_bind without key or TLS; said in every report.",
    ),
    Variable(
        "infra_llm_allowed_networks",
        [],
        _networks,
        "list of networks",
        "Who may reach an endpoint that is open to the network (10.0.0.0/8); a rule of the host's "
        "nftables, ufw or firewalld says so, too. Empty: everyone.",
    ),
    Variable(
        "infra_llm_engine_port",
        AUTO,
        _integer(1024, 65535, auto=True),
        "1024 to 65535, or auto",
        "TCP port of the engine on loopback where a key or TLS stands before it; auto takes "
        "infra_llm_port and 10000.",
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
    Variable(
        "infra_llm_driver_source",
        AUTO,
        _choice(AUTO, "vendor", "distro", "present"),
        "auto, vendor, distro, present",
        "Where NVIDIA's driver comes from: NVIDIA's repository, the distribution, or the one that "
        "is there. auto keeps a good one, else takes what serves cards and engine (docs/stack.md).",
    ),
    Variable(
        "infra_llm_driver_branch",
        AUTO,
        _integer(340, 999, auto=True),
        "a branch such as 580, or auto",
        "Driver branch; auto takes the long-term one that knows every card.",
    ),
    Variable(
        "infra_llm_driver_modules",
        AUTO,
        _choice(AUTO, "open", "proprietary"),
        "auto, open, proprietary",
        "Flavour of the kernel modules.",
    ),
    Variable(
        "infra_llm_cuda_source",
        AUTO,
        _choice(AUTO, "vendor", "distro", "wheels", "none"),
        "auto, vendor, distro, wheels, none",
        "Where the CUDA toolkit comes from; none for one that the site brings.",
    ),
    Variable(
        "infra_llm_cuda_version",
        AUTO,
        _cuda_version,
        'a release such as "12.9", or auto',
        "CUDA release; auto takes the newest that driver and cards allow.",
    ),
    Variable(
        "infra_llm_container_engine",
        "none",
        _choice("none", AUTO, "docker", "podman"),
        "none, auto, docker, podman",
        "Container engine that is to reach the GPUs; auto takes the one that is there, or docker.",
    ),
    Variable(
        "infra_llm_reboot",
        "never",
        _choice("never", "if_needed", "window"),
        "never, if_needed, window",
        "Whether a run may reboot the host for a driver, and when.",
    ),
    Variable(
        "infra_llm_reboot_window",
        "",
        _window,
        "a span of local time such as 01:00-05:00",
        "When infra_llm_reboot: window may reboot.",
    ),
    Variable(
        "infra_llm_reboot_timeout_seconds",
        900,
        _integer(60, 7200, unit="seconds"),
        "60 to 7200",
        "How long a host may take to come back.",
    ),
    Variable(
        "infra_llm_mig",
        {},
        _mig,
        "mapping of card to list of profiles",
        "MIG layout: PCI address, index or all, and profiles such as 1g.10gb; empty leaves it.",
    ),
    Variable(
        "infra_llm_gpu_power_limit_w",
        None,
        _optional(_integer(50, 2000, unit="W")),
        "50 to 2000, or null",
        "Power limit of each NVIDIA card in W; null leaves it.",
    ),
    Variable(
        "infra_llm_gpu_ecc",
        None,
        _optional_boolean,
        "true, false or null",
        "ECC of NVIDIA cards that have it; null leaves it.",
    ),
    Variable(
        "infra_llm_secure_boot",
        AUTO,
        _choice(AUTO, "refuse", "mok"),
        "auto, refuse, mok",
        "Under Secure Boot: auto takes the distribution's signed modules or refuses, refuse "
        "installs no module at all, mok signs with a key that is enrolled at the console.",
    ),
    Variable(
        "infra_llm_remove_foreign_driver",
        False,
        _boolean,
        "true, false",
        "Whether a driver installed from NVIDIA's .run file may be removed.",
    ),
    Variable(
        "infra_llm_repositories",
        {},
        _repositories,
        "mapping of name to url, key_url, key_fingerprint",
        "A site's mirrors of nvidia-cuda, nvidia-container-toolkit and epel.",
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
                shown = "not shown" if name in SECRET else repr(value)
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
    return {name: _normal(BY_NAME[name], value) for name, value in merged.items()}


def _normal(variable: Variable, value: Any) -> Any:
    """INI inventories mix up texts and numbers; the variable says which of them is meant."""
    if variable.check in (_boolean, _optional_boolean):
        return value if value is None or isinstance(value, bool) else value.strip().lower() in _TRUE
    texts = (_text, _text_not_empty, _instance, _cuda_version, _api_key)
    takes_texts = variable.check in texts
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
