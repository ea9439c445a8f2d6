"""Measured figures against the plan."""

from __future__ import annotations

from typing import Any

import pytest
from tests import samples

from infra_llm.core.verdict import CheckResult, Verdict, judge

GPU_LOG = {
    "layers_offloaded": 31,
    "layers_total": 31,
    "devices": {"CUDA0": {"model": 90.0}, "CUDA_Host": {"output": 1.0}, "CPU_Mapped": {}},
}
CPU_LOG = {"layers_offloaded": None, "layers_total": None}


def verdict(gpu_layers: int = 0, expect: str = "2", **changes: Any) -> Verdict:
    wished = samples.desired()
    wished["plan"]["flags"]["n_gpu_layers"] = gpu_layers
    wished["verify"]["expect"] = expect
    return judge(samples.measured(**changes), wished)


def check(found: Verdict, name: str) -> CheckResult:
    return next(result for result in found.checks if result.name == name)


def test_a_good_host_passes_every_check() -> None:
    found = verdict()
    assert found.passed
    assert found.failures == []
    assert {result.name: result.ok for result in found.checks} == {
        "health": True,
        "answer": True,
        "speed": True,
        "layers": True,
        "memory": True,
    }
    assert "205 MiB in use, 200 MiB predicted (+2.5%)" in check(found, "memory").detail
    assert "1 + 1 = 2" in check(found, "answer").detail


def test_a_log_that_is_gone_warns_where_nothing_was_planned_for_a_gpu() -> None:
    found = verdict(engine={"devices": {}})
    assert found.passed
    assert not check(found, "layers").ok


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"healthy_after_seconds": None}, "health", "did not become healthy"),
        ({"answer": None}, "answer", "empty"),
        ({"answer": " \n"}, "answer", "empty"),
        ({"answer": "three", "answered": False}, "answer", "lacks '2'"),
        ({"engine": None, "gpu_layers": 31}, "layers", "no buffers"),
        ({"engine": {"devices": {}}, "gpu_layers": 31}, "layers", "no buffers"),
        ({"engine": GPU_LOG}, "layers", "CUDA0"),
        ({"engine": CPU_LOG | {"devices": {"Vulkan0": {}}}}, "layers", "Vulkan0"),
        ({"engine": GPU_LOG | {"devices": {"CPU": {}}}}, "layers", "31"),
        ({"gpu_layers": 31}, "layers", "0 of 31 planned"),
        ({"gpu_layers": 31, "engine": GPU_LOG | {"layers_offloaded": 30}}, "layers", "30 of 31"),
        ({"gpu_layers": 10, "engine": GPU_LOG}, "layers", "31 of 10"),
    ],
)
def test_what_is_required_fails_the_host(changes: dict[str, Any], name: str, words: str) -> None:
    found = verdict(**changes)
    assert not found.passed
    assert [text.split(":")[0] for text in found.failures] == [name]
    assert words in check(found, name).detail


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"speed": None}, "speed", "could not be measured"),
        ({"speed": {"decode_tokens_per_second": 5.0}}, "speed", "could not be measured"),
        (
            {"speed": {"decode_tokens_per_second": 0, "prefill_tokens_per_second": 0}},
            "speed",
            "could not be measured",
        ),
        ({"memory": None}, "memory", "could not be measured"),
        ({"memory": {"rss_mib": 221.0}}, "memory", "+10.5%"),
        ({"memory": {"rss_mib": 179.0}}, "memory", "-10.5%"),
    ],
)
def test_what_is_not_required_only_warns(changes: dict[str, Any], name: str, words: str) -> None:
    found = verdict(**changes)
    assert found.passed
    assert found.failures == []
    assert not check(found, name).ok
    assert words in check(found, name).detail


@pytest.mark.parametrize("rss", [180.1, 219.9])
def test_ten_percent_of_memory_are_tolerated(rss: float) -> None:
    assert check(verdict(memory={"rss_mib": rss}), "memory").ok


@pytest.mark.parametrize(
    ("planned", "log"),
    [
        (31, GPU_LOG),
        (99, GPU_LOG),  # more layers than the model has: all of them
        (5, GPU_LOG | {"layers_offloaded": 5}),
        (0, CPU_LOG | {"devices": {"CPU_REPACK": {}, "AMX": {}, "CUDA_Host": {}}}),
        (0, {"devices": {"CPU": {}}}),
    ],
)
def test_layers_on_the_gpu_as_planned_pass(planned: int, log: dict[str, Any]) -> None:
    assert check(verdict(gpu_layers=planned, engine=log), "layers").ok


def test_any_answer_will_do_when_nothing_is_expected() -> None:
    assert verdict(expect="", answer="three", answered=False).passed
    assert not verdict(expect="", answer="", answered=False).passed


def test_an_answer_that_is_all_reasoning_is_an_answer() -> None:
    assert verdict(answer="", reasoning="1 + 1 makes 2").passed


def test_nothing_measured_at_all_is_a_failure_not_a_crash() -> None:
    found = judge({}, samples.desired())
    assert not found.passed
    assert [text.split(":")[0] for text in found.failures] == ["health", "answer"]


