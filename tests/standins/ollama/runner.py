"""The llama-server that the stand-in for Ollama starts for a model, and what its log tells."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from store import STORE, RefusedError

LIBRARY = Path(__file__).resolve().parents[1]
_BUFFER = re.compile(r"(\S+)\s+(?:model|KV|compute|output|RS)\s+buffer size\s*=\s*([\d.]+) MiB")


def say(text: str) -> None:
    sys.stderr.write(f"stand-in for ollama: {text}\n")
    sys.stderr.flush()


class Runner:
    """One llama-server for the model in use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._loaded: tuple[str, str] = ("", "")
        self._buffers: dict[str, float] = {}
        self.name, self.port, self.params = "", 0, {}  # type: str, int, dict[str, Any]

    def use(self, name: str) -> int:
        """The port of a llama-server that serves the model, started when it is not there."""
        model = STORE.read(name)
        key = (model["model"], json.dumps(model["params"], sort_keys=True))
        with self._lock:
            dead = self._process is None or self._process.poll() is not None
            if dead or key != self._loaded:
                self.stop()
                self._start(name, model)
                self._loaded = key
        return self.port

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def _start(self, name: str, model: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name, self.params, self._buffers = name, model["params"], {}
        command = [str(LIBRARY / "llama-server"), "--model", model["model"]]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *self._flags()]
        say("starting " + " ".join(command))
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._pass_on, args=(self._process,), daemon=True).start()
        deadline = time.monotonic() + _seconds(os.environ.get("OLLAMA_LOAD_TIMEOUT", "300s"))
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RefusedError(500, "llama runner process has terminated")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise RefusedError(500, "timed out waiting for llama runner to start")

    def _flags(self) -> list[str]:
        slots = int(os.environ.get("OLLAMA_NUM_PARALLEL") or 1)
        default = int(os.environ.get("OLLAMA_CONTEXT_LENGTH") or 4096)
        context = int(self.params.get("num_ctx") or default)
        flags = ["-c", str(context * slots), "-np", str(slots)]
        if os.environ.get("OLLAMA_KV_CACHE_TYPE"):
            kind = os.environ["OLLAMA_KV_CACHE_TYPE"]
            flags += ["--cache-type-k", kind, "--cache-type-v", kind]
        flash = {"1": "on", "0": "off"}.get(os.environ.get("OLLAMA_FLASH_ATTENTION", ""), "auto")
        flags += ["--flash-attn", flash]
        for name, flag in (("num_batch", "-b"), ("num_batch", "-ub"), ("num_gpu", "-ngl"),
                           ("num_thread", "-t")):  # fmt: skip
            if name in self.params:
                flags += [flag, str(int(self.params[name]))]
        return flags

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            sys.stderr.flush()
            found = _BUFFER.search(line)
            if found:
                name = found.group().split(" buffer")[0]
                self._buffers[name] = float(found.group(2))

    def loaded(self) -> list[dict[str, Any]]:
        if self._process is None or self._process.poll() is not None:
            return []
        total = sum(self._buffers.values())
        on_gpu = sum(
            size for name, size in self._buffers.items() if not re.match(r"CPU|\S+_Host", name)
        )
        name = self.name if ":" in self.name else self.name + ":latest"
        context = self.params.get("num_ctx")
        return [
            {
                "name": name,
                "model": name,
                "size": int(total * 2**20),
                "size_vram": int(on_gpu * 2**20),
                "digest": STORE.read(self.name)["digest"],
                "expires_at": "2318-01-01T00:00:00Z",
                "context_length": context,
            }
        ]


def _seconds(text: str) -> float:
    return float(text[:-1]) if text.endswith("s") else float(text)


RUNNER = Runner()
