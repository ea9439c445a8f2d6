"""Memory of an image or audio encoder (mmproj) that is loaded beside a model.

Weights: every tensor in one buffer of the first GPU, else of the host (`load_tensors` of
clip_model_loader in tools/mtmd/clip.cpp). Compute buffer: reserved at the start for the warm-up
image (`reserve_compute_meta`) and again for any larger one that comes (`clip_image_batch_encode`),
so that the largest image counts for what must fit. Both are laid out by the engine's own rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.projectors import AUDIO_FRAMES, TYPES, Kind, grid_of
from infra_llm.core.fit.llama_cpp.scheduler import Backend
from infra_llm.core.fit.llama_cpp.tensors import graph_of
from infra_llm.core.fit.llama_cpp.tower import Tower, header_number
from infra_llm.core.model import ModelProfile

BATCH_TOKENS = 1024
"""--mtmd-batch-max-tokens of common/common.h."""
FLASH_HEADS = frozenset({40, 64, 72, 80, 96, 112, 128, 256})
"""Head sizes that CUDA's flash attention takes here (ggml_cuda_get_best_fattn_kernel in
ggml/src/ggml-cuda/fattn.cu); others, and --flash-attn off, hold the scores of all patches."""
MODALITIES = ("vision", "audio")


@dataclass(frozen=True)
class Encoder:
    """Bytes of a projector's file in use."""

    weights: int
    compute: int
    """Reserved at the start."""
    largest: int
    """With the largest image that the engine lets in."""
    host: int = 0
    """The host's side of an encoder on a GPU: pixels and positions, reserved likewise."""
    host_largest: int = 0


def encoder_memory(
    projector: ModelProfile, flags: Mapping[str, Any], *, gpus: int, cuda: bool
) -> Encoder:
    """Memory of a projector under a launch's flags.

    Raises BadInputError for a file that is no projector, or one of a type whose graph is not known.
    """
    key = (flags.get("flash_attn", "on"), most_tokens(flags), flags.get("mtmd_batch_max_tokens"))
    known = projector.__dict__.setdefault("_encoders", {})
    place = (key, bool(gpus), cuda)
    if place not in known:
        known[place] = _encoder(projector, flags, gpus=gpus, cuda=cuda)
    found: Encoder = known[place]
    return found


def most_tokens(flags: Mapping[str, Any]) -> int:
    """--image-max-tokens, 0 where it is not given."""
    return int(flags.get("image_max_tokens") or 0)


def _encoder(
    projector: ModelProfile, flags: Mapping[str, Any], *, gpus: int, cuda: bool
) -> Encoder:
    backend = Backend(min(gpus, 1), cuda=cuda)
    warm, most_of = [0, 0], [0, 0]
    for kind, name in kinds_of(projector):
        start, most, batch = sizes(projector, kind, flags)

        def peak(
            size: tuple[int, int], batch: int, half: bool, kind: Kind = kind, name: str = name
        ) -> list[int]:
            with graph_of(name, projector.name):
                tower = Tower(projector, kind.modality, size, backend, kind=name, batch=batch)
                tower.merge, tower.half_mask = merge_of(projector, kind), half
                wished = flags.get("flash_attn", "on") not in {"off", "0", False}
                tower.flash = wished and (not gpus or not cuda or tower.head in FLASH_HEADS)
                return tower.peak(kind.build(tower))

        first, last = peak(start, 1, half=True), peak(most, batch, half=False)
        for place, size in enumerate(first):
            warm[place] += size
            most_of[place] += max(size, last[place])
    return Encoder(projector.tensor_bytes, warm[0], most_of[0], warm[1], most_of[1])


def kinds_of(projector: ModelProfile) -> list[tuple[Kind, str]]:
    """The encoders of a file: one, or one for images and one for sound.

    Raises BadInputError as `encoder_memory`.
    """
    hyper = projector.hyper
    common = hyper.get("projector_type")
    found = []
    for modality in MODALITIES:
        # Files of before has_audio_encoder have images alone.
        default = modality == "vision" and not hyper.get("has_audio_encoder")
        if not hyper.get(f"has_{modality}_encoder", default):
            continue
        name = common or hyper.get(f"{modality}.projector_type")
        if name == "qwen2.5o":
            name = "qwen2.5vl_merger" if modality == "vision" else "qwen2a"
        found.append((modality, name))
    if projector.architecture != "clip" or not any(name for _, name in found):
        raise BadInputError(
            "is no projector", where=projector.name, hint="give the mmproj file of the model"
        )
    for modality, name in found:
        kind = TYPES.get(str(name))
        if kind is None or kind.modality != modality:
            known = ", ".join(name for name, kind in TYPES.items() if kind.modality == modality)
            raise BadInputError(
                f"the memory of projector type {name!r} is not known",
                where=projector.name,
                hint=f"known for {modality}: {known}",
            )
    return [(TYPES[str(name)], str(name)) for _, name in found]


def merge_of(projector: ModelProfile, kind: Kind) -> int:
    """Patches along a side of one token's square."""
    if kind.modality == "audio" or not kind.merge_key:
        return kind.merge
    return header_number(projector, f"vision.{kind.merge_key}", kind.merge)


def sizes(
    projector: ModelProfile, kind: Kind, flags: Mapping[str, Any]
) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Pixels of the warm-up image, of the largest, and how many of the largest go together."""
    if kind.modality == "audio":
        frames = (AUDIO_FRAMES, header_number(projector, "audio.num_mel_bins"))
        return frames, frames, 1
    image, patch = (
        header_number(projector, f"vision.{key}") for key in ("image_size", "patch_size")
    )
    step = patch * merge_of(projector, kind)
    tokens = kind.most_tokens
    if kind.most_pixels_key:
        tokens = header_number(projector, f"vision.{kind.most_pixels_key}") // step**2
    if kind.longest_edge_key:
        edge = header_number(projector, f"vision.{kind.longest_edge_key}", image)
        tokens = (edge // step) ** 2
    asked = most_tokens(flags) if tokens else 0
    tokens = asked or tokens
    most = (image, image)
    if tokens:
        wide, high = grid_of(tokens)
        most = (wide * step, high * step)
    start = most if not kind.warmup_tokens else (isqrt(kind.warmup_tokens) * step,) * 2
    if not kind.warmup_tokens and kind.most_tokens:
        start = (isqrt(tokens * step * step),) * 2
    batch = 1
    if kind.batches:
        each = max(1, (most[0] // step) * (most[1] // step))
        limit = int(flags.get("mtmd_batch_max_tokens") or BATCH_TOKENS)
        batch = max(1, limit // each)
    return start, most, batch
