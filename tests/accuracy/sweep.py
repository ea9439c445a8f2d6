"""Ask the engine itself about a folder of models and keep the answers as a fixture.

The engine's llama-fit-params works out buffers without allocating them, and ggml-rpc-server
processes on loopback stand in for GPUs. Build both from the engine's source, let its
test-llama-archs write a small model of every architecture (-o FOLDER), then:

    python -m tests.accuracy.sweep --fit-params PATH --rpc-server PATH --build 11434 FOLDER
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from infra_llm.core.errors import InfraLlmError
from infra_llm.readers.gguf_file import read_gguf

FLAGS = {
    "flash": ["-c", "4096", "-ngl", "99", "-fa", "on", "-ub", "1024", "-b", "1024"],
    "plain": ["-c", "4096", "-ngl", "99", "-fa", "off", "-ub", "1024", "-b", "1024"],
    "two": "-c 8192 -ngl 99 -fa on -ub 512 -b 1024 -ts 1,1 -np 2".split(),  # noqa: SIM905
    "part": "-c 4096 -ngl 2 -fa on -ub 1024 -b 1024 -ctk q8_0 -ctv q8_0".split(),  # noqa: SIM905
}
FIXTURE = Path(__file__).parents[1] / "fixtures" / "ground-truth" / "architectures.json"
PORT = 50190
TRIES = 4


def ask(tool: str, model: Path, flags: list[str], devices: int) -> dict[str, Any] | None:
    """Cache and compute MiB of one launch, or None where the engine refuses it."""
    servers = ",".join(f"127.0.0.1:{PORT + n}" for n in range(devices))
    command = [tool, "-m", str(model), "--rpc", servers, *flags, "-fitp", "on", "-lv", "5"]
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        text = done.stdout + done.stderr
        compute = re.findall(r"sched_reserve: +\S+ compute buffer size = +([\d.]+) MiB", text)
        if done.returncode or not compute:
            continue
        sizes = re.findall(r"llama_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB", text)
        return {
            "flags": flags,
            "devices": devices,
            "cache_mib": round(sum(map(float, sizes)), 2),
            "compute_mib": [float(size) for size in compute],
        }
    return None


def compact(profile: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the profile's defaults say."""
    kept = {key: value for key, value in profile.items() if value and key not in {"name", "parts"}}
    kept["hyper"] = {
        key: value
        for key, value in profile["hyper"].items()
        if not (isinstance(value, list) and len(value) > profile["hyper"]["block_count"] + 4)
        and (value or key == "attention.sliding_window")
    }
    kept["tensors"] = [
        {key: value for key, value in group.items() if value} for group in profile["tensors"]
    ]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit-params", required=True)
    parser.add_argument("--rpc-server", required=True)
    parser.add_argument("--build", required=True)
    options = parser.parse_args()
    servers = [
        subprocess.Popen(
            [options.rpc_server, "-H", "127.0.0.1", "-p", str(PORT + n)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for n in range(2)
    ]
    time.sleep(1)
    models = []
    try:
        for path in sorted(options.folder.glob("*.gguf")):
            try:
                profile = compact(read_gguf(path).to_dict())
            except InfraLlmError:
                continue
            rows = [
                ask(options.fit_params, path, flags, 2 if name == "two" else 1)
                for name, flags in FLAGS.items()
            ]
            models.append(
                {"name": path.stem, "profile": profile, "rows": [row for row in rows if row]}
            )
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    lines = ",\n".join(json.dumps(model, separators=(",", ":")) for model in models)
    FIXTURE.write_text(
        f'{{"tool":"llama-fit-params, build {options.build}","models":[\n{lines}\n]}}\n'
    )


if __name__ == "__main__":
    main()
