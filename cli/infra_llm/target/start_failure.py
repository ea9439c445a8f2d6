"""Why an engine did not start, out of its own last lines. Pure, standard library, Python 3.8."""

from __future__ import annotations

import re
from typing import Iterable

OUT_OF_MEMORY = re.compile(
    "|".join(
        (
            # ggml's CUDA and HIP backends (ggml-org/llama.cpp#20431, ollama/ollama#6860, #3418)
            r"(?:cuda|hip)Malloc failed: out of memory",
            r"CUDA error: out of memory",
            # llama.cpp's own word, whatever the backend (ggml-org/llama.cpp#20431, #11476)
            r"(?:unable|failed) to allocate \S+ buffer",
            r"failed to allocate compute (?:buffers|pp buffers)",
            r"failed to allocate buffer for kv cache",
            # Vulkan and SYCL report by their drivers' words
            r"ErrorOutOfDeviceMemory",
            r"UR_RESULT_ERROR_OUT_OF_(?:DEVICE|HOST)_MEMORY",
            # PyTorch (vllm-project/vllm#2248) and vLLM's own sizing of the cache
            r"(?:torch\.)?(?:cuda\.)?OutOfMemoryError",
            r"No available memory for the cache blocks",
            # systemd's result where the kernel ended it (MemoryMax=, or the machine's own end)
            r"^oom-kill",
        )
    )
)


def out_of_memory(lines: Iterable[str]) -> str:
    """The first line that says that the memory was not there; "" for another reason."""
    return next((line.strip() for line in lines if OUT_OF_MEMORY.search(line)), "")
