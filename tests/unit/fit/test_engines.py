"""vLLM and Ollama, Hugging Face folders, remote headers, and the choice between engines."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.descriptors import descriptor, profile, write_gguf

from infra_llm.core.errors import InfraLlmError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.vllm import Launch, Shape, cache_tokens, parallelism
from infra_llm.core.hardware import Cpu, Gpu, GpuLink, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.readers.models import read_model, read_remote

LLAMA = Shape(32, 32, 8, 128, 4096, 14336, 128256, 131072, 16_060_522_496, 0)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}


def folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    size = 14336 * 17500 * 2
    tensors = {
        f"model.layers.{n}.mlp.up_proj.weight": {
            "dtype": "BF16",
            "shape": [14336, 17500],
            "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(32)
    }
    header = json.dumps(tensors).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 32 * size)
    return path


def machine(count: int = 1, vram: int = 24576, linked: bool = False) -> HostHardware:
    gpus = [
        Gpu(
            index=n,
            vendor="nvidia",
            name="card",
            vram_total_mib=vram,
            memory_bandwidth_gbs=900,
            compute_capability="8.6",
            links=[GpuLink(peer="x", kind="NV4")] if linked else [],
        )
        for n in range(count)
    ]
    return HostHardware(
        gpus=gpus,
        memory=Memory(total_mib=65536),
        cpu=Cpu(cores=8, threads=8, usable_threads=8),
    )


@pytest.mark.parametrize(
    ("launch", "total", "logged"),
    [  # gt076: RTX 3090, 1952 blocks of 16; gt078: 80 GB, 54569 MiB of 128 KiB
        (Launch(utilization=0.9, tokens=20000), 24145.9, 1952 * 16),
        (Launch(utilization=0.9, tokens=8192), 81121.3, 54569 * 8),
    ],
)
def test_vllm_cache_is_within_twelve_percent_of_the_logs(
    launch: Launch, total: float, logged: int
) -> None:
    assert cache_tokens(LLAMA, launch, total, 300.0) == pytest.approx(logged, rel=0.05)


def test_tensor_parallel_needs_nvlink_and_dividing_heads() -> None:
    assert parallelism(LLAMA, machine(4, linked=True).gpus) == (4, 1)
    assert parallelism(LLAMA, machine(4).gpus) == (1, 4)
    assert parallelism(LLAMA, machine(3, linked=True).gpus) == (1, 3)


def test_a_hugging_face_folder_is_planned_for_vllm(tmp_path: Path) -> None:
    model = read_model(str(folder(tmp_path / "m", CONFIG)))
    assert model.tensor_bytes == 32 * 14336 * 17500 * 2
    plan = plan_launch(machine(), model, FitWishes(users=4), "auto")
    assert plan.engine == "vllm"
    assert plan.fits
    device = plan.devices[0]
    assert device.high_mib <= device.capacity_mib
    assert plan.flags["max_model_len"] <= plan.max_context


def test_vllm_flags_are_pinned_as_vllm_spells_them(tmp_path: Path) -> None:
    model = read_model(str(folder(tmp_path / "m", CONFIG)))
    flags = ("--max-model-len", "4096", "--enforce-eager", "--gpu-memory-utilization=0.8")
    plan = plan_launch(machine(), model, FitWishes(engine_flags=flags), "vllm")
    assert plan.flags["max_model_len"] == 4096
    assert plan.flags["enforce_eager"] is True
    assert plan.flags["gpu_memory_utilization"] == 0.8


def test_vllm_says_how_much_is_missing(tmp_path: Path) -> None:
    model = read_model(str(folder(tmp_path / "m", CONFIG)))
    wishes = FitWishes(engine_flags=("--max-model-len", "131072"))
    plan = plan_launch(machine(vram=20480), model, wishes, "vllm")
    assert not plan.fits
    assert "missing" in plan.binding_constraint
    assert plan.alternatives


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 0}, {"num_attention_heads": "many"}, {"kv_lora_rank": 512}],
)
def test_odd_configurations_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    model = read_model(str(folder(tmp_path / "m", CONFIG | change)))
    with pytest.raises(InfraLlmError):
        plan_launch(machine(), model, FitWishes(), "vllm")


@pytest.mark.parametrize("damage", ["missing", "no json", "cut header"])
def test_damaged_folders_are_refused(tmp_path: Path, damage: str) -> None:
    path = folder(tmp_path / "m", CONFIG)
    if damage == "missing":
        (path / "config.json").unlink()
    elif damage == "no json":
        (path / "config.json").write_text("{")
    else:
        (path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(InfraLlmError):
        read_model(str(path))


def test_ollama_gets_the_plan_in_its_own_words(tmp_path: Path) -> None:
    model = profile("llama-3.1-8b.Q4_K_M", tmp_path)
    plan = plan_launch(machine(), model, FitWishes(context=16384, parallel=2), "ollama")
    assert plan.flags["parameters"]["num_ctx"] == 8192
    assert plan.flags["parameters"]["num_gpu"] == 33
    assert plan.flags["environment"]["OLLAMA_NUM_PARALLEL"] == 2


def test_a_remote_header_takes_a_few_mib(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(descriptor("llama-3.1-70b.Q4_K_M"), path, tokens=128_256)
    asked: list[int] = []

    def fetch(address: str, first: int | None) -> tuple[bytes, int]:
        assert address == "https://models.example/model.gguf"
        asked.append(first or 0)
        with path.open("rb") as file:
            return file.read(first or -1), path.stat().st_size

    model = read_remote("https://models.example/model.gguf", fetch)
    assert isinstance(model, ModelProfile)
    assert model.parameters == descriptor("llama-3.1-70b.Q4_K_M")["params"]
    assert max(asked) <= 8 << 20


def test_an_engine_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InfraLlmError, match="unknown engine"):
        plan_launch(machine(), profile("llama-2-7b.Q4_0", tmp_path), FitWishes(), "magic")


def test_layers_placed_by_hand_get_the_engines_split(tmp_path: Path) -> None:
    model = profile("llama-3.1-8b.Q4_K_M", tmp_path)
    wishes = FitWishes(engine_flags=("-ngl", "99"))
    plan = plan_launch(machine(2), model, wishes)
    assert plan.flags["tensor_split"] == [1, 1]
    assert plan.flags["n_gpu_layers"] == 99
