#!/usr/bin/env python3
"""Stand-in for the llama-server in Ollama's archive: a real llama.cpp server, out of a wheel.

It is packed as lib/ollama/llama-server beside the unpacked wheel xllamacpp and takes the flags that
Ollama gives (llm/llama_server.go). Standard library, Python 3.10.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent / "python"))

import xllamacpp  # noqa: E402


def main() -> None:
    given = arguments().parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames, params.port = [given.host], given.port
    params.offline, params.verbosity = True, 4
    params.n_ctx, params.n_parallel = given.c, given.np
    params.kv_unified = False
    params.fit_params = os.environ.get("LLAMA_ARG_FIT", "on") == "on"
    params.cache_ram_mib = int(os.environ.get("LLAMA_ARG_CACHE_RAM", "8192"))
    flash = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[given.flash_attn]
    kinds = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = getattr(kinds, "LLAMA_FLASH_ATTN_TYPE_" + flash)
    for name in ("cache_type_k", "cache_type_v"):
        kind = "GGML_TYPE_" + getattr(given, name).upper()
        setattr(params, name, getattr(xllamacpp.ggml_type, kind))
    if given.b:
        params.n_batch = given.b
    if given.ub:
        params.n_ubatch = given.ub
    if given.ngl is not None:
        params.n_gpu_layers = given.ngl
    if given.t:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.t
    server = xllamacpp.Server(params)
    sys.stderr.write(f"serving on {server.listening_address}\n")
    sys.stderr.flush()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("-c", "-np"):
        parser.add_argument(name, type=int, required=True)
    for name in ("-b", "-ub", "-ngl", "-t"):
        parser.add_argument(name, type=int)
    parser.add_argument("--cache-type-k", default="f16")
    parser.add_argument("--cache-type-v", default="f16")
    parser.add_argument("--flash-attn", default="auto")
    return parser


if __name__ == "__main__":
    main()
