"""Several models at one endpoint: their shares, the preset, what the wheel and others can't do."""

from __future__ import annotations

import configparser
from dataclasses import asdict
from typing import Any

import pytest
from tests import samples

from infra_llm.core import router
from infra_llm.core.engines import ENGINES, LaunchContext
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Memory
from infra_llm.core.layout import LAYOUT
from infra_llm.core.plan import DeviceMemory, LaunchPlan

GIB = 2**30
FLAGS = {"ctx_size": 4096, "parallel": 2, "kv_unified": False, "flash_attn": "on", "mmap": True}


def names(**more: Any) -> list[str]:
    return router.check_names(samples.wishes(**more))


def test_the_first_model_is_the_wished_one() -> None:
    assert names(infra_llm_model="a") == ["a"]
    assert names(infra_llm_model="a", infra_llm_more_models=["b", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"infra_llm_more_models": ["a"]}, "a is named twice"),
        ({"infra_llm_more_models": ["b", "b"]}, "b is named twice"),
        ({"infra_llm_more_models": ["b]\nmodel = /etc/shadow"]}, "can't have a model named"),
        ({"infra_llm_more_models": ["b"], "infra_llm_engine": "ollama"}, "serves one model"),
    ],
)
def test_what_can_not_be_says_so(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        names(infra_llm_model="a", **given)
    assert caught.value.where == "infra_llm_more_models"


def test_shares_go_by_size_and_are_the_whole() -> None:
    large, small = router.shares([40 * GIB, 100 * 2**20])
    assert large + small == pytest.approx(1)
    # 40 GiB and one more, against 100 MiB and one GiB.
    assert large / small == pytest.approx((40 * 1024 + 1024) / (100 + 1024))


def test_a_share_is_of_every_memory() -> None:
    card = samples.nvidia(vram_total_mib=12000, vram_free_mib=None)
    host = samples.hardware(gpus=[card], memory=Memory(total_mib=64000, available_mib=60000))
    half = router.share_of(host, 0.5)
    assert (half.memory.total_mib, half.memory.available_mib) == (32000, 30000)
    assert (half.gpus[0].vram_total_mib, half.gpus[0].vram_free_mib) == (6000, None)
    assert host.gpus[0].vram_total_mib == 12000


def test_together_is_the_sum_of_every_device() -> None:
    def plan(**more: Any) -> dict[str, Any]:
        return asdict(LaunchPlan("llama.cpp", True, **more))

    first = plan(
        host=DeviceMemory("host", total_mib=100, high_mib=120),
        devices=[DeviceMemory("GPU 0", total_mib=5000), DeviceMemory("GPU 1", total_mib=10)],
        flags={"mlock": True},
    )
    second = plan(
        host=DeviceMemory("host", total_mib=50, high_mib=60),
        devices=[DeviceMemory("GPU 0", total_mib=700)],
    )
    whole = router.together([first, second])
    assert (whole.host.total_mib, whole.host.high_mib) == (150, 180)
    assert [(d.name, d.total_mib) for d in whole.devices] == [("GPU 0", 5700), ("GPU 1", 10)]
    assert whole.flags == {"mlock": True}
    assert asdict(router.together([first])) == first


def context(**flags: Any) -> LaunchContext:
    plan = LaunchPlan("llama.cpp", True, flags={**FLAGS, **flags})
    wishes = samples.wishes(infra_llm_model="a", infra_llm_more_models=["b"])
    parts = {"filename": "b-1111", "files": [{"filename": f"b-0000{n}.gguf"} for n in (2, 1)]}
    more = [("b", parts, {**FLAGS, "ctx_size": 512})]
    return LaunchContext(plan, {"filename": "a.gguf"}, wishes, LAYOUT, more)


def test_the_preset_has_each_model_with_its_own_flags() -> None:
    made = ENGINES["llama.cpp"].launch(context())
    assert made.arguments[:4] == [
        "--models-preset",
        "/etc/infra-llm/models.ini",
        "--models-max",
        "2",
    ]
    # They would overrule the preset.
    assert not {"--ctx-size", "--parallel", "--model", "--alias"} & {*made.arguments}
    assert made.context_length == 2048
    parser = configparser.ConfigParser()
    text = made.files["models.ini"]
    parser.read_string(text.removeprefix("version = 1\n"))
    assert text.startswith("version = 1\n")
    a, b = dict(parser["a"]), dict(parser["b"])
    assert a == {
        "model": "/var/lib/infra-llm/models/a.gguf",
        "load-on-startup": "true",
        "ctx-size": "4096",
        "parallel": "2",
        "no-kv-unified": "true",
        "flash-attn": "on",
        "load-mode": "mmap",
    }
    assert b["model"] == "/var/lib/infra-llm/models/b-1111/b-00001.gguf"
    assert b["ctx-size"] == "512"


def test_options_that_come_several_times_become_one() -> None:
    made = ENGINES["llama.cpp"].launch(context(override_tensor=["x=CPU", "y=CPU"], cache_ram=-1))
    assert "override-tensor = x=CPU,y=CPU\n" in made.files["models.ini"]
    assert "cache-ram = -1\n" in made.files["models.ini"]


def test_one_model_has_no_preset() -> None:
    alone = context()
    made = ENGINES["llama.cpp"].launch(
        LaunchContext(alone.plan, alone.model, alone.wishes, alone.layout)
    )
    assert made.files == {}
    assert made.arguments[:4] == ["--model", alone.model_path, "--alias", "a"]
