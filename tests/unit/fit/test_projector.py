"""An image encoder beside the model: what build 11434's server reserved, and where it counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.descriptors import profile

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.llama_cpp.projector import projector_compute, with_projector
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile, TensorGroup

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def encoder(
    kind: str, image: int, patch: int, width: int, hidden: int, architecture: str = "clip"
) -> ModelProfile:
    hyper = {
        "projector_type": kind,
        "vision.image_size": image,
        "vision.patch_size": patch,
        "vision.embedding_length": width,
        "vision.feed_forward_length": hidden,
    }
    weights = (TensorGroup("v.patch_embd.weight", (width,), "F16", 100 * MIB),)
    return ModelProfile(architecture, name="mmproj", hyper=hyper, tensors=weights)


@pytest.mark.parametrize(
    ("shape", "mib"),
    [
        (("gemma3", 896, 14, 1152, 4304), 121.25),
        (("gemma3", 448, 14, 768, 3072), 21.00),
        (("idefics3", 512, 16, 768, 3072), 21.00),
        (("idefics3", 364, 14, 1152, 4304), 20.01),
    ],
)
def test_the_buffer_is_the_one_that_the_server_logs(
    shape: tuple[str, int, int, int, int], mib: float
) -> None:
    """Lines "reserve_compute_meta: CPU compute buffer size" for files of these headers."""
    assert projector_compute(encoder(*shape)) / MIB == pytest.approx(mib, abs=0.005)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (encoder("qwen3vl_merger", 896, 14, 1152, 4304), "'qwen3vl_merger' is not known"),
        (encoder("gemma3", 896, 14, 1152, 4304, "llama"), "is no projector"),
        (encoder("gemma3", 0, 14, 1152, 4304), "lacks clip.vision.image_size"),
    ],
)
def test_what_is_not_known_is_refused(given: ModelProfile, word: str) -> None:
    with pytest.raises(BadInputError, match=word):
        projector_compute(given)


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
    both = with_projector(model, encoder("gemma3", 896, 14, 1152, 4304))
    wishes = FitWishes(context=4096, gpu_layers=99 if vram else 0, tensor_split=(1.0,) * len(vram))
    plain, seeing = (plan_launch(machine(*vram), each, wishes) for each in (model, both))
    rows = zip([*plain.devices, plain.host], [*seeing.devices, seeing.host], strict=True)
    more = [after.total_mib - before.total_mib for before, after in rows]
    assert more[0] == pytest.approx(100 + 121.25, abs=0.01)
    assert more[1:] == [0.0] * (len(more) - 1)
    assert seeing.engine_estimate == plain.engine_estimate, "the engine's tool knows none"


def test_layers_make_room_for_it(folder: Path) -> None:
    model = profile("gemma-3-12b.Q4_K_M", folder)
    both = with_projector(model, encoder("gemma3", 896, 14, 1152, 4304))
    for vram in ((8192,), (5000, 5000)):
        plan = plan_launch(machine(*vram), both, FitWishes(context=4096))
        assert plan.fits
        assert all(entry.high_mib <= entry.capacity_mib for entry in plan.devices)
