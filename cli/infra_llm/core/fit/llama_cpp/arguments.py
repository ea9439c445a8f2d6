"""LaunchPlan flags to and from llama-server's argv."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.errors import BadInputError

SWITCHES = {
    "kv_unified": ("--kv-unified", "--no-kv-unified"),
    "op_offload": ("--op-offload", "--no-op-offload"),
    "kv_offload": ("--kv-offload", "--no-kv-offload"),
    "repack": ("--repack", "--no-repack"),
    "swa_full": ("--swa-full", ""),
    "warmup": ("--warmup", "--no-warmup"),
    "cont_batching": ("--cont-batching", "--no-cont-batching"),
    "cpu_moe": ("--cpu-moe", ""),
    "mmproj_offload": ("--mmproj-offload", "--no-mmproj-offload"),
    "metrics": ("--metrics", ""),
    "jinja": ("--jinja", "--no-jinja"),
    "host": ("", ""),
}
LOAD = ("mmap", "mlock")
"""Flags that the engine takes together as one --load-mode since #20834; --mmap, --no-mmap and
--mlock are gone in the pinned build, which stops at an option that it does not know."""
SHORT = {
    "-c": "ctx_size",
    "-ngl": "n_gpu_layers",
    "--gpu-layers": "n_gpu_layers",
    "-np": "parallel",
    "-ctk": "cache_type_k",
    "-ctv": "cache_type_v",
    "-fa": "flash_attn",
    "-b": "batch_size",
    "-ub": "ubatch_size",
    "-t": "threads",
    "-tb": "threads_batch",
    "-ts": "tensor_split",
    "-sm": "split_mode",
    "-mg": "main_gpu",
    "-ot": "override_tensor",
    "-ncmoe": "n_cpu_moe",
    "-cmoe": "cpu_moe",
    "-kvu": "kv_unified",
    "-no-kvu": "no_kv_unified",
    "-nkvo": "no_kv_offload",
    "-nopo": "no_op_offload",
    "-nr": "no_repack",
    "-fit": "fit",
    "-cram": "cache_ram",
    "-ctxcp": "ctx_checkpoints",
    "-cb": "cont_batching",
    "-dev": "device",
    "-md": "model_draft",
    "--spec-draft-model": "model_draft",
    "-ngld": "n_gpu_layers_draft",
    "--spec-draft-ngl": "n_gpu_layers_draft",
    "--gpu-layers-draft": "n_gpu_layers_draft",
    "-ctkd": "cache_type_k_draft",
    "--spec-draft-type-k": "cache_type_k_draft",
    "-ctvd": "cache_type_v_draft",
    "--spec-draft-type-v": "cache_type_v_draft",
    "-mm": "mmproj",
    "-rtr": "run_time_repack",
    "-lm": "load_mode",
}
_INTEGERS = """ctx_size n_gpu_layers parallel batch_size ubatch_size threads threads_batch n_cpu_moe
    cache_ram ctx_checkpoints main_gpu n_gpu_layers_draft spec_draft_n_max image_min_tokens
    image_max_tokens mtmd_batch_max_tokens"""
INTEGERS = frozenset(_INTEGERS.split())
LAYERS = ("n_gpu_layers", "n-gpu-layers")
"""Options that also take "all" (-2) and "auto" (-1)."""
REPEATED = frozenset({"override_tensor"})
_OPTION = re.compile(r"--?[A-Za-z][\w-]*", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
WHERE = "after --"


def llama_server_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Turn a plan's flags into llama-server arguments, in the order of the flags."""
    arguments: list[str] = []
    for name, value in flags.items():
        option = "--" + name.replace("_", "-")
        if name in LOAD:
            if name == next(part for part in LOAD if part in flags):
                arguments += ["--load-mode", load_mode(flags)]
        elif name in SWITCHES and isinstance(value, bool):
            switch = SWITCHES[name][0 if value else 1]
            arguments += [switch] if switch else []
        elif isinstance(value, bool):
            arguments += [option] if value else []
        elif value is None:
            continue
        elif name in REPEATED:
            arguments += [part for item in value for part in (option, str(item))]
        elif isinstance(value, list | tuple):
            arguments += [option, ",".join(_number(item) for item in value)]
        else:
            arguments += [option, str(value)]
    return arguments


