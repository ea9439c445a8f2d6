"""Published logs with buffer sizes that others read out of them, and one captured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra_llm.target.engine_log import (
    START_MARK,
    last_start,
    of_model,
    parse_buffer_lines,
    parse_engine_log,
)

LOGS = Path(__file__).parent / "logs"
PUBLISHED = json.loads((LOGS / "published.json").read_text())
CAPTURED = (LOGS / "llama-server-2026-10-cpu.log").read_text()
NAMES = {"model": "model", "KV": "kv_cache", "RS": "recurrent", "compute": "compute"}


@pytest.mark.parametrize("case", PUBLISHED, ids=[case["source"][-15:] for case in PUBLISHED])
def test_published_logs(case: dict[str, Any]) -> None:
    log = parse_engine_log("\n".join(case["lines"]))
    expected = {
        device: {NAMES[kind]: size for kind, size in sizes.items()}
        for device, sizes in case["buffers_mib"].items()
    }
    found = {
        device: {kind: size for kind, size in sizes.items() if kind != "output"}
        for device, sizes in log.devices.items()
    }
    for device, sizes in expected.items():
        assert found[device] == pytest.approx(sizes, abs=0.011)
    assert {device for device, sizes in found.items() if sizes} == set(expected)
    assert f"{log.layers_offloaded}/{log.layers_total}" == case["layers"]
    assert (log.n_ctx, log.n_ubatch) == (case["n_ctx"], case["n_ubatch"])
    assert log.flash_attention is case["flash_attention"]
    if len(case["kv_types"] or []) == 2:
        assert [log.kv_caches[0]["type_k"], log.kv_caches[0]["type_v"]] == case["kv_types"]


def test_the_captured_log() -> None:
    log = parse_engine_log(CAPTURED)
    # 180 MiB = 8192 cells * 30 layers * 2 (K and V) * 3 heads * 64 * 2 bytes.
    assert log.devices["CPU"]["kv_cache"] == 8192 * 30 * 2 * 3 * 64 * 2 / 2**20
    assert log.devices["CPU_Mapped"] == {"model": 92.10}
    assert log.devices["CPU"]["compute"] == 22.64
    assert log.devices["CPU"]["output"] == 0.19
    assert log.flash_attention is True
    assert (log.n_ctx, log.n_ctx_seq, log.n_batch, log.n_ubatch, log.n_seq_max) == (
        8192, 8192, 2048, 512, 1,
    )  # fmt: skip
    assert log.n_slots == 1
    assert log.kv_caches == [{"cells": 8192, "layers": 30, "type_k": "f16", "type_v": "f16"}]
    assert log.layers_total is None


def test_only_the_last_start_counts() -> None:
    assert parse_buffer_lines(CAPTURED + CAPTURED) == parse_buffer_lines(CAPTURED)
    assert last_start("a\nbuild: 9 (x)\nb\nbuild: 10 (y)\nc") == "build: 10 (y)\nc"
    assert last_start("no mark") == "no mark"


def test_two_contexts_add_up_and_a_second_reserve_replaces() -> None:
    text = """\
llama_context: constructing llama_context
llama_kv_cache:      CUDA0 KV buffer size =  4352.00 MiB
sched_reserve:      CUDA0 compute buffer size =   400.00 MiB
sched_reserve:      CUDA0 compute buffer size =   495.00 MiB
alloc_compute_meta:      CUDA0 compute buffer size =   248.10 MiB
llama_context: constructing llama_context
llama_kv_cache:      CUDA0 KV buffer size =   272.00 MiB
sched_reserve:      CUDA0 compute buffer size =   495.00 MiB
"""
    sizes = parse_buffer_lines(text)["CUDA0"]
    assert sizes == {"kv_cache": 4624.0, "compute": 990.0, "encoder": 248.1}


def test_a_trial_fit_is_no_allocation() -> None:
    trial = "load_tensors:        CUDA0 model buffer size =  9999.00 MiB\n"
    done = "common_fit_params: fitting params to free memory took 0.20 seconds\n"
    real = "load_tensors:        CUDA0 model buffer size =   100.00 MiB\n"
    assert parse_buffer_lines(trial + done + real) == {"CUDA0": {"model": 100.0}}


def test_recurrent_state_lora_and_checks_that_are_no_buffers() -> None:
    text = """\
llama_memory_recurrent:      CUDA0 RS buffer size =   598.50 MiB
llama_adapter_lora_init_impl:      CUDA0 LoRA buffer size =    12.00 MiB
~llama_context:  CUDA0 compute buffer size is 97.1250 MiB, matches expectation of 97.1250 MiB
"""
    assert parse_buffer_lines(text) == {"CUDA0": {"recurrent": 598.5, "model": 12.0}}


def test_flash_attention_that_was_switched_off() -> None:
    text = (
        "llama_context: flash_attn = auto\nsched_reserve: Flash Attention was auto, set to disabled"
    )
    assert parse_engine_log(text).flash_attention is False
    assert parse_engine_log("llama_context: flash_attn = auto").flash_attention is None


@given(st.text())
def test_any_text_is_read_without_error(text: str) -> None:
    parse_engine_log(text).to_dict()


ROUTED = """\
srv          load: spawning server instance with name=one on port 4001
srv          load: spawning server instance with name=two on port 40002
[ 4001] build_info: b1-abc
[40002] build_info: b1-abc
[40002] load_tensors: offloaded 3/4 layers to GPU
[ 4001] load_tensors: offloaded 0/2 layers to GPU
[ 4001] load_tensors:   CPU_Mapped model buffer size =    10.00 MiB
[40002] load_tensors:        CUDA0 model buffer size =    99.00 MiB
srv          load: spawning server instance with name=two on port 5003
[ 5003] load_tensors: offloaded 4/4 layers to GPU
"""


def test_a_routers_log_is_told_apart_by_model() -> None:
    one = parse_engine_log(of_model(ROUTED, "one"))
    assert (one.layers_offloaded, one.layers_total) == (0, 2)
    assert list(one.devices) == ["CPU_Mapped"]
    # The last start of a model counts.
    assert parse_engine_log(of_model(ROUTED, "two")).layers_offloaded == 4
    assert of_model("plain\n", "one") == "plain\n"


def test_a_child_of_the_router_begins_no_start_of_the_service() -> None:
    lines = [b"build_info: b1-abc", b"[ 4001] build_info: b1-abc", b"0.01.2 I main: build = 7"]
    assert [bool(START_MARK.search(line)) for line in lines] == [True, False, True]
