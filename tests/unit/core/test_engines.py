"""Which build of llama.cpp a host gets."""

from __future__ import annotations

from typing import Any

import pytest
from tests import samples

from infra_llm.core.engines import installed_first, is_installed
from infra_llm.core.engines.llama_cpp import cuda_gpus, engine_choice
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Cpu, Gpu, System
from infra_llm.core.os_family import os_family
from infra_llm.readers.catalogue_file import load_catalogue

NEW_PYTHON = [{"path": "/usr/bin/python3.11", "version": "3.11"}]
OLD_PYTHON = [{"path": "/usr/bin/python3.9", "version": "3.9"}]


def choose(
    machine: str = "x86_64",
    gpus: list[Gpu] | None = None,
    method: str = "auto",
    installed: dict[str, Any] | None = None,
    pythons: list[dict[str, str]] = NEW_PYTHON,
    distribution: str = "debian",
    **more: Any,
) -> dict[str, Any]:
    hardware = samples.hardware(
        cpu=Cpu(architecture=machine), gpus=gpus or [], system=System(distribution=distribution)
    )
    wishes = samples.wishes(llama_cpp_install_method=method, **more)
    choice = engine_choice(load_catalogue(), hardware, wishes, pythons)
    return {**choice, "methods": installed_first(choice["methods"], installed or {})}


def ways(choice: dict[str, Any]) -> list[str]:
    return [method["method"] for method in choice["methods"]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["release", "wheel"]),
        ({"machine": "aarch64"}, ["release", "wheel"]),
        ({"pythons": OLD_PYTHON}, ["release"]),
        ({"pythons": []}, ["release"]),
        ({"pythons": [{"path": "/usr/bin/python3.10", "version": "3.10"}]}, ["release", "wheel"]),
        ({"method": "release"}, ["release"]),
        ({"method": "wheel"}, ["wheel"]),
        ({"method": "source"}, ["source"]),
        ({"gpus": [samples.nvidia()]}, ["source"]),
        ({"gpus": [samples.nvidia()], "machine": "aarch64"}, ["source"]),
        ({"gpus": [samples.nvidia()], "method": "release"}, ["release"]),
        ({"gpus": [samples.nvidia()], "method": "wheel"}, ["wheel"]),
        ({"gpus": [Gpu(index=0, vendor="intel", integrated=True)]}, ["release", "wheel"]),
        ({"gpus": [Gpu(index=0, vendor="amd")]}, ["release", "wheel"]),
        ({"machine": "riscv64", "method": "source"}, ["source"]),
    ],
)
def test_the_ways_and_their_order(given: dict[str, Any], expected: list[str]) -> None:
    assert ways(choose(**given)) == expected


