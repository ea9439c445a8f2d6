"""What llama-server's flags may be: the engine's limits, and flags that are not reckoned with.

Sources: common/arg.cpp, LLAMA_MAX_SEQ in src/llama-cparams.h (build 11434).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.arguments import INTEGERS, LOAD, REPEATED, SWITCHES, WHERE

MOST_SLOTS = 256
MOST_TOKENS = (1 << 31) - 1
LEAST = {
    "ctx_size": 0,
    "parallel": 1,
    "batch_size": 1,
    "ubatch_size": 1,
    "n_cpu_moe": 0,
    "n_gpu_layers": 0,
    "n_gpu_layers_draft": 0,
    "ctx_checkpoints": 0,
    "spec_draft_n_max": 0,
    "main_gpu": 0,
    "cache_ram": 0,
    "threads": -1,
    "threads_batch": -1,
    "image_min_tokens": 0,
    "image_max_tokens": 0,
    "mtmd_batch_max_tokens": 0,
}
CHOICES = {
    "flash_attn": ("on", "off", "auto"),
    "split_mode": ("layer", "none"),
    "numa": ("distribute", "isolate", "numactl"),
}
_PLAIN = """tensor_split cache_type_k cache_type_v cache_type_k_draft cache_type_v_draft fit
    spec_type mmproj model_draft flash_attn split_mode numa"""
_NO_MEMORY = """host port api_key api_key_file alias threads_http timeout temp temperature top_k
    top_p min_p seed repeat_penalty presence_penalty frequency_penalty chat_template
    chat_template_file reasoning_format reasoning_budget verbosity log_file ssl_key_file
    ssl_cert_file n_predict keep slot_prompt_similarity rope_scaling rope_scale rope_freq_base
    rope_freq_scale yarn_orig_ctx yarn_ext_factor yarn_attn_factor yarn_beta_slow yarn_beta_fast
    prio poll slots no_slots props offline log_disable log_colors verbose no_webui webui model m"""
KNOWN = frozenset(
    [*INTEGERS, *LOAD, *REPEATED, *SWITCHES, *_PLAIN.split(), *_NO_MEMORY.split(), "threads"]
)


def check_flags(pinned: Mapping[str, Any]) -> None:
    """Raise BadInputError for a flag that the engine would refuse, or that can't be meant."""
    for name, least in LEAST.items():
        value = pinned.get(name)
        most = MOST_SLOTS if name == "parallel" else MOST_TOKENS
        if value is not None and not least <= int(value) <= most:
            raise BadInputError(
                f"{option(name)} is {value}", hint=f"give a number from {least} to {most}"
            )
    for name, accepted in CHOICES.items():
        value = pinned.get(name)
        if value is not None and value not in accepted:
            hint = f"one of {', '.join(accepted)}"
            raise BadInputError(f"{option(name)} {value} is not planned for", hint=hint)
    shares = pinned.get("tensor_split") or []
    if any(not math.isfinite(share) or share < 0 for share in shares):
        raise BadInputError("a share of the tensor split is no number from 0 on", hint="as in 3,1")


def refuse_files(asked: Mapping[str, Any]) -> None:
    """Raise BadInputError for flags that load a second model: its header has to be read, too."""
    for name in ("mmproj", "model_draft"):
        if name in asked:
            raise BadInputError(
                f"{option(name)} loads a second model, which is not planned from here",
                where=WHERE,
                hint=f"give it before the --, as fit's own {option(name)} FILE",
            )


def option(name: str) -> str:
    """A flag as the engine spells it."""
    return "--" + name.replace("_", "-")


def not_known(names: Sequence[str]) -> list[str]:
    """Those of the flags whose effect on memory the planner does not know."""
    return sorted(option(name) for name in names if name not in KNOWN)
