"""HostHardware: what one machine is, as plain data.

Pure. It travels to targets as a module utility, so it is standard library only and runs on
Python 3.8. Sizes are MiB (binary), bandwidths GB/s (decimal, as vendors give them), speeds of
network links Mbit/s, power W. `None` means "could not be read"; `sources` says where each value
came from, by dotted path ("cpu.model" -> "/proc/cpuinfo"), and `errors` what could not be read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

SCHEMA = "infra-llm/host-hardware/1"


@dataclass
class Cpu:
    model: str = ""
    architecture: str = ""
    sockets: int = 1
    cores: int = 1
    """Physical cores of the whole machine."""
    threads: int = 1
    instruction_sets: List[str] = field(default_factory=list)
    """The ones that matter to inference: avx2, fma, f16c, avx512f, amx_int8, neon, sve ..."""
    usable_threads: int = 1
    """What this machine may use: affinity and cgroup quota taken off."""
    memory_bandwidth_gbs: Optional[float] = None
    """Measured by a triad on request, else None."""


@dataclass
class Memory:
    total_mib: int = 0
    available_mib: int = 0
    limit_mib: Optional[int] = None
    """The cgroup's limit where one caps the RAM."""
    swap_total_mib: int = 0
    hugepages_total: int = 0
    hugepage_size_kib: int = 0


@dataclass
class NumaNode:
    index: int
    cpus: str
    total_mib: int = 0
    gpus: List[str] = field(default_factory=list)
    """PCI addresses."""
    nics: List[str] = field(default_factory=list)


@dataclass
class Disk:
    mount: str
    device: str = ""
    filesystem: str = ""
    total_mib: int = 0
    free_mib: int = 0
    rotational: Optional[bool] = None
    read_mib_s: Optional[float] = None


@dataclass
class NetworkInterface:
    name: str
    speed_mbit_s: Optional[int] = None
    up: bool = False
    addresses: List[str] = field(default_factory=list)
    pci_address: str = ""
    rdma: str = ""
    """InfiniBand, RoCE or empty."""
    rdma_state: str = ""
    numa_node: Optional[int] = None


@dataclass
class GpuProcess:
    pid: int
    used_mib: Optional[int] = None
    name: str = ""


@dataclass
class MigInstance:
    profile: str
    uuid: str = ""
    memory_mib: Optional[int] = None


@dataclass
class GpuLink:
    """How a GPU reaches a peer: NV4 (NVLinks), XGMI, PIX, PXB, PHB, NODE, SYS; GB/s one way."""

    peer: str
    kind: str
    bandwidth_gbs: Optional[float] = None


@dataclass
class Gpu:
    index: int
    vendor: str
    """nvidia, amd or intel."""
    name: str = ""
    uuid: str = ""
    pci_address: str = ""
    pci_id: str = ""
    """vendor:device, e.g. 10de:2504."""
    pci_subsystem_id: str = ""
    pci_revision: str = ""
    """As "c8": AMD tells boards of one device id apart by it."""
    kernel_driver: str = ""
    """The driver bound to the device: nvidia, nouveau, amdgpu, i915, xe, vfio-pci or empty."""
    vram_total_mib: Optional[int] = None
    vram_free_mib: Optional[int] = None
    vram_reserved_mib: Optional[int] = None
    compute_capability: Optional[str] = None
    """NVIDIA, as "8.6"."""
    gfx_target: Optional[str] = None
    """AMD, as "gfx942"."""
    memory_bandwidth_gbs: Optional[float] = None
    memory_bandwidth_measured_gbs: Optional[float] = None
    architecture: str = ""
    """Ampere, CDNA3 ...; from the GPU table."""
    fp16_tflops: Optional[float] = None
    """Dense FP16 rate of the GPU table, tensor or matrix cores where there are any."""
    integrated: bool = False
    """A processor's own small GPU, for a display: nothing is planned for it. GB10, Jetson and
    Strix Halo are not this, they are unified-memory systems."""
    unified_memory: bool = False
    """Its memory is the host's RAM: a MiB used by one is gone for the other."""
    mig_enabled: Optional[bool] = None
    mig_instances: List[MigInstance] = field(default_factory=list)
    ecc_enabled: Optional[bool] = None
    power_limit_w: Optional[float] = None
    pcie_generation: Optional[int] = None
    pcie_generation_max: Optional[int] = None
    pcie_width: Optional[int] = None
    pcie_width_max: Optional[int] = None
    persistence_mode: Optional[bool] = None
    numa_node: Optional[int] = None
    shared_memory_mib: Optional[int] = None
    """RAM of the host that the GPU may use besides its own (AMD's GTT)."""
    fault: str = ""
    """Why the card can't be used though it is there; empty for a sound one."""
    links: List[GpuLink] = field(default_factory=list)
    nics: List[GpuLink] = field(default_factory=list)
    """The way to each network interface, `peer` its name."""
    processes: List[GpuProcess] = field(default_factory=list)