def test_the_files_are_those_of_the_architecture() -> None:
    names = [m["artifact"]["filename"] for m in choose("aarch64")["methods"]]
    assert ["arm64" in names[0], "aarch64" in names[1]] == [True, True]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"machine": "riscv64"}, "no release or wheel of llama.cpp for riscv64 with Python 3.11"),
        ({"method": "wheel", "pythons": OLD_PYTHON}, "no wheel of llama.cpp for x86_64 .* 3.9"),
        ({"method": "wheel", "pythons": []}, "Python none"),
        ({"method": "release", "machine": "ppc64le"}, "no release of llama.cpp for ppc64le"),
    ],
)
def test_no_way_left_says_what_to_do(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        choose(**given)
    assert caught.value.where == "llama_cpp_install_method"
    assert "source" in caught.value.hint


def test_what_is_installed_and_would_do_comes_first() -> None:
    wheel = choose()["methods"][1]["artifact"]["sha256"]
    assert ways(choose(installed={"sha256": wheel})) == ["wheel", "release"]
    assert ways(choose(installed={"sha256": "0" * 64})) == ["release", "wheel"]


def test_what_is_installed_does_not_come_back_when_another_way_is_wished() -> None:
    wheel = choose()["methods"][1]["artifact"]["sha256"]
    assert ways(choose(method="release", installed={"sha256": wheel})) == ["release"]


def test_cuda_is_compiled_for_each_kind_of_card_once() -> None:
    cards = [
        samples.nvidia(),
        samples.nvidia(index=1),
        samples.nvidia(index=2, compute_capability="12.0"),
        samples.nvidia(index=3, compute_capability=None),
    ]
    assert build(gpus=cards)["architectures"] == ["86", "120"]
    assert "-DCMAKE_CUDA_ARCHITECTURES=86-real;120-real" in build(gpus=cards)["options"]
    assert "build" not in choose(gpus=cards, method="wheel")["methods"][0]
    without = build(method="source")
    assert without["architectures"] == []
    assert not [option for option in without["options"] if "CUDA" in option]


def build(**given: Any) -> dict[str, Any]:
    found: dict[str, Any] = choose(**given)["methods"][0]["build"]
    return found


def test_the_fleet_may_add_architectures() -> None:
    both = build(gpus=[samples.nvidia()], llama_cpp_cuda_architectures=[120, "75"])
    assert both["architectures"] == ["75", "86", "120"]


def test_a_cuda_build_finds_its_toolkit_and_links_what_that_has() -> None:
    vendor = {"name": "13.0 vendor", "root": "/usr/local/cuda-13.0", "stub": True}
    options = build(gpus=[samples.nvidia()], cuda=vendor)["options"]
    assert "-DCMAKE_INSTALL_RPATH=$ORIGIN;/usr/local/cuda-13.0/lib64" in options
    assert "-DGGML_CUDA_NO_VMM=ON" not in options
    wheels = {"name": "13.0 wheels", "root": "/opt/cuda/13.0", "stub": False}
    made = build(gpus=[samples.nvidia()], cuda=wheels)
    assert {"-DGGML_CUDA_NO_VMM=ON", "-DGGML_CUDA_NCCL=OFF"} < {*made["options"]}
    assert made["cuda"] == "13.0 wheels"
    # A toolkit of the distribution is where every linker looks.
    own = {"name": "11.8 distro", "root": "", "stub": True}
    assert "-DCMAKE_INSTALL_RPATH=$ORIGIN" in build(gpus=[samples.nvidia()], cuda=own)["options"]
    cpu = build(gpus=[samples.nvidia()], cuda=wheels, llama_cpp_backend="cpu")
    assert "-DCMAKE_INSTALL_RPATH=$ORIGIN" in cpu["options"] and "cuda" not in cpu


def test_the_role_is_told_the_cards_that_a_release_has_to_serve() -> None:
    cards = [samples.nvidia(), samples.nvidia(index=1, compute_capability=None)]
    named = {"name": "NVIDIA GeForce RTX 3060", "compute_capability": "8.6"}
    assert choose(gpus=cards, method="source")["cards"] == [named]
    assert choose()["cards"] == []


def test_a_model_that_is_to_be_quantized_needs_a_release_with_the_program() -> None:
    assert ways(choose(infra_llm_quantize="Q4_K_M")) == ["release"]
    assert ways(choose(infra_llm_quantize="Q4_K_M", method="source")) == ["source"]
    with pytest.raises(BadInputError, match="a library without programs: no llama-quantize"):
        choose(infra_llm_quantize="Q4_K_M", method="wheel")


def test_several_models_need_a_release_with_the_router() -> None:
    assert ways(choose(infra_llm_more_models=["other"])) == ["release"]
    with pytest.raises(BadInputError, match="no router"):
        choose(infra_llm_more_models=["other"], method="wheel")


def test_cuda_without_a_known_card_says_what_to_give() -> None:
    with pytest.raises(BadInputError, match="no compute capability"):
        build(gpus=[samples.nvidia(compute_capability=None)])


def test_another_card_is_another_build_and_the_same_card_is_not() -> None:
    def release(*cards: Any, **more: Any) -> str:
        return str(choose(gpus=list(cards), method="source", **more)["methods"][0]["release"])

    one = release(samples.nvidia())
    assert release(samples.nvidia(), samples.nvidia(index=1)) == one
    assert release(samples.nvidia(compute_capability="8.9")) != one
    assert release(samples.nvidia(), distribution="ubuntu") != one
    assert release() != one


def test_a_build_counts_by_its_name_and_an_archive_by_its_sum() -> None:
    method = choose(method="source")["methods"][0]
    source = {"sha256": method["artifact"]["sha256"]}
    assert is_installed(method, {"release": method["release"], **source})
    assert not is_installed(method, {"release": "source-of-another-card", **source})
    wheel = choose(method="wheel")["methods"][0]
    assert is_installed(wheel, {"sha256": wheel["artifact"]["sha256"]})
    assert not is_installed(wheel, {})


@pytest.mark.parametrize(
    ("backend", "option"),
    [
        ("cpu", "-DGGML_NATIVE=OFF"),
        ("hip", "-DGGML_HIP=ON"),
        ("hip", "-DGPU_TARGETS=gfx942"),
        ("sycl", "-DGGML_SYCL=ON"),
        ("sycl", "-DCMAKE_CXX_COMPILER=icpx"),
        ("vulkan", "-DGGML_VULKAN=ON"),
    ],
)
def test_other_backends_have_their_switch(backend: str, option: str) -> None:
    card = Gpu(index=0, vendor="amd", gfx_target="gfx942")
    assert option in build(gpus=[card], method="source", llama_cpp_backend=backend)["options"]


def test_hip_without_a_known_card_says_what_to_do() -> None:
    with pytest.raises(BadInputError, match="no gfx target"):
        build(gpus=[Gpu(index=0, vendor="amd")], method="source", llama_cpp_backend="hip")


def test_only_what_the_role_installs_packages_for_is_named_to_it() -> None:
    assert build(method="source", llama_cpp_backend="vulkan")["backend"] == "vulkan"
    assert "backend" not in build(method="source", llama_cpp_backend="cpu")


def test_only_discrete_nvidia_cards_count_for_cuda() -> None:
    card = samples.nvidia()
    others = [Gpu(index=1, vendor="amd"), samples.nvidia(index=2, integrated=True)]
    assert cuda_gpus(samples.hardware(gpus=[card, *others])) == [card]


def test_every_release_has_a_folder_name_of_its_own() -> None:
    methods = choose()["methods"] + choose(method="source")["methods"]
    names = [method["release"] for method in methods]
    assert len(set(names)) == 3
    for method in methods:
        assert method["release"].startswith(method["method"] + "-")
        assert method["artifact"]["sha256"][:8] in method["release"] or "build" in method
        assert not set(method["release"]) & set("/ ")


@pytest.mark.parametrize(
    ("distribution", "family"),
    [
        ("debian", "debian"),
        ("ubuntu", "debian"),
        ("rocky", "redhat"),
        ("rhel", "redhat"),
        ("almalinux", "redhat"),
    ],
)
def test_distributions_have_their_family(distribution: str, family: str) -> None:
    assert os_family(distribution) == family
    assert choose(distribution=distribution)["os_family"] == family