def test_the_document_holds_every_check() -> None:
    document = verdict().to_dict()
    assert document["passed"] is True
    assert [row["name"] for row in document["checks"]] == [
        "health",
        "answer",
        "speed",
        "layers",
        "memory",
    ]


@pytest.mark.parametrize(
    ("gpu_memory", "ok", "words"),
    [
        ([{"used_mib": 1000.0}, {"used_mib": 1010.0}], True, "2010 MiB in use, 2000 MiB predicted"),
        ([{"used_mib": 3000.0}], False, "+50.0%"),
        ([{"used_mib": None}], False, "does not tell"),
        (None, False, "does not tell"),
    ],
)
def test_vram_is_compared_where_gpus_were_planned(
    gpu_memory: list[dict[str, Any]] | None, ok: bool, words: str
) -> None:
    desired = samples.desired()
    desired["plan"]["devices"] = [{"total_mib": 1200.0}, {"total_mib": 800.0}]
    found = check(judge({"gpu_memory": gpu_memory}, desired), "VRAM")
    assert (found.ok, found.required) == (ok, False)
    assert words in found.detail


def test_vram_is_no_check_where_there_is_no_gpu() -> None:
    assert all(row.name != "VRAM" for row in verdict().checks)


VLLM_LOG = {"device": "CPU", "kv_cache_tokens": 4096}


def vllm_verdict(devices: list[dict[str, Any]] | None = None, **changes: Any) -> CheckResult:
    wished = samples.desired()
    wished["launch"]["engine"] = "vllm"
    wished["plan"] |= {"flags": {"max_model_len": 2048}, "devices": devices or []}
    return check(judge(samples.measured(**changes), wished), "placement")


def test_vllm_is_where_its_cache_is() -> None:
    found = vllm_verdict(engine=VLLM_LOG)
    assert found.ok
    assert "4096 tokens on the CPU" in found.detail
    gpu = [{"total_mib": 8192.0}]
    assert not vllm_verdict(gpu, engine=VLLM_LOG).ok
    assert vllm_verdict(gpu, engine=VLLM_LOG | {"device": "GPU"}).ok


def test_a_cache_of_vllm_that_is_smaller_than_a_request_fails() -> None:
    found = vllm_verdict(engine=VLLM_LOG | {"kv_cache_tokens": 1024})
    assert not found.ok
    assert found.required


def test_a_lost_log_of_vllm_warns_on_the_cpu_and_fails_on_gpus() -> None:
    assert not vllm_verdict(engine=None).required
    assert vllm_verdict([{"total_mib": 8192.0}], engine=None).required


def test_speeds_are_compared_with_the_last_run_of_the_same() -> None:
    speed = {"decode_tokens_per_second": 41.2, "prefill_tokens_per_second": 300.0}
    last = {"requests": 4, "tokens_per_second": 80.0}
    before = {"desired": samples.desired(), "measured": {"speed": speed, "parallel": last}}
    now = samples.measured(
        speed={"decode_tokens_per_second": 38.9, "prefill_tokens_per_second": 310.0},
        parallel={"requests": 4, "tokens_per_second": 90.0, "slowest_first_token_seconds": 0.5},
    )
    found = judge(now, samples.desired(), before)
    assert "decode 41.2 -> 38.9 tokens/s since the last run" in check(found, "speed").detail
    assert "4 at once: 80.0 -> 90.0 tokens/s since" in check(found, "parallel").detail
    before["desired"]["launch"]["flags"]["ctx_size"] = 1
    assert "->" not in check(judge(now, samples.desired(), before), "speed").detail


def test_metrics_that_are_not_there_warn() -> None:
    desired = samples.desired()
    desired["verify"]["metrics"] = "/metrics"
    missing = judge(samples.measured(), desired)
    assert missing.passed
    assert not check(missing, "metrics").ok
    there = judge(samples.measured(metrics={"samples": 9, "path": "/metrics"}), desired)
    assert check(there, "metrics").ok


def test_an_embedding_is_said_where_the_model_makes_one() -> None:
    found = judge(samples.measured(embedding=576), samples.desired())
    assert check(found, "embedding").detail == "576 numbers"


@pytest.mark.parametrize(
    ("meaning", "ok", "words"),
    [
        ({"length": 384, "near": 0.46, "far": 0.15}, True, "at least 0.46"),
        ({"length": 384, "near": 0.15, "far": 0.46}, False, "at most 0.46"),
        (None, False, "no embedding came"),
    ],
)
def test_an_embedding_model_is_judged_by_meaning_and_not_by_an_answer(
    meaning: Any, ok: bool, words: str
) -> None:
    wished = samples.desired()
    wished["verify"]["embeds"] = True
    speed = {"prefill_tokens_per_second": 900.0, "decode_tokens": 0}
    found = judge(samples.measured(answer="", meaning=meaning, embedding=384, speed=speed), wished)
    assert found.passed is ok
    assert words in check(found, "meaning").detail
    assert "answer" not in {result.name for result in found.checks}
    assert check(found, "speed").ok
    assert "decode" not in check(found, "speed").detail
