"""What makes a machine this machine, in parts that can be compared one by one.

Parts that do not need a driver ("cpu", "memory", "system", "gpu:ADDRESS") make up "all", so that
installing a driver does not look like a hardware change. Parts that only a driver can tell
("gpu_identity:ADDRESS": UUID, name, VRAM, MIG slices) are kept beside it;
`core.hardware.changed_parts` compares them only where both sides know them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Dict

from ...core.hardware import Gpu, HostHardware
from .identity import gpu_label, rounded_gib


def fingerprint(host: HostHardware) -> Dict[str, str]:
    """{"cpu", "memory", "system", "gpu:<address>", "gpu_identity:<address>", "all"}."""
    parts = {
        "cpu": "{} {}x{}/{} {}".format(
            host.cpu.model,
            host.cpu.sockets,
            host.cpu.cores,
            host.cpu.threads,
            host.cpu.architecture,
        ),
        "memory": "{} GiB".format(rounded_gib(host.memory.total_mib)),
        "system": "{} {}".format(host.system.distribution, host.system.distribution_version),
    }
    if host.memory.limit_mib is not None:
        parts["memory_limit"] = "{} MiB".format(host.memory.limit_mib)
    for gpu in host.gpus:
        place = gpu.pci_address or gpu.uuid or str(gpu.index)
        parts["gpu:" + place] = gpu_label(gpu.pci_id or gpu.name, gpu.pci_subsystem_id)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()
    for gpu in host.gpus:
        if gpu.uuid:
            place = gpu.pci_address or gpu.uuid
            parts["gpu_identity:" + place] = gpu_identity(gpu)
    parts["all"] = digest[:32]
    return parts


def gpu_identity(gpu: Gpu) -> str:
    """UUID, name, VRAM and MIG slices: what tells a card from another of its kind."""
    text = "{} {} {} GiB".format(gpu.uuid, gpu.name, rounded_gib(gpu.vram_total_mib or 0))
    slices = ",".join(sorted(i.profile for i in gpu.mig_instances))
    return "{} MIG[{}]".format(text, slices) if gpu.mig_enabled else text
