# What needs a kernel of its own: a machine under qemu's software emulation (docs/test-hosts.md),
# included by the Makefile. Root; an hour or two on two cores, so CI does not run it.
.PHONY: test-vm

test-vm: $(VENV)/.dev ## DKMS builds NVIDIA's modules for real kernels, in an emulated machine
	pytest tests/vm
