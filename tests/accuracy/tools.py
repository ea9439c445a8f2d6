"""The engine's own programs for the tests: llama-fit-params, and RPC servers in place of GPUs.

They are looked for in the folder of INFRA_LLM_LLAMA_TOOLS, else in the cache outside the tree where
tests/accuracy/build_tools.py puts them, by the source archive's sha256.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.target.engine_estimate import engine_estimate

VARIABLE = "INFRA_LLM_LLAMA_TOOLS"
PROGRAMS = ("llama-fit-params", "ggml-rpc-server")
SECONDS_TO_START = 20


@dataclass(frozen=True)
class Tools:
    """A folder with both programs."""

    folder: Path

    @property
    def build(self) -> str:
        """The build number that llama-fit-params gives itself."""
        done = subprocess.run(
            [self.folder / PROGRAMS[0], "--version"], capture_output=True, text=True, check=False
        )
        match = re.search(r"\bbuild:? (\d+)|version: (\d{3,})", done.stdout + done.stderr)
        return (match[1] or match[2]) if match else "unknown"

    def ask(self, model: Path, flags: list[str], servers: list[str]) -> list[list[int]] | None:
        """MiB of model, context and compute of each device, the host last; None if it stopped."""
        rpc = ["--rpc", ",".join(servers)] if servers else []
        arguments = ["--model", str(model), *rpc, *flags, "--fit-print", "on"]
        rows = engine_estimate(str(self.folder), arguments, 120)["devices"]
        return [[row["model_mib"], row["context_mib"], row["compute_mib"]] for row in rows] or None

    @contextmanager
    def servers(self, count: int) -> Iterator[list[str]]:
        """RPC servers on free loopback ports; they allocate nothing for llama-fit-params."""
        running: list[subprocess.Popen[bytes]] = []
        names: list[str] = []
        try:
            for _ in range(count):
                port = _free_port()
                command = [self.folder / PROGRAMS[1], "-H", "127.0.0.1", "-p", str(port)]
                running.append(
                    subprocess.Popen(
                        command,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env={**os.environ, "LD_LIBRARY_PATH": str(self.folder)},
                    )
                )
                _wait(port)
                names.append(f"127.0.0.1:{port}")
            yield names
        finally:
            for process in running:
                process.terminate()
                process.wait()


def source_artifact() -> dict[str, Any]:
    """The pinned source, as the role llama_cpp builds it."""
    found: dict[str, Any] = load_catalogue()["engines"]["llama.cpp"]["source"]["any"]
    return found


def cache_folder() -> Path:
    """Where the programs of the pinned source lie; outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "infra-llm", "llama-tools", source_artifact()["sha256"][:16])


def find_tools(folder: Path | None = None) -> Tools | None:
    """The programs of `folder`, of the variable's or of the cache; None where there are none."""
    given = os.environ.get(VARIABLE)
    for place in (folder, Path(given) if given else None, cache_folder() / "bin"):
        if place and all(os.access(place / name, os.X_OK) for name in PROGRAMS):
            return Tools(place)
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(port: int) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no RPC server on port {port}")
