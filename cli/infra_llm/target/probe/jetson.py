"""NVIDIA Jetson: the GPU is part of the chip, named by the device tree and not by PCI."""

from __future__ import annotations

from typing import List

from ...core.hardware import DriverState, Gpu
from .context import Context

# Tegra chips by the device tree's `compatible`: name of the GPU table, compute capability.
# Source: kernel arch/arm64/boot/dts/nvidia, CUDA GPUs page of NVIDIA.
CHIPS = {
    "nvidia,tegra194": ("NVIDIA Jetson AGX Xavier", "7.2"),
    "nvidia,tegra234": ("NVIDIA Jetson AGX Orin", "8.7"),
    "nvidia,tegra264": ("NVIDIA Jetson AGX Thor", "11.0"),
}
MODELS = ("Orin Nano", "Orin NX", "AGX Orin", "AGX Xavier", "AGX Thor")


def read_jetson(context: Context, gpus: List[Gpu], driver: DriverState) -> None:
    """Add the integrated GPU of a Jetson; its memory is the host's."""
    compatible = context.read_bytes("/proc/device-tree/compatible").decode("ascii", "replace")
    chip = next((c for c in compatible.split("\0") if c in CHIPS), None)
    if chip is None:
        return
    name, capability = CHIPS[chip]
    model = context.read("/proc/device-tree/model")
    for known in MODELS:
        if known in model:
            name = "NVIDIA Jetson " + known
    existing = [gpu for gpu in gpus if gpu.vendor == "nvidia"]
    gpu = existing[0] if existing else Gpu(index=len(gpus), vendor="nvidia")
    if not existing:
        gpus.append(gpu)
    gpu.name = name
    gpu.compute_capability = capability
    gpu.unified_memory = True
    if not gpu.kernel_driver and context.exists("/sys/module/nvgpu"):
        gpu.kernel_driver = "nvgpu"
    release = context.read("/etc/nv_tegra_release").splitlines()
    if release:
        driver.module_loaded = True
        context.source("driver.module_loaded", "/etc/nv_tegra_release")
    context.source("gpus[{}]".format(gpu.index), "/proc/device-tree")
