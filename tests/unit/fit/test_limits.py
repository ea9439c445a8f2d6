"""Odd numbers and flags: refused by name, or told that they are not reckoned with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.descriptors import descriptor, profile, write_gguf
from tests.tiny_llama import write_folder

from infra_llm.commands.fit import fit
from infra_llm.commands.hosts import gpus_named, vendor_named
from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.vllm_flags import parse_flags
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.core.model import ModelProfile
from infra_llm.core.speed import cpu_seconds, speed_class
from infra_llm.readers.models import read_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile("tinyllama-1.1b.Q4_K_M", tmp_path_factory.mktemp("models"))


def machine(*vram: int, capability: str = "8.6") -> HostHardware:
    cards = [
        Gpu(index=n, vendor="nvidia", name=f"card {n}", vram_total_mib=size,
            compute_capability=capability)
        for n, size in enumerate(vram)
    ]  # fmt: skip
    cpu = Cpu(cores=8, threads=8, usable_threads=8)
    return HostHardware(gpus=cards, memory=Memory(total_mib=65536), cpu=cpu)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-np 0", "--parallel is 0"),
        ("-np 257", "--parallel is 257"),
        ("-c -5", "--ctx-size is -5"),
        ("-ub 0", "--ubatch-size is 0"),
        ("-ncmoe -3", "--n-cpu-moe is -3"),
        ("-fa maybe", "--flash-attn maybe is not planned for"),
        ("-sm row", "--split-mode row is not planned for"),
        ("-ts nan,1", "share of the tensor split"),
        ("-ts -1,2", "share of the tensor split"),
        ("-tb 99999999999", "--threads-batch is 99999999999"),
        ("-t -2", "--threads is -2"),
        ("--image-max-tokens 99999999999", "--image-max-tokens is 99999999999"),
        ("-c 1_000", "-c needs a whole number, not '1_000'"),
        ("-c", "-c needs a value"),
        ("-sm none -mg 5", "--main-gpu 5: there are 2 GPUs"),
        ("-ot .*=CUDA9", "there are 2 GPUs"),
        ("--mmap=false", "--mmap takes no value, not 'false'"),
        ("--no-mmap=1", "--no-mmap takes no value"),
        ("--kv-unified=maybe", "--kv-unified takes no value, not 'maybe'"),
        ("-", "'-' is no engine flag"),
        ("--=3", "'--=3' is no engine flag"),
        ("---x", "'---x' is no engine flag"),
        ("word", "'word' is no engine flag"),
        ("-md /nope", "--model-draft loads a second model"),
        ("-mm /nope", "--mmproj loads a second model"),
    ],
)
def test_flags_that_the_engine_refuses(model: ModelProfile, words: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told) as caught:
        plan_launch(machine(8192, 8192), model, FitWishes(engine_flags=tuple(words.split())))
    assert caught.value.hint


def test_a_second_model_is_given_by_fits_own_options(model: ModelProfile) -> None:
    both = dataclasses.replace(model, draft=model)
    wishes = FitWishes(context=2048, draft_file="draft.gguf")
    assert plan_launch(machine(8192), both, wishes).flags["model_draft"] == "draft.gguf"
    twice = dataclasses.replace(wishes, engine_flags=("-md", "other.gguf"))
    with pytest.raises(BadInputError, match="second model") as caught:
        plan_launch(machine(8192), both, twice)
    assert "--model-draft FILE" in caught.value.hint
    with pytest.raises(BadInputError, match="vLLM loads no second"):
        plan_launch(machine(8192), both, wishes, "vllm")


@pytest.mark.parametrize("wish", [{"ubatch": 8192}, {"context": (1 << 31) - 1}])
def test_no_part_of_a_plan_is_less_than_nothing(model: ModelProfile, wish: dict[str, Any]) -> None:
    """Most of a large compute buffer is not written by the verification's prompt."""
    host = plan_launch(machine(), model, FitWishes(**wish)).host
    parts = (host.weights_mib, host.kv_cache_mib, host.compute_mib, host.overhead_mib)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(host.total_mib)
    assert host.untouched_mib > host.compute_mib
    assert host.high_mib >= host.total_mib + host.untouched_mib


