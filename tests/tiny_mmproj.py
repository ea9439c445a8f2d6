"""Projector files (mmproj) of every type that the planner knows, without weights.

A stand-in for an encoder: header and tensor table are as a converter writes them, the data region$
a hole. The engine loads it and reserves its compute buffer; what it would see means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Shapes = dict[str, tuple[int, ...]]
"""In ggml's order, the row length first."""
TEXT = 576
"""Embedding of the text model (SmolLM2-135M)."""


@dataclass(frozen=True)
class Sample:
    """One projector: its type and sizes; the header's further keys in `keys`."""

    kind: str
    width: int = 1152
    hidden: int = 4304
    heads: int = 16
    layers: int = 3
    image: int = 448
    patch: int = 14
    text: int = TEXT
    merge: int = 2
    keys: dict[str, Any] = field(default_factory=dict)
    fused: bool = False
    gate: bool = False
    rms: bool = False

    @property
    def modality(self) -> str:
        audio = {"ultravox", "voxtral", "qwen2a", "meralion", "musicflamingo"}
        return "audio" if self.kind in audio else "vision"

    @property
    def side(self) -> int:
        return self.image // self.patch


SAMPLES: dict[str, Sample] = {
    "gemma3": Sample("gemma3", image=896),
    "gemma3-small": Sample("gemma3", 768, 3072, 12, image=448),
    "idefics3": Sample("idefics3", 768, 3072, 12, image=512, patch=16, merge=4),
    "lfm2": Sample("lfm2", 1152, 4304, image=256, patch=16),
    "janus_pro": Sample("janus_pro", 1024, 4096, image=384, patch=16),
    "phi4": Sample(
        "phi4", image=384, keys={"image_min_pixels": 65536, "image_max_pixels": 1048576}
    ),
    "llava-1.5": Sample("mlp", 1024, 4096, image=336),
    "llava-yi": Sample("mlp", 1280, 5120, image=448, keys={"yi": True}),
    "llava-features": Sample("mlp", 1024, 4096, image=336, keys={"feature_layer": [1, 2]}),
    "mobilevlm": Sample("ldp", 1024, 4096, image=336),
    "mobilevlm-2": Sample("ldpv2", 1024, 4096, image=336),
    "qwen2-vl": Sample("qwen2vl_merger", 1280, 5120, image=560),
    "qwen2.5-vl": Sample(
        "qwen2.5vl_merger", 1280, 3420, image=560, layers=2, keys={"n_wa_pattern": 8}, gate=True,
        rms=True,
    ),
    "qwen3-vl": Sample("qwen3vl_merger", 1152, 4304, image=768, patch=16, fused=True, layers=4),
    "qwen3-vl-small": Sample("qwen3vl_merger", 1024, 4096, image=768, patch=16, fused=True),
    "pixtral": Sample("pixtral", 1024, 4096, image=1024, patch=16, merge=1, gate=True, rms=True),
    "mistral-small": Sample("pixtral", 1024, 4096, image=1540, gate=True, rms=True),
    "lightonocr": Sample("lightonocr", 1024, 4096, image=1540, gate=True, rms=True),
    "internvl-300m": Sample("internvl", 1024, 4096, image=448, fused=False),
    "llama4": Sample("llama4", 1408, 5632, image=336),
    "kimi-vl": Sample("kimivl", 1152, 4304, image=896),
    "glm-4.1v": Sample("glm4v", 1536, 4096, 12, image=336, gate=True, rms=True, fused=True),
    "minicpm-v": Sample("resampler", text=1152, image=448),
    "gemma4": Sample("gemma4v", 768, 3072, 12, image=224, patch=16, merge=3, gate=True, rms=True),
    "ultravox": Sample("ultravox", 1280, 5120, 20),
    "voxtral": Sample("voxtral", 1280, 5120, 20),
    "qwen2-audio": Sample("qwen2a", 1280, 5120, 20),
    "music-flamingo": Sample("musicflamingo", 1280, 5120, 20),
    "meralion": Sample("meralion", 1280, 5120, 20),
}  # fmt: skip


