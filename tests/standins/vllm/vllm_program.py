#!/usr/bin/python3
"""Stand-in for the program `vllm` of an image: `vllm serve --config FILE` over a real llama.cpp.

It reads the configuration as vLLM does, refuses what is not there, says in vLLM's words what cache
it has, and serves a tiny GGUF file of the image in place of the model. Standard library.
"""

import json
import os
import signal
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path("/opt/stand-in")
sys.path.insert(0, str(HERE))


def main() -> None:
    verb, option, path = sys.argv[1:]
    if (verb, option) != ("serve", "--config"):
        sys.exit(f"unexpected: {sys.argv[1:]}")
    settings = {}
    for line in Path(path).read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition(": ")
            settings[name] = json.loads(value)
    if (HERE / "broken").exists():
        sys.exit("RuntimeError: this image is broken")
    tokens = cache_tokens(Path(settings["model"]), settings["kv-cache-memory-bytes"])
    context = settings["max-model-len"]
    say(f"INFO stand-in [cpu_worker.py:1] CPU KV cache size: {tokens:,} tokens")
    say(f"INFO Maximum concurrency for {context:,} tokens per request: {tokens / context:.2f}x")
    # Where torch would compile to.
    Path(os.environ["VLLM_CACHE_ROOT"]).mkdir(parents=True, exist_ok=True)
    serve(settings)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def cache_tokens(folder: Path, room: int) -> int:
    """Tokens that the room holds, by config.json; the weights must be readable, too."""
    config = json.loads((folder / "config.json").read_text())
    for weights in folder.glob("*.safetensors"):
        with weights.open("rb") as stream:
            json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    head = config["hidden_size"] // config["num_attention_heads"]
    each = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2
    return int(room // each)


def serve(settings: dict) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(HERE / "model.gguf")
    params.model_alias = {settings["served-model-name"]}
    params.hostnames, params.port = [settings["host"]], settings["port"]
    params.n_ctx, params.n_parallel = 4096, 2
    params.kv_unified, params.fit_params = False, False
    params.endpoint_metrics = params.offline = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    say(f"serving on {server.listening_address}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
