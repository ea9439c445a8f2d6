"""Stand-in for vLLM's image: `vllm serve --config` over a real llama.cpp server."""