def write(path: Path, sample: Sample) -> Path:
    """Write the projector; its data region takes no room on the disk."""
    writer = gguf.GGUFWriter(str(path), "clip")
    _keys(writer, sample)
    for name, shape in tensors(sample).items():
        vector = len(shape) == 1 or name.endswith((".bias", "position_embd.weight", "query"))
        kind = gguf.GGMLQuantizationType.F32 if vector else gguf.GGMLQuantizationType.F16
        elements = 1
        for dim in shape:
            elements *= dim
        size = elements * (4 if vector else 2)
        dtype = "float32" if vector else "float16"
        writer.add_tensor_info(name, list(reversed(shape)), np.dtype(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    offset = 0
    for table in writer.tensors:
        for info in table.values():
            offset += -(-info.nbytes // 32) * 32
    writer.close()
    end = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(-(-end // 32) * 32 + offset)
    return path


def _keys(writer: gguf.GGUFWriter, sample: Sample) -> None:
    part = f"clip.{sample.modality}"
    writer.add_bool(f"clip.has_{sample.modality}_encoder", True)
    writer.add_string("clip.projector_type", sample.kind)
    gelu = sample.kind not in {"pixtral", "qwen2.5vl_merger", "lightonocr", "glm4v", "mlp"}
    writer.add_bool("clip.use_gelu", gelu)
    writer.add_bool("clip.use_silu", not gelu and sample.kind != "mlp")
    for name, value in {
        "embedding_length": sample.width,
        "feed_forward_length": sample.hidden,
        "block_count": sample.layers,
        "attention.head_count": sample.heads,
        "projection_dim": sample.text,
    }.items():
        writer.add_uint32(f"{part}.{name}", value)
    writer.add_float32(f"{part}.attention.layer_norm_epsilon", 1e-6)
    if sample.modality == "audio":
        writer.add_uint32(f"{part}.num_mel_bins", 128)
        writer.add_uint32(f"{part}.projector.stack_factor", 4 if sample.kind == "voxtral" else 8)
        return
    writer.add_uint32(f"{part}.image_size", sample.image)
    writer.add_uint32(f"{part}.patch_size", sample.patch)
    writer.add_uint32(f"{part}.spatial_merge_size", sample.merge)
    if sample.kind != "gemma3":
        writer.add_uint32(f"{part}.projector.scale_factor", sample.merge)
    if sample.kind == "resampler":
        writer.add_int32("clip.minicpmv_version", 3)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"{part}.{name}", [0.5, 0.5, 0.5])
    for name, value in sample.keys.items():
        if name == "feature_layer":
            writer.add_array(f"{part}.{name}", value)
        elif name not in {"yi", "deepstack"}:
            writer.add_uint32(f"{part}.{name}", value)


def tensors(sample: Sample) -> Shapes:
    """Name and shape of every tensor."""
    found: Shapes = {}
    if sample.modality == "vision":
        found |= _patches(sample)
    else:
        found |= {
            "a.conv1d.1.weight": (3, 128, sample.width),
            "a.conv1d.1.bias": (1, sample.width),
            "a.conv1d.2.weight": (3, sample.width, sample.width),
            "a.conv1d.2.bias": (1, sample.width),
            "a.position_embd.weight": (sample.width, 1500),
            **_norm("a.post_ln", sample.width),
        }
    for layer in range(sample.layers):
        found |= _layer(sample, f"{sample.modality[0]}.blk.{layer}")
    return found | _AROUND[sample.kind](sample)


def _patches(sample: Sample) -> Shapes:
    width, patch, kind = sample.width, sample.patch, sample.kind
    found: Shapes = {"v.patch_embd.weight": (patch, patch, 3, width)}
    if kind == "llama4":
        found = {"v.patch_embd.weight": (patch * patch * 3, width)}
    if kind in {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "glm4v"}:
        found["v.patch_embd.weight.1"] = (patch, patch, 3, width)
    unbiased = {"qwen2vl_merger", "qwen2.5vl_merger", "pixtral", "lightonocr", "mlp", "ldp"}
    if kind not in unbiased | {"ldpv2", "llama4", "gemma4v"}:
        found["v.patch_embd.bias"] = (width,)
    classes = kind in {"mlp", "ldp", "ldpv2", "internvl", "llama4"}
    if classes:
        found["v.class_embd"] = (width,)
    if kind in {"mlp", "ldp", "ldpv2", "llama4"}:
        found |= _norm("v.pre_ln", width)
    if kind in {"pixtral", "lightonocr"}:
        found["v.pre_ln.weight"] = (width,)
    if kind == "gemma4v":
        found["v.position_embd.weight"] = (width, 1024, 2)
    elif kind == "resampler":
        found["v.position_embd.weight"] = (width, 4900)
    elif kind not in {"qwen2vl_merger", "qwen2.5vl_merger", "pixtral", "lightonocr"}:
        found["v.position_embd.weight"] = (width, sample.side**2 + classes)
    if kind not in {"mlp", "ldp", "ldpv2", "internvl", "pixtral", "lightonocr", "gemma4v"}:
        found |= _norm("v.post_ln", width, bias=not sample.rms)
    return found


def _layer(sample: Sample, name: str) -> Shapes:
    width, hidden = sample.width, sample.hidden
    found = {**_norm(f"{name}.ln1", width, bias=not sample.rms)}
    found |= _norm(f"{name}.ln2", width, bias=not sample.rms)
    biased = not sample.rms or sample.kind == "qwen2.5vl_merger"
    if sample.fused:
        found |= _linear(f"{name}.attn_qkv", width, 3 * width, bias=biased)
    else:
        for part in "qkv":
            bias = biased and not (part == "k" and sample.modality == "audio")
            found |= _linear(f"{name}.attn_{part}", width, width, bias=bias)
    found |= _linear(f"{name}.attn_out", width, width, bias=biased)
    found |= _linear(f"{name}.ffn_up", width, hidden, bias=biased)
    found |= _linear(f"{name}.ffn_down", hidden, width, bias=biased)
    if sample.gate:
        found |= _linear(f"{name}.ffn_gate", width, hidden, bias=biased)
    if sample.kind == "internvl":
        found |= {f"{name}.ls1.weight": (width,), f"{name}.ls2.weight": (width,)}
    if sample.kind == "gemma4v":
        head = width // sample.heads
        found |= {f"{name}.attn_q_norm.weight": (head,), f"{name}.attn_k_norm.weight": (head,)}
        found |= {f"{name}.attn_post_norm.weight": (width,)}
        found |= {f"{name}.ffn_post_norm.weight": (width,)}
    return found


def _norm(name: str, width: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (width,)} | ({f"{name}.bias": (width,)} if bias else {})


def _linear(name: str, given: int, out: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (given, out)} | ({f"{name}.bias": (out,)} if bias else {})


def _mlp(names: tuple[str, str], given: int, inner: int, out: int, *, bias: bool = True) -> Shapes:
    first = _linear(names[0], given, inner, bias=bias)
    return first | _linear(names[1], inner, out, bias=bias)


def _gemma3(s: Sample) -> Shapes:
    return {
        "mm.input_projection.weight": (s.text, s.width),
        "mm.soft_emb_norm.weight": (s.width,),
    }


def _llava(s: Sample) -> Shapes:
    given = s.width * (len(s.keys.get("feature_layer") or [0]))
    if s.keys.get("yi"):
        found = _linear("mm.0", given, s.text) | _norm("mm.1", s.text)
        return found | _linear("mm.3", s.text, s.text) | _norm("mm.4", s.text)
    return _mlp(("mm.0", "mm.2"), given, s.text, s.text)


def _ldp(s: Sample) -> Shapes:
    found = _mlp(("mm.model.mlp.1", "mm.model.mlp.3"), s.width, s.text, s.text)
    for number in (1, 2):
        name = f"mm.model.mb_block.{number}.block"
        found[f"{name}.0.0.weight"] = (3, 3, 1, s.text)
        found |= _norm(f"{name}.0.1", s.text)
        found |= _mlp((f"{name}.1.fc1", f"{name}.1.fc2"), s.text, s.text // 4, s.text)
        found |= _linear(f"{name}.2.0", s.text, s.text, bias=False) | _norm(f"{name}.2.1", s.text)
    return found


def _ldp2(s: Sample) -> Shapes:
    found = _mlp(("mm.model.mlp.0", "mm.model.mlp.2"), s.width, s.text, s.text)
    return {**found, "mm.model.peg.0.weight": (3, 3, 1, s.text), "mm.model.peg.0.bias": (s.text,)}


def _qwen3vl(s: Sample) -> Shapes:
    inner = 4 * s.width
    found = _mlp(("mm.0", "mm.2"), inner, inner, s.text)
    for layer in (0, 1) if s.keys.get("deepstack", True) else ():
        name = f"v.deepstack.{layer}"
        found |= _norm(f"{name}.norm", inner)
        found |= _mlp((f"{name}.fc1", f"{name}.fc2"), inner, inner, s.text)
    return found


def _pixtral(s: Sample) -> Shapes:
    found = _mlp(("mm.1", "mm.2"), s.width, s.text, s.text, bias=False)
    if s.kind == "pixtral":
        found["v.token_embd.img_break"] = (s.text,)
    if s.merge > 1:
        found["mm.input_norm.weight"] = (s.width,)
        found["mm.patch_merger.weight"] = (s.width * s.merge**2, s.width)
    return found


def _internvl(s: Sample) -> Shapes:
    inner = s.width * s.merge**2
    found = _norm("mm.model.mlp.0", inner)
    return found | _mlp(("mm.model.mlp.1", "mm.model.mlp.3"), inner, s.text, s.text)


def _llama4(s: Sample) -> Shapes:
    inner = s.width * s.merge**2
    found = _mlp(("mm.model.mlp.1", "mm.model.mlp.2"), inner, 4096, 4096, bias=False)
    return {**found, "mm.model.fc.weight": (4096, s.text)}


def _kimivl(s: Sample) -> Shapes:
    inner = s.width * s.merge**2
    return _norm("mm.input_norm", s.width) | _mlp(("mm.1", "mm.2"), inner, inner, s.text)


def _glm4v(s: Sample) -> Shapes:
    found = _mlp(("mm.up", "mm.down"), s.text, 3 * s.text, s.text, bias=False)
    found |= _linear("mm.gate", s.text, 3 * s.text, bias=False)
    found |= _linear("mm.model.fc", s.text, s.text, bias=False) | _norm("mm.post_norm", s.text)
    found["mm.patch_merger.weight"] = (s.merge, s.merge, s.width, s.text)
    found["mm.patch_merger.bias"] = (s.text,)
    return {**found, "v.norm_embd.weight": (s.width,)}


def _resampler(s: Sample) -> Shapes:
    found: Shapes = {
        "resampler.pos_embed_k": (s.text, 4900),
        "resampler.query": (s.text, 64),
        "resampler.proj.weight": (s.text, s.text),
        "resampler.kv.weight": (s.width, s.text),
    }
    for part in ("q", "k", "v", "out"):
        found |= _linear(f"resampler.attn.{part}", s.text, s.text)
    for part in ("q", "kv", "post"):
        found |= _norm(f"resampler.ln_{part}", s.text)
    return found


def _audio(s: Sample) -> Shapes:
    stacked = s.width * (4 if s.kind == "voxtral" else 8)
    if s.kind == "qwen2a":
        return _linear("mm.a.fc", s.width, s.text)
    if s.kind == "ultravox":
        return {
            "mm.a.norm_pre.weight": (stacked,),
            "mm.a.mlp.1.weight": (stacked, 2 * s.text),
            "mm.a.norm_mid.weight": (s.text,),
            "mm.a.mlp.2.weight": (s.text, s.text),
        }
    if s.kind == "meralion":
        found = _norm("mm.a.norm_pre", stacked)
        for number, (given, out) in enumerate(
            ((stacked, 6400), (6400, 6400), (6400, 6400), (6400, s.text))
        ):
            found |= _linear(f"mm.a.mlp.{number}", given, out)
        return found
    if s.kind == "voxtral":
        return _mlp(("mm.a.mlp.1", "mm.a.mlp.2"), stacked, s.text, s.text, bias=False)
    return _mlp(("mm.a.mlp.1", "mm.a.mlp.2"), s.width, s.text, s.text)


_AROUND: dict[str, Any] = {
    "gemma3": _gemma3,
    "idefics3": lambda s: {"mm.model.fc.weight": (s.width * s.merge**2, s.text)},
    "lfm2": lambda s: {
        **_norm("mm.input_norm", s.width * s.merge**2),
        **_mlp(("mm.1", "mm.2"), s.width * s.merge**2, 2560, s.text),
    },
    "janus_pro": lambda s: _mlp(("mm.0", "mm.1"), s.width, s.text, s.text),
    "phi4": lambda s: _mlp(("mm.0", "mm.2"), s.width, s.text, s.text),
    "mlp": _llava,
    "ldp": _ldp,
    "ldpv2": _ldp2,
    "qwen2vl_merger": lambda s: _mlp(("mm.0", "mm.2"), 4 * s.width, 4 * s.width, s.text),
    "qwen2.5vl_merger": lambda s: _mlp(("mm.0", "mm.2"), 4 * s.width, 4 * s.width, s.text),
    "qwen3vl_merger": _qwen3vl,
    "pixtral": _pixtral,
    "lightonocr": _pixtral,
    "internvl": _internvl,
    "llama4": _llama4,
    "kimivl": _kimivl,
    "glm4v": _glm4v,
    "resampler": _resampler,
    "gemma4v": lambda s: _linear("mm.input_projection", s.width, s.text, bias=False),
    "ultravox": _audio,
    "voxtral": _audio,
    "qwen2a": _audio,
    "meralion": _audio,
    "musicflamingo": _audio,
}
