"""llama-cpp-python's server: what it is made of, and what it is told."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests import samples

from infra_llm.core.engines import ENGINES, LaunchContext
from infra_llm.core.engines.llama_cpp_python import launch, model_settings
from infra_llm.core.errors import BadInputError
from infra_llm.core.layout import layout_of
from infra_llm.core.plan import LaunchPlan
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.planning import fit_wishes

ROOT = Path(__file__).parents[3]


def choose(pythons: tuple[str, ...] = ("3.11",), **wishes: Any) -> dict[str, Any]:
    found = [{"path": f"/usr/bin/python{version}", "version": version} for version in pythons]
    hardware = samples.hardware(gpus=wishes.pop("gpus", []))
    (method,) = ENGINES["llama-cpp-python"].choose(
        load_catalogue(), hardware, samples.wishes(**wishes), found
    )["methods"]
    return dict(method)


def test_it_stands_on_the_same_build_as_llama_cpp_from_source() -> None:
    wishes = samples.wishes(llama_cpp_install_method="source")
    llama_cpp = ENGINES["llama.cpp"].choose(load_catalogue(), samples.hardware(), wishes, [])
    assert choose()["libraries"] == llama_cpp["methods"][0]
    assert choose()["libraries"]["artifact"]["version"] == "llama-cpp-python 0.3.36"
    assert load_catalogue()["engines"]["llama-cpp-python"]["lock"]["any"]["version"] == "0.3.36"


def test_another_card_or_interpreter_is_another_release() -> None:
    names = {
        choose()["release"],
        choose(("3.12",))["release"],
        choose(gpus=[samples.nvidia()])["release"],
    }
    assert len(names) == 3


def test_the_catalogue_names_the_lock_file_that_is_there() -> None:
    entry = load_catalogue()["engines"]["llama-cpp-python"]["lock"]["any"]
    content = (ROOT / "roles/llama_cpp_python/files" / entry["filename"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert b"uvicorn==" in content


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"pythons": ("3.9",)}, "locked for Python .*; this host has 3.9"),
        ({"infra_llm_parallel": 2}, "one request at a time"),
    ],
)
def test_what_it_can_not_do_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        choose(**given)
    assert caught.value.hint


def test_the_plan_has_one_slot() -> None:
    wishes = samples.wishes(infra_llm_engine="llama-cpp-python", infra_llm_context=4096)
    assert (fit_wishes(wishes).parallel, fit_wishes(wishes).context) == (1, 4096)


def test_flags_are_given_in_the_servers_words() -> None:
    flags = {
        "ctx_size": 4096, "parallel": 1, "threads": 2, "n_gpu_layers": 0, "cache_type_k": "q8_0",
        "cache_type_v": "f16", "flash_attn": "on", "mmap": True, "kv_unified": False, "fit": "off",
    }  # fmt: skip
    # The numbers of ggml_type in ggml.h: F16 is 1, Q8_0 is 8.
    assert model_settings(flags) == {
        "n_ctx": 4096, "n_threads": 2, "n_gpu_layers": 0, "type_k": 8, "type_v": 1,
        "flash_attn": True, "use_mmap": True,
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["override_tensor", "n_cpu_moe"])
def test_a_flag_that_it_can_not_be_told_stops_the_plan(flag: str) -> None:
    with pytest.raises(BadInputError, match=flag):
        model_settings({"ctx_size": 1, flag: 3})


def test_its_configuration_file() -> None:
    plan = LaunchPlan("llama.cpp", True, flags={"ctx_size": 2048, "parallel": 1})
    wishes = samples.wishes(infra_llm_model="small", infra_llm_port=9000)
    model = samples.desired()["model"]
    found = launch(LaunchContext(plan, model, wishes, layout_of("b", "llama_cpp_python")))
    settings = json.loads(found.files["llama-cpp-python.json"])
    (served,) = settings["models"]
    assert (settings["host"], settings["port"]) == ("127.0.0.1", 9000)
    assert served["model"] == "/var/lib/infra-llm-b/models/model.gguf"
    assert (served["model_alias"], served["n_ctx"]) == ("small", 2048)
    assert served["logits_all"] is False
    assert found.program[1] == "/opt/infra-llm-b/llama_cpp_python/current/serve.py"
    assert found.arguments == ["/etc/infra-llm-b/llama-cpp-python.json"]
