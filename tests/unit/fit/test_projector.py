"""An encoder beside the model: what build 11549's server reserved, and where it counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import profile
from tests.tiny_mmproj import SAMPLES, Sample, write

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.llama_cpp.projector import Encoder, encoder_memory, kinds_of
from infra_llm.core.fit.llama_cpp.projectors import TYPES, grid_of
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import read_gguf

MIB = 1 << 20
RECORDED = Path(__file__).parents[2] / "fixtures" / "ground-truth" / "encoders.json"
ROWS: list[dict[str, Any]] = json.loads(RECORDED.read_text())["rows"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def encoder(folder: Path, sample: Sample) -> ModelProfile:
    path = write(folder / f"{sample.kind}-{abs(hash(str(sample)))}.gguf", sample)
    found = read_gguf(path)
    path.unlink()
    return found


def memory(projector: ModelProfile, gpus: int = 0, **flags: Any) -> Encoder:
    return encoder_memory(projector, flags, gpus=gpus, cuda=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['sample']}-{row['flash']}")
def test_the_buffer_is_the_one_that_the_server_logs(folder: Path, row: dict[str, Any]) -> None:
    found = memory(encoder(folder, SAMPLES[row["sample"]]), flash_attn=row["flash"])
    assert found.weights / MIB == pytest.approx(row["weights_mib"], abs=0.006)
    assert found.compute / MIB == pytest.approx(row["compute_mib"], abs=0.006)
    assert found.largest >= found.compute


def test_every_type_was_met() -> None:
    assert {SAMPLES[row["sample"]].kind for row in ROWS} == set(TYPES)


def test_a_real_card_reserved_as_much(folder: Path) -> None:
    """gt045: Qwen3.6 27B's encoder on an RTX 5090, CUDA0 248.10 MiB and CPU 24.93 MiB."""
    sample = dataclasses.replace(
        SAMPLES["qwen3-vl"], layers=27, text=5120, keys={"deepstack": False}
    )
    found = memory(encoder(folder, sample), gpus=1)
    assert found.compute / MIB == pytest.approx(248.10, abs=0.01)
    assert found.host / MIB == pytest.approx(24.93, abs=0.01)


def test_the_largest_image_counts_and_may_be_limited(folder: Path) -> None:
    seeing = encoder(folder, SAMPLES["qwen2-vl"])
    warm, limited = memory(seeing), memory(seeing, image_max_tokens=46 * 46)
    assert warm.largest > 1.8 * warm.compute, "4,096 tokens where 2,116 are reserved for"
    assert limited.largest == limited.compute == warm.compute
    assert grid_of(1120) == (35, 32)


def test_heads_without_a_kernel_hold_the_scores(folder: Path) -> None:
    """Head size 192 has no flash attention on CUDA: 1,024 x 1,024 scores of each head."""
    odd = dataclasses.replace(SAMPLES["gemma3-small"], width=768, heads=4)
    seeing = encoder(folder, odd)
    assert memory(seeing, gpus=1).compute > memory(seeing, gpus=0).compute + 4 * MIB


def with_keys(model: ModelProfile, **keys: Any) -> ModelProfile:
    hyper = {**model.hyper, **{name.replace("__", "."): value for name, value in keys.items()}}
    return dataclasses.replace(model, hyper=hyper)


def test_a_file_may_hold_two(folder: Path) -> None:
    both = with_keys(
        encoder(folder, SAMPLES["qwen2.5-vl"]),
        projector_type="qwen2.5o",
        has_audio_encoder=True,
    )
    assert [name for _, name in kinds_of(both)] == ["qwen2.5vl_merger", "qwen2a"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"projector_type": "gemma3nv"}, "'gemma3nv' is not known"),
        ({"projector_type": "whisper9"}, "'whisper9' is not known"),
        ({"projector_type": None}, "is no projector"),
        ({"vision__image_size": 0}, r"clip\.vision\.image_size is 0"),
        ({"vision__patch_size": None}, r"lacks clip\.vision\.patch_size"),
    ],
)
def test_what_is_not_known_is_refused(folder: Path, change: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInputError, match=word):
        memory(with_keys(encoder(folder, SAMPLES["gemma3"]), **change))


def test_another_model_and_a_damaged_file_are_refused(folder: Path) -> None:
    seeing = encoder(folder, SAMPLES["gemma3"])
    with pytest.raises(BadInputError, match="is no projector"):
        memory(dataclasses.replace(seeing, architecture="llama"))
    less = tuple(group for group in seeing.tensors if group.name != "mm.soft_emb_norm.weight")
    with pytest.raises(BadInputError, match=r"mm\.soft_emb_norm\.weight is missing"):
        memory(dataclasses.replace(seeing, tensors=less))


def machine(*vram: int) -> HostHardware:
    gpus = [
        Gpu(index=n, vendor="nvidia", name=f"card {n}", vram_total_mib=size)
        for n, size in enumerate(vram)
    ]
    cpu = Cpu(cores=8, threads=8, usable_threads=8)
    return HostHardware(gpus=gpus, memory=Memory(total_mib=65536), cpu=cpu)


@pytest.mark.parametrize("vram", [(), (24576,), (12288, 12288)])
def test_it_lies_on_the_first_gpu_or_the_host(folder: Path, vram: tuple[int, ...]) -> None:
    model = profile("gemma-3-4b.Q4_K_M", folder)
    both = dataclasses.replace(model, projector=encoder(folder, SAMPLES["gemma3"]))
    wishes = FitWishes(context=4096, gpu_layers=99 if vram else 0, tensor_split=(1.0,) * len(vram))
    plain, seeing = (plan_launch(machine(*vram), each, wishes) for each in (model, both))
    rows = list(zip([*plain.devices, plain.host], [*seeing.devices, seeing.host], strict=True))
    more = [after.total_mib - before.total_mib for before, after in rows]
    # On the host the buffer counts from when an image is seen.
    assert more[0] == pytest.approx(107.86 + (121.25 if vram else 0), abs=0.01)
    pixels = 896 * 896 * 3 * 4 / MIB
    assert more[1:] == pytest.approx([0.0] * (len(more) - 2) + [pixels] if vram else [], abs=0.2)
    first = rows[0][1].high_mib - rows[0][0].high_mib
    assert first == pytest.approx(107.86 + 1.05 * 121.25, abs=0.01)
    assert seeing.engine_estimate == plain.engine_estimate, "the engine's tool knows none"
    assert any(reason.text.startswith("encoder gemma3 on") for reason in seeing.why)


def test_layers_make_room_for_it(folder: Path) -> None:
    model = profile("gemma-3-12b.Q4_K_M", folder)
    both = dataclasses.replace(model, projector=encoder(folder, SAMPLES["gemma3"]))
    for vram in ((8192,), (5000, 5000)):
        plan = plan_launch(machine(*vram), both, FitWishes(context=4096))
        assert plan.fits
        assert all(entry.high_mib <= entry.capacity_mib for entry in plan.devices)
