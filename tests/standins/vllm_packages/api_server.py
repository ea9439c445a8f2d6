"""Stand-in for vllm.entrypoints.openai.api_server: `--config FILE` over a real llama.cpp server.

It reads the configuration as vLLM does, says in vLLM's words what cache it has, and answers with
the GGUF file that lies beside the model's safetensors. Packed by build.py as a wheel.
"""

import json
import os
import signal
import sys
from pathlib import Path

import xllamacpp


def main():
    option, path = sys.argv[1:]
    if option != "--config":
        sys.exit(f"unexpected: {sys.argv[1:]}")
    lines = Path(path).read_text().splitlines()
    rows = (line.partition(": ") for line in lines if not line.startswith("#"))
    settings = {name: json.loads(value) for name, _, value in rows}
    folder = Path(settings["model"])
    config = json.loads((folder / "config.json").read_text())
    if not list(folder.glob("*.safetensors")):
        sys.exit(f"RuntimeError: Cannot find any model weights with `{folder}`")
    head = config["hidden_size"] // config["num_attention_heads"]
    each = 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    tokens = max(settings["kv-cache-memory-bytes"] // each, 1)
    context = settings["max-model-len"]
    say(f"INFO [kv_cache_utils.py:1] CPU KV cache size: {tokens:,} tokens")
    say(f"INFO Maximum concurrency for {context:,} tokens per request: {tokens / context:.2f}x")
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / "stand-in.gguf")
    params.model_alias = {settings["served-model-name"]}
    params.hostnames, params.port = [settings["host"]], settings["port"]
    params.n_ctx, params.n_parallel = 2048, 1
    params.fit_params = False
    params.endpoint_metrics = params.offline = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    say(f"serving on {server.listening_address}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


main()
