"""GGUF headers: exact, quick, and never a traceback."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.descriptors import descriptor, names, write_gguf

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import InfraLlmError
from infra_llm.core.model import ModelProfile, layer_ranges, parse_layer_ranges
from infra_llm.readers.gguf_file import read_gguf, read_gguf_prefix

MIB = 1 << 20


@pytest.mark.parametrize("name", names())
def test_profile_has_the_sizes_of_the_descriptor(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    data = descriptor(name)
    write_gguf(data, path)
    model = read_gguf(path)
    assert model.architecture == data["arch"]
    assert model.parameters == data["params"]
    assert model.tensor_bytes / MIB == pytest.approx(data["weights_mib"], abs=0.006)
    assert len(model.all_tensors) == sum(data["type_counts"].values())


def test_profile_survives_json_and_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(descriptor("qwen3.5-122b-a10b.Q4_K_M"), path)
    model = read_gguf(path)
    text = json.dumps(model.to_dict())
    assert len(text) < 20_000
    assert from_dict(ModelProfile, json.loads(text)) == model


def test_large_tokenizer_is_stepped_over_quickly(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(descriptor("llama-3.1-70b.Q4_K_M"), path, tokens=128_256, merges=280_147)
    best = 9.0
    for _ in range(3):
        start = time.process_time()
        model = read_gguf(path)
        best = min(best, time.process_time() - start)
    assert model.tokenizer_merges == 280_147
    assert best < 0.6  # 0.15 on an idle machine: make bench


def test_prefix_grows_until_the_table_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(descriptor("llama-3.1-8b.Q8_0"), path, tokens=128_256)
    asked: list[int] = []

    def read(count: int) -> bytes:
        asked.append(count)
        with path.open("rb") as file:
            return file.read(count)

    assert read_gguf_prefix(read, path.stat().st_size) == read_gguf(path)
    assert asked == [MIB, 2 * MIB, 4 * MIB]


def test_split_model_is_read_whole_and_a_missing_part_is_named(tmp_path: Path) -> None:
    data = descriptor("llama-2-7b.Q8_0")
    first = tmp_path / "m-00001-of-00002.gguf"
    second = tmp_path / "m-00002-of-00002.gguf"
    half = len(data["tensors"]) // 2
    write_gguf({**data, "tensors": data["tensors"][:half]}, first)
    later = {"general.architecture": ["str", "llama"], "split.no": ["u32", 1]}
    write_gguf({**data, "tensors": data["tensors"][half:], "gguf_metadata": later}, second)
    model = read_gguf(first)
    assert model.parts == 2
    assert model.parameters == data["params"]
    second.unlink()
    with pytest.raises(InfraLlmError, match="m-00002-of-00002"):
        read_gguf(first)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04" + bytes(100), "magic"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "unknown architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62) + bytes(99), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0) + bytes(99), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 77, 0, 0), "version"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InfraLlmError, match=word):
        read_gguf(path)


def test_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(descriptor("llama-2-7b.Q8_0"), path)
    with path.open("rb+") as file:
        file.truncate(5_000_000)
    with pytest.raises(InfraLlmError, match="truncated: 5000000 bytes of at least 7"):
        read_gguf(path)


@pytest.fixture(scope="module")
def small_header(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "model.gguf"
    write_gguf(descriptor("tinyllama-1.1b.Q4_0"), path, tokens=50, merges=20)
    return path.read_bytes()[:20_000]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    edits=st.lists(st.tuples(st.integers(0, 6000), st.binary(min_size=1, max_size=9)), max_size=6)
)
def test_fuzzed_headers_raise_only_our_error(
    small_header: bytes, edits: list[tuple[int, bytes]]
) -> None:
    data = bytearray(small_header)
    for place, new in edits:
        data[place : place + len(new)] = new
    content = bytes(data)
    tracemalloc.start()
    try:
        read_gguf_prefix(lambda count: content[:count], 700_000_000)
    except InfraLlmError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200 * MIB


@given(st.sets(st.integers(0, 300)))
def test_layer_ranges_come_back(layers: set[int]) -> None:
    assert parse_layer_ranges(layer_ranges(layers)) == sorted(layers)
