#!/usr/bin/python3
"""A stand-in for a llama-server on a GPU that is too small: out of memory above LIMIT tokens.

Put as `llama-server` into a release that holds the wheel: with a context that is small enough the
wheel's real server answers. The lines are a real server's (ggml-org/llama.cpp#20431, #11476).
"""

import json
import sys
from pathlib import Path

LIMIT = int(Path("/run/oom-limit").read_text())
LAUNCH = Path("/etc/infra-llm/launch.json")


def main():
    context = int(sys.argv[sys.argv.index("--ctx-size") + 1])
    if context > LIMIT:
        sys.stderr.write(
            "0.00.100.000 I load_tensors: loading model tensors, this can take a while...\n"
            "0.00.200.000 E ggml_backend_cuda_buffer_type_alloc_buffer: allocating %.2f MiB on "
            "device 0: cudaMalloc failed: out of memory\n"
            "0.00.200.001 E ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer\n"
            "0.00.200.002 E graph_reserve: failed to allocate compute buffers\n"
            "0.00.200.003 E main: exiting due to model loading error\n" % (context / 8)
        )
        sys.exit(1)
    launch = json.loads(LAUNCH.read_text())
    sys.path.insert(0, "/opt/infra-llm/bin")
    import launch as launcher

    launcher.serve_from_wheel(launch)


main()