def load_mode(flags: Mapping[str, Any]) -> str:
    """`--load-mode` for the flags mmap (on unless told) and mlock."""
    wished = {"mmap": flags.get("mmap", True), "mlock": flags.get("mlock", False)}
    return "+".join(name for name in LOAD if wished[name]) or "none"


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Read arguments as llama-server spells them into plan flags.

    Raises BadInputError for text that is no option, for a value that an option does not take or
    lacks, and for numbers that are none.
    """
    flags: dict[str, Any] = {}
    items = list(arguments)
    while items:
        word, equals, given = items.pop(0).partition("=")
        if not _OPTION.fullmatch(word):
            raise BadInputError(
                f"{(word + equals + given)[:80]!r} is no engine flag",
                where=WHERE,
                hint="write it as llama-server does",
            )
        name = SHORT.get(word, word.lstrip("-").replace("-", "_"))
        negated = name.startswith("no_") and name[3:] in SWITCHES
        loads = name in {*LOAD, "no_mmap"}
        if negated or loads or (name in SWITCHES and name != "host"):
            if equals:
                raise BadInputError(
                    f"{word} takes no value, not {given[:80]!r}",
                    where=WHERE,
                    hint=f"write {word} alone, or {_opposite(name)}",
                )
            flags[name.removeprefix("no_")] = not name.startswith("no_")
            continue
        value = given if equals else _take(items)
        if value is None:
            if name == "flash_attn":
                flags[name] = "on"
                continue
            if name in INTEGERS or name in REPEATED or name == "load_mode":
                raise BadInputError(
                    f"{word} needs a value", where=WHERE, hint=f"write {word} and its value"
                )
            flags[name] = True
        elif name in REPEATED:
            flags.setdefault(name, []).extend(value.split(","))
        elif name == "load_mode":
            flags.update(_read_load_mode(value))
        elif name == "tensor_split":
            flags[name] = [_float(word, part) for part in value.replace("/", ",").split(",")]
        elif name in INTEGERS:
            flags[name] = _integer(word, value)
        else:
            flags[name] = value
    return flags


def _opposite(name: str) -> str:
    """The other switch of a pair in words; some have none."""
    if name.startswith("no_"):
        return "--" + name[3:].replace("_", "-")
    other = "--no-mmap" if name == "mmap" else SWITCHES.get(name, ("", ""))[1]
    return other or "leave it out"


def _read_load_mode(text: str) -> dict[str, bool]:
    """The flags mmap and mlock of a `--load-mode`; "auto" is mmap where the devices can."""
    words = (text or "").replace("auto", "mmap").split("+")
    if not {*words} <= {*LOAD, "none"}:
        raise BadInputError(
            f"load mode {text[:80]!r} is not planned for",
            where=WHERE,
            hint="one of auto, none, mmap, mlock",
        )
    return {name: name in words for name in LOAD}


def _take(items: list[str]) -> str | None:
    """The next word, unless it is an option itself ("-1" is a value)."""
    if items and (not items[0].startswith("-") or items[0][1:2].isdigit()):
        return items.pop(0)
    return None


def _integer(option: str, text: str) -> int:
    if text in {"all", "auto", "-1", "-2"} and SHORT.get(option, option[2:]).startswith(LAYERS):
        return 999
    if not _WHOLE.fullmatch(text):
        raise BadInputError(
            f"{option} needs a whole number, not {text[:80]!r}",
            where=WHERE,
            hint=f"as in {option} 1",
        )
    return int(text)


def _float(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInputError(
            f"{option} needs numbers, not {text[:80]!r}", where=WHERE, hint=f"as in {option} 3,1"
        ) from None


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
