#!/usr/bin/python3
"""A stand-in for llama-server on the cards of the stand-in machine, over a real server on the CPU.

What it does itself are the parts of a CUDA build that a swap of cards meets: it dies of "no kernel
image" where it was not compiled for the card (a cubin runs on its own major capability, from its
own minor one on: CUDA programming guide, "Binary compatibility"), and says how many layers it put
on the GPU; or keeps silent where CUDA does not come up, as llama.cpp does, and serves on the CPU
(FALLBACK). The completions are those of the wheel's real server, with a context that the machine's
RAM can hold: the card's memory is not there. The lines are a real server's (tests/fixtures/logs).
"""

import json
import os
import re
import sys
from pathlib import Path

CARDS = Path("/etc/infra-llm-standin/current/gpus.topology")
FALLBACK = Path("/run/cuda-does-not-come-up")
LAUNCH = Path("/etc/infra-llm/launch.json")
WHEEL = "/srv/standin"
LAYERS = 31
"""Of the model of the test, SmolLM2-135M: 30 blocks and the output."""
LARGEST_CONTEXT = 4096


def main():
    cards = capabilities()
    compiled = [int(name) for name in re.findall(r"\d+", os.environ["STAND_IN_ARCHITECTURES"])]
    for card in cards:
        if not any(card // 10 == own // 10 and own <= card for own in compiled):
            sys.exit(
                "ggml_cuda_compute_forward: MUL_MAT failed\n"
                "CUDA error: no kernel image is available for execution on the device"
            )
    sys.path.insert(0, WHEEL)
    import xllamacpp

    if cards and not FALLBACK.exists():
        real = xllamacpp.Server
        xllamacpp.Server = lambda params: offloaded(real(params))
    launch = json.loads(LAUNCH.read_text())
    flags = dict(launch["flags"], n_gpu_layers=0)
    flags["ctx_size"] = min(flags["ctx_size"], LARGEST_CONTEXT)
    sys.path.insert(0, "/opt/infra-llm/bin")
    import launch as launcher

    known = {name: value for name, value in flags.items() if name not in ON_CARDS}
    launcher.serve_from_wheel(dict(launch, release=WHEEL, flags=known))


ON_CARDS = ("split_mode", "tensor_split", "main_gpu", "fit_target")
"""Flags that a build for the CPU has no use for."""


def offloaded(server):
    """Says of a server that is up what a card would hold; what it says itself came before."""
    wished = int(sys.argv[sys.argv.index("--n-gpu-layers") + 1])
    size = Path(sys.argv[sys.argv.index("--model") + 1]).stat().st_size / 2**20
    say(f"load_tensors: offloaded {min(wished, LAYERS)}/{LAYERS} layers to GPU")
    say(f"load_tensors:        CUDA0 model buffer size = {size:8.2f} MiB")
    return server


def capabilities():
    """Compute capabilities (times ten) of the machine's cards."""
    if not CARDS.exists():
        return []
    return [int(found) for found in re.findall(r"^\s*capability (\d+)", CARDS.read_text(), re.M)]


def say(text):
    sys.stderr.write(f"0.00.100.000 I {text}\n")
    sys.stderr.flush()


main()