def test_what_stands_for_the_engines_own_choice_is_solved(model: ModelProfile) -> None:
    plain = plan_launch(machine(8192), model, FitWishes())
    words = ("-c", "0", "-t", "-1", "-ngl", "-1")
    told = plan_launch(machine(8192), model, FitWishes(engine_flags=words))
    assert told.flags["ctx_size"] == plain.flags["ctx_size"]
    assert told.flags["threads"] == plain.flags["threads"]
    assert told.flags["n_gpu_layers"] >= plain.flags["n_gpu_layers"]


def test_one_card_serves_where_nothing_is_split(model: ModelProfile) -> None:
    words = ("-sm", "none", "-mg", "1")
    plan = plan_launch(machine(8192, 4096), model, FitWishes(context=2048, engine_flags=words))
    assert [entry.capacity_mib for entry in plan.devices] == [4096.0]


def test_flags_that_are_not_reckoned_with_are_named(model: ModelProfile) -> None:
    words = ("--no-such-flag", "--temp", "0.7")
    plan = plan_launch(machine(8192), model, FitWishes(engine_flags=words))
    assert "not reckoned with: --no-such-flag" in plan.warnings
    long = plan_launch(machine(24576), model, FitWishes(context=1 << 17))
    assert any("that the model was trained for" in text for text in long.warnings)


@pytest.mark.parametrize(
    "wishes",
    [
        FitWishes(context=1 << 31),
        FitWishes(minimum_decode=math.nan),
        FitWishes(minimum_decode=math.inf),
    ],
)
def test_wishes_that_can_not_be_meant(model: ModelProfile, wishes: FitWishes) -> None:
    with pytest.raises(BadInputError):
        plan_launch(machine(8192), model, wishes)


@pytest.mark.parametrize(
    "words",
    [
        "--vram nan",
        "--vram -1",
        "--vram 1e-6",
        "--ram inf",
        "--ram 0",
        "--ram 2000000",
        "--ram 1e-6",
    ],
)
def test_memory_that_is_none(tmp_path: Path, words: str) -> None:
    done = CliRunner().invoke(fit, [str(tmp_path), "--gpu", "RTX 3060 12GB", *words.split()])
    assert isinstance(done.exception, BadInputError)
    assert done.exception.hint == "give GiB, more than 0 and at most 1,048,576"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.gguf", "--ram", "8", "--vram", "24"], "--vram is the memory of a GPU"),
        (["", "--ram", "8"], "the model's name is empty"),
        (["model.gguf", "--ram", "8", "--mmproj", ""], "the model's name is empty"),
        (["model.gguf", "--ram", "8", "--model-draft", ""], "the model's name is empty"),
        (["model.gguf", "--ram", "8", "--tensor-split", ""], "'' is no list of numbers"),
        (["model.gguf", "--hardware", "", "--gpu", "4090"], "exclude each other"),
    ],
)
def test_options_without_effect_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    write_gguf(descriptor("tinyllama-1.1b.Q4_0"), tmp_path / "model.gguf")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(fit, words)
    assert isinstance(done.exception, BadInputError)
    assert told in done.exception.what
    assert done.exception.hint


