"""A draft model and an image encoder beside the model, on one systemd guest, by the real wheel.

Both are stand-ins for trained ones: a tiny Llama of random weights with SmolLM2's vocabulary, and
an encoder without weights. The engine drafts with the one and looks at a picture with the other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import tiny_gguf
from tests.bench.servers import models
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel
from tests.tiny_mmproj import Sample, write

Wish = Callable[..., Cli]
EYE = Sample("mlp", 256, 512, 4, layers=2, image=112, patch=14)
LAUNCH = "/etc/infra-llm/launch.json"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("companions") / "lab.ini"
    words = ("--name", "companions", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "companions")


@pytest.fixture(scope="module")
def own(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The two files in a folder of the host, as artifacts of the site."""
    folder = tmp_path_factory.mktemp("files")
    paths = {
        "drafter": tiny_gguf.write(folder / "drafter.gguf", models()["SmolLM2-135M"]),
        "eye": write(folder / "mmproj.gguf", EYE),
    }
    on_host(lab, "install -d /srv/artifacts")
    line = shlex.join(ssh_words(lab, "node1"))
    for path in paths.values():
        run("sh", "-c", f"{line} sudo tee /srv/artifacts/{path.name} < {path} > /dev/null")
    return {name: {"name": name, **artifact(path)} for name, path in paths.items()}


def artifact(path: Path) -> dict[str, Any]:
    return {
        "filename": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
        "places": [{"kind": "path", "path": str(path)}],
    }


@pytest.fixture(scope="module")
def wish(lab: Path, own: dict[str, dict[str, Any]]) -> Wish:
    def make(**more: Any) -> Cli:
        variables = {
            "infra_llm_threads": 1,
            "infra_llm_context": 1024,
            "infra_llm_parallel": 1,
            "llama_cpp_install_method": "wheel",
            "infra_llm_artifact_folders": ["/srv/artifacts"],
            "infra_llm_models": own,
            **more,
        }
        folder = lab.with_name("host_vars")
        folder.mkdir(exist_ok=True)
        (folder / "node1.json").write_text(json.dumps(variables))
        return Cli(lab)

    return make


def on_host(lab: Path, script: str) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c {shlex.quote(script)}").strip()


def node(done: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = done["report"]["hosts"]["node1"]
    return found


def ask(lab: Path, content: Any) -> dict[str, Any]:
    """The endpoint's answer to one question."""
    message = {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    with tunnel(lab, "node1", 8080) as port:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        words = ("curl", "-sS", "--fail-with-body", "-m", "600", "-d", json.dumps(message), url)
        answer: dict[str, Any] = json.loads(run(*words, "-H", "Content-Type: application/json"))
    return answer


def picture() -> str:
    """A red PNG of 32 x 32 pixels as a data address."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    rows = b"".join(b"\0" + b"\xff\0\0" * 32 for _ in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return f"data:image/png;base64,{base64.b64encode(png + chunk(b'IEND', b'')).decode()}"


def test_a_draft_model_drafts(wish: Wish, lab: Path) -> None:
    cli = wish(infra_llm_draft_model="drafter")
    host = node(cli("provision"))
    assert host["result"] == "serving", host["error"]
    flags = json.loads(on_host(lab, f"cat {LAUNCH}"))["flags"]
    assert flags["spec_type"] == "draft-simple"
    timings = ask(lab, "What is 1+1?")["timings"]
    assert timings["draft_n"] > 0, timings
    checks = {check["name"]: check for check in host["verdict"]["checks"]}
    assert checks["memory"]["ok"], checks["memory"]
    assert node(cli("provision"))["result"] == "unchanged"


def test_an_encoder_takes_its_place_and_sees(wish: Wish, lab: Path) -> None:
    cli = wish(infra_llm_projector="eye")
    host = node(cli("provision"))
    assert host["result"] == "serving", host["error"]
    texts = [change["text"] for change in host["changes"]]
    assert "draft drafter -> none" in texts and "projector none -> eye" in texts, texts
    question = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": picture()}},
    ]
    seen, blind = (ask(lab, text)["usage"]["prompt_tokens"] for text in (question, "What is it?"))
    assert seen - blind >= EYE.side**2, "a token for each patch"
    assert node(cli("provision"))["result"] == "unchanged"


def test_other_engines_and_a_name_that_is_none_are_refused(wish: Wish) -> None:
    [host] = wish(infra_llm_engine="ollama", infra_llm_projector="eye")("plan", expect=2)["report"]
    assert "ollama is served without encoders and draft models" in host["error"]
    [host] = wish(infra_llm_draft_model="nobody")("plan", expect=2)["report"]
    assert "no model named 'nobody'" in host["error"]
    assert "infra_llm_draft_model" in host["error"]
