"""Speculative decoding: what it adds to the main model's launch, and the context of its own.

Source: common/speculative.cpp (`common_speculative_n_max`, `..._get_output_limits`,
`common_speculative_init_result`), `common_params_speculative` in common/common.h,
`llm_arch_supports_rs_rollback` in src/llama-arch.cpp (build 11434). A draft model needs
`--spec-type draft-simple`: without it the engine loads the file and drops it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.hyper import Hyper, memory_class
from infra_llm.core.model import ModelProfile, TensorGroup, parse_layer_ranges

SIMPLE, MTP = "draft-simple", "draft-mtp"
DRAFTED = 3
"""--spec-draft-n-max where it is not given."""
NGRAMS = {
    "ngram-simple": 48,
    "ngram-map-k": 48,
    "ngram-map-k4v": 48,
    "ngram-mod": 64,
    "ngram-cache": 8,
}
"""Tokens that the types without a model draft at most, by their own defaults."""
ALL_LAYERS = 999
VOCABULARY_DIFFERENCE = 128
"""Tokens by which the vocabularies may differ (SPEC_VOCAB_MAX_SIZE_DIFFERENCE)."""
NAMED_BY_SPEC = ("spec_type", "spec_draft_n_max", "n_gpu_layers_draft")


@dataclass(frozen=True)
class Speculation:
    """What the flags ask for."""

    drafted: int = 0
    """Tokens beside the sampled one whose logits the main model gives at once, for each slot."""
    states: int = 0
    """Rows of recurrent state that are kept to roll back (n_rs_seq)."""
    mtp: bool = False
    """The model's own layers of multi-token prediction draft."""


PLAIN = Speculation()


def speculation(flags: Mapping[str, Any]) -> Speculation:
    """Read the flags.

    Raises BadInputError for a type whose memory is not known.
    """
    wished = str(flags.get("spec_type") or "none")
    if wished == "none":
        return PLAIN
    count = int(flags.get("spec_draft_n_max", DRAFTED))
    drafted, states, mtp = 0, 0, False
    for name in wished.split(","):
        if name in {SIMPLE, MTP}:
            drafted = max(drafted, count)
            mtp = mtp or name == MTP
            states = count if mtp else 0
        elif name in NGRAMS:
            drafted = max(drafted, NGRAMS[name])
        elif name != "none":
            known = ", ".join([SIMPLE, MTP, *NGRAMS])
            raise BadInputError(
                f"the memory of speculative decoding by {name!r} is not known",
                where="--spec-type",
                hint=f"known: {known}",
            )
    return Speculation(max(0, drafted), max(0, states), mtp)


def speculative_flags(model: ModelProfile, pinned: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """Explicit flags of a launch with a draft model; none where nothing drafts.

    Raises BadInputError where the wished type has nothing to draft with.
    """
    wished = speculation(pinned)
    if wished.mtp and not model.draft and not model.hyper.get("nextn_predict_layers"):
        raise BadInputError(
            "the model has no layers of multi-token prediction",
            where="--spec-type",
            hint="convert it with them, or take draft-simple and a draft model",
        )
    if not model.draft:
        return {"spec_draft_n_max": DRAFTED} if wished.mtp else {}
    memory_class(model.draft.architecture)
    if abs(model.draft.vocab_size - model.vocab_size) > VOCABULARY_DIFFERENCE:
        raise BadInputError(
            f"its vocabulary has {model.draft.vocab_size} tokens, the main model's "
            f"{model.vocab_size}: the engine would serve without speculation",
            where=model.draft.name or "draft model",
            hint="take a draft model of the same family",
        )
    return {
        "spec_type": SIMPLE,
        "spec_draft_n_max": DRAFTED,
        "n_gpu_layers_draft": ALL_LAYERS if gpus else 0,
    }


def loaded(hyper: Hyper, flags: Mapping[str, Any]) -> Hyper:
    """The hyper-parameters, told that layers of multi-token prediction are loaded, too."""
    if not speculation(flags).mtp or hyper.loads_mtp:
        return hyper
    return dataclasses.replace(hyper, loads_mtp=True)


def draft_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The launch of a draft context: the main one's but for layers, cache types and overrides.

    (`common_base_params_to_speculative` and `common_speculative_init_result`: as many tokens of
    context, all layers on the GPUs, f16, one row of logits a slot.)
    """
    left_out = ("override_tensor", "n_cpu_moe", "cpu_moe", "cache_type_k", "cache_type_v")
    kept = {
        name: value
        for name, value in flags.items()
        if name not in {*left_out, *NAMED_BY_SPEC, "tensor_split"}
    }
    types = {
        name: flags[f"{name}_draft"]
        for name in ("cache_type_k", "cache_type_v")
        if f"{name}_draft" in flags
    }
    split = {"tensor_split": flags["tensor_split"]} if flags.get("tensor_split") else {}
    layers = int(flags.get("n_gpu_layers_draft", ALL_LAYERS))
    return {**kept, **types, **split, "n_gpu_layers": layers}


def head_of(model: ModelProfile) -> ModelProfile:
    """The layers of multi-token prediction as a model of one plain attention layer.

    Its weights are counted with the main model's; what counts here is the cache of the last layer,
    and a compute buffer for one layer and the logits, beside which the two joined rows of
    `nextn.eh_proj` are small.
    """
    known = model.__dict__.get("_head")
    if isinstance(known, ModelProfile):
        return known
    last = int(model.hyper["block_count"]) - 1
    groups = tuple(
        dataclasses.replace(group, layers="0" if group.layers else "")
        for group in model.tensors
        if not group.layers or last in parse_layer_ranges(group.layers)
    )
    made = dataclasses.replace(
        model,
        name=f"{model.name} draft head",
        hyper={**_one_layer(model.hyper, last), "block_count": 1, "nextn_predict_layers": 0},
        tensors=_without_nextn(groups),
        projector=None,
        draft=None,
    )
    model.__dict__["_head"] = made
    return made


def _one_layer(hyper: Mapping[str, Any], last: int) -> dict[str, Any]:
    """Arrays with an entry a layer, cut to the last layer; no layer is recurrent or windowed."""
    cut = {
        key: [value[last]] if isinstance(value, list) and len(value) == last + 1 else value
        for key, value in hyper.items()
    }
    return {**cut, "full_attention_interval": 1, "attention.recurrent_layers": [False]}


def _without_nextn(groups: tuple[TensorGroup, ...]) -> tuple[TensorGroup, ...]:
    return tuple(group for group in groups if ".nextn." not in group.name)