def test_a_build_before_the_first_is_refused() -> None:
    done = CliRunner().invoke(fit, ["x.gguf", "--ram", "8", "--engine-build", "-1"])
    assert done.exit_code == 2
    assert "--engine-build" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--gpu-memory-utilization 1.5", "utilization is 1.5"),
        ("--max-model-len x", "max-model-len is 'x'"),
        ("-tp 0", "tensor-parallel-size is 0"),
        ("--kv-cache-dtype int3", "no cache of type 'int3'"),
        ("-z 1", "is no engine flag"),
    ],
)
def test_what_vllm_refuses(words: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        parse_flags(FitWishes(engine_flags=tuple(words.split())))


def test_vllms_own_ways_of_writing() -> None:
    found = parse_flags(FitWishes(engine_flags=("--max-model-len", "32k", "-tp=2")))
    assert found == {"max_model_len": 32000, "tensor_parallel_size": 2}


@pytest.mark.parametrize(
    ("cards", "change", "stages"), [(7, {}, 2), (2, {}, 2), (1, {"head_dim": None}, 1)]
)
def test_a_stage_has_a_layer_at_least(
    tmp_path: Path, cards: int, change: dict[str, Any], stages: int
) -> None:
    model = read_model(str(write_folder(tmp_path)))
    model.hyper.update(change)
    plan = plan_launch(machine(*[24576] * cards), model, FitWishes(), "vllm")
    assert plan.flags["pipeline_parallel_size"] == stages, "two layers"


def test_old_cards_are_no_cards_for_vllm(tmp_path: Path) -> None:
    model = read_model(str(write_folder(tmp_path)))
    with pytest.raises(BadInputError, match=r"card 0 has 6\.1"):
        plan_launch(machine(11264, capability="6.1"), model, FitWishes(), "vllm")


def test_a_card_of_no_table_is_taken_by_its_name_and_memory(model: ModelProfile) -> None:
    assert [vendor_named(name) for name in ("RX 580", "Arc Z9", "GTX 970", "MI25")] == [
        "amd", "intel", "nvidia", "amd"
    ]  # fmt: skip
    done = CliRunner().invoke(fit, ["x.gguf", "--gpu", "GTX 970", "--ram", "16"])
    assert isinstance(done.exception, BadInputError)
    assert "--vram" in str(done.exception.hint)
    host = machine()
    host.gpus.extend(gpus_named("RX 580", 0, vram=8))
    plan = plan_launch(host, model, FitWishes(context=2048))
    assert "the bandwidth of RX 580 is not known: speed is for 300 GB/s" in plan.warnings


def test_cards_that_no_build_serves_are_named(model: ModelProfile) -> None:
    plan = plan_launch(machine(12288, capability="3.7"), model, FitWishes(context=2048))
    assert any("card 0 has compute capability 3.7" in text for text in plan.warnings)


@pytest.mark.parametrize(
    ("text", "speed"),
    [("8.6.1", "ampere"), ("9.0a", "hopper"), ("8.x", "ampere-hbm"), ("12", "blackwell"),
     ("²", "ampere"), ("sm_86", "ampere"), ("9" * 5000, "blackwell")],
)  # fmt: skip
def test_odd_compute_capabilities_are_read_as_far_as_they_go(
    model: ModelProfile, text: str, speed: str
) -> None:
    host = machine(8192, capability=text)
    assert speed_class(host.gpus[0]) == speed
    assert plan_launch(host, model, FitWishes(context=2048, users=8), "auto").fits


def test_few_cores_unpack_slower_than_memory_delivers() -> None:
    """Two cores of this project's machine: SmolLM2 Q4_1 (134.5M weights) 74 to 84 tokens/s."""
    two, many = Cpu(cores=2, threads=2), Cpu(cores=64, threads=128)
    read = 92 << 20
    assert cpu_seconds(two, 2, read, 0, 30, bits=5) > cpu_seconds(two, 2, read, 0, 30)
    assert cpu_seconds(many, 64, read, 0, 30, bits=5) == cpu_seconds(many, 64, read, 0, 30)
    slow, fast = (Gpu(0, "nvidia", compute_capability=c) for c in ("6.0", "6.1"))
    assert (speed_class(slow), speed_class(fast)) == ("no-dp4a", "pascal")
    assert speed_class(Gpu(0, "intel", architecture="Alchemist")) == "alchemist"