@dataclass
class DriverState:
    """The NVIDIA (or AMD, Intel) kernel and user side as found, not as wished."""

    module_loaded: bool = False
    module_version: Optional[str] = None
    library_version: Optional[str] = None
    cuda_version: Optional[str] = None
    """The newest CUDA the driver serves, as "12.8"."""
    module_flavour: Optional[str] = None
    """open or proprietary."""
    rocm_version: Optional[str] = None
    nouveau_bound: bool = False
    dkms: List[str] = field(default_factory=list)
    kernel_headers: Optional[bool] = None
    secure_boot: Optional[bool] = None
    reboot_required: bool = False
    held_packages: List[str] = field(default_factory=list)
    nvswitch: bool = False
    fabric_manager: bool = False
    """Whether NVIDIA's Fabric Manager is installed; NVSwitch boards need it."""
    container_runtimes: List[str] = field(default_factory=list)
    cdi_files: List[str] = field(default_factory=list)


@dataclass
class System:
    hostname: str = ""
    distribution: str = ""
    """ID of os-release: debian, ubuntu, rocky ..."""
    distribution_version: str = ""
    kernel: str = ""
    virtualization: str = ""
    """none, kvm, ... or a container kind."""
    service_manager: str = ""
    """systemd where it is pid 1, else none."""
    python: str = ""
    iommu: Optional[bool] = None
    iommu_mode: str = ""
    """off, passthrough or translated; empty if unknown."""
    acs: Optional[bool] = None
    """Whether a bridge above a GPU redirects peer-to-peer traffic; None without root."""
    proxies: Dict[str, str] = field(default_factory=dict)


@dataclass
class HostHardware:
    system: System = field(default_factory=System)
    cpu: Cpu = field(default_factory=Cpu)
    memory: Memory = field(default_factory=Memory)
    gpus: List[Gpu] = field(default_factory=list)
    driver: DriverState = field(default_factory=DriverState)
    numa: List[NumaNode] = field(default_factory=list)
    disks: List[Disk] = field(default_factory=list)
    network: List[NetworkInterface] = field(default_factory=list)
    fingerprint: Dict[str, str] = field(default_factory=dict)
    """Parts that can be compared one by one; `fingerprint["all"]` stands for the machine."""
    sources: Dict[str, str] = field(default_factory=dict)
    errors: List[Dict[str, str]] = field(default_factory=list)
    """Each {"part", "what", "hint"}."""
    schema: str = SCHEMA

    def to_dict(self) -> Dict[str, Any]:
        return dataclasses.asdict(self)


def accelerators(host: HostHardware) -> List[Gpu]:
    """The GPUs that an engine on this host is to use, in CUDA's order by PCI address.

    Left out: integrated GPUs, cards with a fault, and cards set aside for a virtual machine. CUDA
    gives a process whole GPUs or one MIG instance: where only sliced GPUs are left, the largest
    instance stands alone, with the share of bandwidth that its memory is and of compute that its
    slices are of seven (NVIDIA's MIG user guide).
    """
    usable = [
        gpu
        for gpu in host.gpus
        if not gpu.integrated and not gpu.fault and gpu.kernel_driver != "vfio-pci"
    ]
    whole = [gpu for gpu in usable if not gpu.mig_enabled]
    if whole:
        return whole
    instances = [mig_device(gpu, part) for gpu in usable for part in gpu.mig_instances]
    return sorted(instances, key=lambda gpu: -(gpu.vram_total_mib or 0))[:1]


def mig_device(gpu: Gpu, instance: MigInstance) -> Gpu:
    """One MIG instance as a GPU of its own."""
    slices = instance.profile.split("g.")[0]
    compute = int(slices) / 7.0 if slices.isdigit() else None
    share = None
    if instance.memory_mib and gpu.vram_total_mib:
        share = min(1.0, instance.memory_mib / float(gpu.vram_total_mib))
    return dataclasses.replace(
        gpu,
        name="{} MIG {}".format(gpu.name, instance.profile),
        uuid=instance.uuid,
        vram_total_mib=instance.memory_mib,
        vram_free_mib=instance.memory_mib,
        vram_reserved_mib=0,
        memory_bandwidth_gbs=_scaled(gpu.memory_bandwidth_gbs, share),
        fp16_tflops=_scaled(gpu.fp16_tflops, compute),
        mig_instances=[],
        links=[],
    )


def _scaled(value: Optional[float], share: Optional[float]) -> Optional[float]:
    return round(value * share, 1) if value is not None and share is not None else None


def changed_parts(before: Dict[str, str], after: Dict[str, str]) -> List[str]:
    """Names of the fingerprint parts that differ, "all" left out; [] for the same machine.

    A part that only a driver can tell ("gpu_identity:...") counts only where both sides have it.
    """
    names = []
    for name in sorted(set(before) | set(after)):
        if name == "all" or before.get(name) == after.get(name):
            continue
        if name.startswith("gpu_identity:") and not (name in before and name in after):
            continue
        names.append(name)
    return names
