"""Stand-ins for vLLM's packages: the module that the unit starts, over a real llama.cpp server."""
