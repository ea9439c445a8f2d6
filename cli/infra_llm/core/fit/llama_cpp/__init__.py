"""The memory model, search and flags of llama.cpp's server."""
