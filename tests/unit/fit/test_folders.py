"""Hugging Face folders and models by address: what is incomplete or damaged is refused."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests import tiny_llama
from tests.descriptors import descriptor, write_gguf

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.hardware import Cpu, Gpu, HostHardware, Memory
from infra_llm.readers.models import http_fetch, read_model, read_models
from infra_llm.readers.safetensors import INDEX

WEIGHTS = "model.safetensors"


def machine(ram: int = 65536, **card: Any) -> HostHardware:
    gpu = Gpu(index=0, vendor="nvidia", name="card", vram_total_mib=24576, **card)
    cpu = Cpu(cores=8, threads=8, usable_threads=8)
    return HostHardware(gpus=[gpu], memory=Memory(total_mib=ram, available_mib=2048), cpu=cpu)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    document = json.loads(data[8 : 8 + length])
    change(document["lm_head.weight"])
    words = json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + data[8 + length :])


def config(**change: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder / "config.json", json.dumps(tiny_llama.config() | change))


def index(text: str) -> Callable[[Path], None]:
    return lambda folder: write(folder / INDEX, text)


def entry(**change: Any) -> Callable[[Path], None]:
    return lambda folder: header(folder / WEIGHTS, lambda tensor: tensor.update(change))


DAMAGE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("weights gone", lambda folder: (folder / WEIGHTS).unlink(), "no tensor table"),
    ("part gone", index(json.dumps({"weight_map": {"a": "b.safetensors"}})), "names b.safetensors"),
    ("cut", lambda folder: os.truncate(folder / WEIGHTS, 1_000_000), "truncated: 1000000"),
    ("nested", lambda folder: write(folder / "config.json", "[" * 100_000), "is no JSON"),
    ("weights are a folder", lambda folder: folder_for_file(folder / WEIGHTS), "can't be read"),
    *(
        (f"index {text}", index(text), "maps no tensors to files")
        for text in (
            '{"weight_map": []}', '{"weight_map": null}', '{"weight_map": {"a": 1}}',
            '{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": "../b.safetensors"}}',
            '{"metadata": {"total_size": "x"}, "weight_map": {}}',
            '{"metadata": {"total_size": 1e400}, "weight_map": {}}',
            '{"metadata": {"total_size": -5}, "weight_map": {}}',
        )
    ),
    ("index null", index("null"), "is no object"),
    ("architectures", config(architectures=True), "architectures is True"),
    *(
        (f"vocab_size {value}", config(vocab_size=value), "vocab_size is")
        for value in ("x", [1], float("nan"), -1, 1 << 40, True)
    ),
    ("positions", config(max_position_embeddings="x"), "max_position_embeddings is 'x'"),
    ("infinite shape", entry(shape=[float("inf")]), "tensor lm_head.weight has an unreadable"),
    ("negative shape", entry(shape=[-5, 3]), "tensor lm_head.weight has an unreadable"),
    ("other shape", entry(shape=[1, 1]), "takes 2 bytes by its shape, 132096 by its place"),
    ("offsets", entry(data_offsets=[9]), "tensor lm_head.weight has an unreadable"),
    ("type", entry(dtype="Q9"), "is of type 'Q9'"),
]  # fmt: skip


def folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"), [row[1:] for row in DAMAGE], ids=[r[0] for r in DAMAGE]
)
def test_a_damaged_folder_is_refused(
    tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    folder = tiny_llama.write_folder(tmp_path / "hf")
    assert read_model(str(folder)).tensor_bytes == tiny_llama.total_bytes()
    damage(folder)
    with pytest.raises(BadInputError) as caught:
        read_model(str(folder))
    assert words in caught.value.what
    assert caught.value.hint
    assert str(folder) in caught.value.where


def test_a_part_that_was_not_downloaded_is_named(tmp_path: Path) -> None:
    folder = tiny_llama.write_folder(tmp_path / "hf", parts=2)
    assert read_model(str(folder)).parts == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"names model-00002-of-00002\.safetensors"):
        read_model(str(folder))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer_types": True}, "layer_types is True"),
        ({"num_experts_per_tok": "x"}, "num_experts_per_tok is 'x'"),
        ({"num_hidden_layers": 1 << 60}, "num_hidden_layers is"),
        ({"num_attention_heads": 512, "head_dim": None}, "head_dim is 0"),
        ({"vision_config": {"patch_size": "x"}}, "patch_size is 'x'"),
    ],
)
def test_a_configuration_that_can_not_be_meant_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = tiny_llama.write_folder(tmp_path / "hf")
    config(**change)(folder)
    with pytest.raises(BadInputError, match=words) as caught:
        plan_launch(machine(), read_model(str(folder)), FitWishes(), "vllm")
    assert caught.value.hint


def test_both_sides_of_an_image_are_one_number(tmp_path: Path) -> None:
    plans = []
    for image, patch in ((448, 14), ([448, 448], [14, 14])):
        folder = tiny_llama.write_folder(tmp_path / "hf")
        config(vision_config={"image_size": image, "patch_size": patch})(folder)
        plans.append(plan_launch(machine(), read_model(str(folder)), FitWishes(), "vllm"))
    assert plans[0].devices == plans[1].devices


def test_vllm_on_a_gpu_needs_ram_too(tmp_path: Path) -> None:
    model = read_model(str(tiny_llama.write_folder(tmp_path / "hf")))
    roomy = plan_launch(machine(), model, FitWishes(), "vllm")
    assert roomy.fits
    assert roomy.host.capacity_mib == 65536 * 0.95
    assert "only 2,048 MiB of RAM are free now, the server needs 4,096" in roomy.warnings
    tight = plan_launch(machine(ram=8192), model, FitWishes(), "vllm")
    assert not tight.fits
    assert tight.binding_constraint == "512 MiB of RAM are missing on the host"
    assert any("more memory on the host" in other.change for other in tight.alternatives)


def test_vllm_leaves_the_host_its_part_of_a_memory_that_both_share(tmp_path: Path) -> None:
    model = read_model(str(tiny_llama.write_folder(tmp_path / "hf")))
    host = machine(ram=24576, unified_memory=True)
    plan = plan_launch(host, model, FitWishes(), "vllm")
    assert plan.fits
    assert sum(row.high_mib for row in (*plan.devices, plan.host)) <= 24576
    greedy = FitWishes(engine_flags=("--gpu-memory-utilization", "0.9"))
    assert not plan_launch(host, model, greedy, "vllm").fits


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "name is empty"),
        ("~nosuchuser/x.gguf", "can't be read"),
        ("x" * 5000, "can't be read: File name too long"),
        ("a\0b", "can't be read"),
        ("/nowhere/x.gguf", "no such file"),
        ("http://[", "can't be read"),
        ("https://exa mple/x.gguf", "can't be read"),
        ("http://127.0.0.1:1/x.gguf", "can't be read"),
        ("http://127.0.0.1:1/model", "can't be read"),
    ],
)
def test_a_place_without_a_model_is_refused(place: str, words: str) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        read_models(place)
    assert caught.value.hint
    assert "urlopen" not in str(caught.value)


def test_a_split_model_of_no_parts_is_no_split_model(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00000.gguf"
    write_gguf(descriptor("tinyllama-1.1b.Q4_0"), path)
    assert read_model(str(path)).parts == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """A folder over HTTP with ranges, and how many bytes of weights each answer had."""
    folder, sent = tiny_llama.write_folder(tmp_path / "hf"), list[int]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            asked = self.headers.get("Range", "").rpartition("-")[2]
            part = data[: int(asked) + 1] if asked else data
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes 0-{len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)
            sent.extend([len(part)] * (path.suffix == ".safetensors"))

        def log_message(self, *words: Any) -> None:
            del words

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, sent
    server.shutdown()
    server.server_close()


def test_a_folder_by_address_costs_its_headers_only(served: tuple[str, Path, list[int]]) -> None:
    address, folder, sent = served
    assert read_model(address).tensor_bytes == tiny_llama.total_bytes()
    assert sum(sent) < 300_000 < (folder / WEIGHTS).stat().st_size
    assert http_fetch(f"{address}/config.json", 2)[1] == (folder / "config.json").stat().st_size
    with (folder / WEIGHTS).open("rb+") as file:
        file.truncate(1_000_000)
    with pytest.raises(BadInputError, match="truncated: 1000000"):
        read_model(address)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadInputError, match="no tensor table"):
        read_model(address)
