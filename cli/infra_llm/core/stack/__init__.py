"""The NVIDIA stack of a machine: driver, CUDA, container toolkit, solved as one. Pure."""
