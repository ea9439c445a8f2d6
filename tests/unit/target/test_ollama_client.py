"""A GGUF file becomes a model: against the stand-in for Ollama, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.chat_client import ChatClient
from infra_llm.target.endpoint import loaded_models
from infra_llm.target.ollama_client import OllamaClient, Wanted, ensure, parse_parameters

STANDIN = Path(__file__).parents[2] / "standins" / "ollama"
GGUF = b"GGUF" + b"w" * 5000
SHA256 = hashlib.sha256(GGUF).hexdigest()
LOG = """load_tensors:   CUDA0 model buffer size =  100.00 MiB
load_tensors:   CPU_Mapped model buffer size =   20.50 MiB
llama_kv_cache: CUDA0 KV buffer size =   30.00 MiB"""


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[str]:
    """The address of a stand-in that keeps its models below `folder`."""
    library = folder / "release" / "lib" / "ollama"
    if not library.exists():
        (library / "stand_in").mkdir(parents=True)
        for name in ("store.py", "runner.py", "server.py"):
            shutil.copy(STANDIN / name, library / "stand_in")
        shutil.copy(STANDIN / "fake_llama_server.py", library / "llama-server")
        (library / "llama-server").chmod(0o755)
        (library / "stand-in.json").write_text(json.dumps({"version": "1.2.3", "answer": "2"}))
        (folder / "release" / "bin").mkdir()
        shutil.copy(STANDIN / "ollama.py", folder / "release" / "bin" / "ollama")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = {"OLLAMA_HOST": address, "OLLAMA_MODELS": str(folder / "models"), "HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, str(folder / "release" / "bin" / "ollama"), "serve"],
        env={**os.environ, **told, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF)
    return path


@pytest.fixture
def wanted(tmp_path: Path, file: Path) -> Callable[[str], Wanted]:
    def make(url: str) -> Wanted:
        return Wanted(
            url=url,
            name="m",
            file=str(file),
            sha256=SHA256,
            models=str(tmp_path / "models"),
            parameters={"num_ctx": 4096, "num_gpu": 0},
            licence="MIT",
        )

    return make


Make = Callable[[str], Wanted]


def test_a_file_becomes_a_loaded_model_once(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path, LOG=LOG) as url:
        first = ensure(wanted(url))
        assert first["did"] == "make the model"
        assert Path(first["manifest"]).is_file()
        again = ensure(wanted(url))
        assert (again["changed"], again["did"]) == (False, "")
        assert [m["name"] for m in OllamaClient(url, 5).running()] == ["m:latest"]
        # Loaded with what /api/ps tells: the buffers of the log.
        assert loaded_models(ChatClient(url), "/api/ps") == [
            {"name": "m:latest", "size_mib": 150.5, "vram_mib": 130.0, "context_length": 4096}
        ]
    large = [path for path in (tmp_path / "models").rglob("*") if path.stat().st_size > 4000]
    files = [path for path in large if path.is_file()]
    assert len(files) == 1, "what was sent lies beside Ollama's own copy"


def test_other_parameters_send_nothing_again(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path) as url:
        ensure(wanted(url))
        blobs = {path: path.stat().st_mtime_ns for path in (tmp_path / "models/blobs").iterdir()}
        Path(wanted(url).file).write_bytes(b"not read again")
        changed = ensure(replace(wanted(url), parameters={"num_ctx": 8192, "num_gpu": 0}))
        assert changed["did"] == "change num_ctx"
        shown = OllamaClient(url, 5).show("m")
        assert shown is not None
        assert parse_parameters(shown["parameters"]) == {"num_ctx": 8192, "num_gpu": 0}
        now = {path: path.stat().st_mtime_ns for path in (tmp_path / "models/blobs").iterdir()}
        assert {path: now[path] for path in blobs} == blobs


def test_another_file_of_the_same_name_is_another_model(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path) as url:
        ensure(wanted(url))
        other = GGUF + b"more"
        Path(wanted(url).file).write_bytes(other)
        asked = replace(wanted(url), sha256=hashlib.sha256(other).hexdigest())
        assert ensure(asked)["did"] == "make the model"
        assert ensure(asked)["did"] == ""


def test_a_file_that_is_not_what_it_should_be_is_refused(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path) as url:
        Path(wanted(url).file).write_bytes(GGUF + b"damage")
        with pytest.raises(HostFailedError, match="digest mismatch"):
            ensure(wanted(url))
        assert OllamaClient(url, 5).show("m") is None


def test_ollamas_own_words_reach_the_user(tmp_path: Path, wanted: Make) -> None:
    content = b"PK not a GGUF file"
    with serving(tmp_path) as url:
        Path(wanted(url).file).write_bytes(content)
        with pytest.raises(HostFailedError, match="only GGUF is supported"):
            ensure(replace(wanted(url), sha256=hashlib.sha256(content).hexdigest()))


def test_a_model_that_does_not_load_is_said(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path, DIES="1") as url, pytest.raises(HostFailedError, match="terminated"):
        ensure(wanted(url))


def test_check_mode_changes_nothing(tmp_path: Path, wanted: Make) -> None:
    with serving(tmp_path) as url:
        wait(url)
        assert ensure(wanted(url), check_mode=True)["did"] == "make the model"
        assert OllamaClient(url, 5).show("m") is None
        ensure(wanted(url))
        assert ensure(wanted(url), check_mode=True)["did"] == ""
    # A service that does not run yet is no error of a check.
    assert ensure(wanted(url), check_mode=True)["changed"] is True


def wait(url: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url + "/api/version", timeout=1).read()
            return
        except OSError:
            time.sleep(0.05)


def test_numbers_as_go_prints_them() -> None:
    text = 'num_ctx                        1.048576e+06\nstop    "<|end|>"\nnum_gpu 0'
    assert parse_parameters(text) == {"num_ctx": 1048576, "num_gpu": 0}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("m", "library/m/latest"),
        ("team/m", "team/m/latest"),
        ("m:8b", "library/m/8b"),
    ],
)
def test_where_ollama_keeps_a_manifest(name: str, path: str) -> None:
    asked: dict[str, Any] = {"url": "", "file": "", "sha256": "", "models": "/models"}
    found = Wanted(name=name, **asked).manifest
    assert found == f"/models/manifests/registry.ollama.ai/{path}"


def test_an_endpoint_that_does_not_tell_what_is_loaded(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        wait(url)
        with pytest.raises(HostFailedError, match="does not tell what is loaded"):
            loaded_models(ChatClient(url), "/api/nothing")
