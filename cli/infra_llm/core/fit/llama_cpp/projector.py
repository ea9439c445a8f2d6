"""Memory of a multimodal projector (mmproj) that is loaded beside a model.

Weights: every tensor in one buffer of the first GPU, else of the host (`load_tensors` of
clip_model_loader in tools/mtmd/clip.cpp). Compute buffer: reserved for the warm-up image
(`reserve_compute_meta`). In a tower of `build_vit` with flash attention the peak stands in the
feed-forward: its hidden rows and three of the tower's width, f32, for each patch. Met exactly by
build 11434's server for four shapes of the two types that are known; others are refused.
"""

from __future__ import annotations

import dataclasses

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile

KNOWN = ("gemma3", "idefics3")
"""Types of tools/mtmd/models/siglip.cpp whose buffers were compared."""
F32 = 4


def with_projector(model: ModelProfile, projector: ModelProfile) -> ModelProfile:
    """The model with the bytes of a projector's weights and compute buffer.

    Raises BadInputError for a file that is no projector, or one whose graph is not known.
    """
    return dataclasses.replace(
        model,
        projector_bytes=projector.tensor_bytes,
        projector_compute_bytes=projector_compute(projector),
    )


def projector_compute(projector: ModelProfile) -> int:
    """Bytes of the compute buffer; raises BadInputError as `with_projector`."""
    hyper = projector.hyper
    kind = hyper.get("vision.projector_type") or hyper.get("projector_type")
    if projector.architecture != "clip" or not kind:
        raise BadInputError(
            "is no projector", where=projector.name, hint="give the mmproj file of the model"
        )
    if kind not in KNOWN:
        raise BadInputError(
            f"the memory of projector type {kind!r} is not known",
            where=projector.name,
            hint=f"known: {', '.join(KNOWN)}",
        )
    names = ("image_size", "patch_size", "feed_forward_length", "embedding_length")
    size, patch, hidden, width = (_key(projector, name) for name in names)
    patches = (size // patch) ** 2
    return F32 * patches * (hidden + 3 * width)


def _key(projector: ModelProfile, name: str) -> int:
    value = projector.hyper.get(f"vision.{name}")
    if not isinstance(value, int) or value < 1:
        raise BadInputError(f"the header lacks clip.vision.{name}", where=projector.name)
    return value
