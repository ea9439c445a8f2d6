"""NVIDIA GPUs through pynvml, which travels with the run.

How pynvml gets to the target: the controller has the distribution nvidia-ml-py; its pynvml.py is
one pure-Python file. `infra_llm.readers.probe_payload.pynvml_payload()` packs the part that is
asked here (33 kB of text), and the action plugin passes that to the module as the argument
`pynvml` (declared `no_log`, so that neither syslog nor the result repeats it). The module hands
it to `ProbeOptions(pynvml_source=...)`, and `load_pynvml` makes a module of it, only where the
host has libnvidia-ml.so.1. Nothing is written to the target's disk.
"""

from __future__ import annotations

import base64
import ctypes
import sys
import types
import zlib
from typing import Any, Dict, List, Optional

from .context import Context

COMPRESSED = "zlib+base64:"
MIB = 1024 * 1024
LIBRARY_PLACES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/local/nvidia/lib64",
)


def load_pynvml(source: Optional[str]) -> Any:
    """A pynvml module from its source (plain, or "zlib+base64:..."), else the installed one.

    Raises ImportError when there is neither or the text is no pynvml.
    """
    if not source:
        import pynvml

        return pynvml
    try:
        if source.startswith(COMPRESSED):
            packed = base64.b64decode(source[len(COMPRESSED) :])
            source = zlib.decompress(packed).decode("utf-8")
        module = types.ModuleType("pynvml")
        code = compile(source, "pynvml.py", "exec")
        sys.modules["pynvml"] = module
        exec(code, module.__dict__)  # noqa: S102 - our own controller sent it
    except Exception as error:
        raise ImportError(
            "the pynvml that came with the run can't be used: {}".format(error)
        ) from error
    if not hasattr(module, "nvmlInit"):
        raise ImportError("the pynvml that came with the run has no nvmlInit")
    return module


def find_library(context: Context, name: str = "libnvidia-ml.so.1") -> str:
    """Path of a library under the root, its bare name where only the loader knows it, or ""."""
    for place in LIBRARY_PLACES:
        if context.exists("{}/{}".format(place, name)):
            return context.path("{}/{}".format(place, name))
    if context.root != "/":
        return ""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return "" if "cannot open shared object file" in str(error) else name
    return name


def read_nvml(context: Context, library: str) -> Dict[str, Any]:
    """Everything NVML tells, as JSON data; runs in a child process (see context.isolated).

    {"failure": ""|text, "code": NVML error number or None, "driver_version", "cuda_version",
     "gpus": [values of core.hardware.Gpu by field name], "links": {address: [[peer, kind, GB/s]]},
     "errors": [[part, what]]}
    """
    answer: Dict[str, Any] = {"failure": "", "code": None, "gpus": [], "links": {}, "errors": []}
    nvml = load_pynvml(context.options.pynvml_source)
    try:
        nvml.nvmlLib = ctypes.CDLL(library)
        nvml.nvmlInit()
    except OSError as error:
        answer["failure"] = str(error)
        return answer
    except nvml.NVMLError as error:
        answer["failure"], answer["code"] = str(error), int(error.value)
        return answer
    reader = NvmlReader(nvml, answer)
    answer["driver_version"] = reader.ask(nvml.nvmlSystemGetDriverVersion)
    answer["library_version"] = reader.ask(nvml.nvmlSystemGetNVMLVersion)
    cuda = reader.ask(nvml.nvmlSystemGetCudaDriverVersion_v2)
    answer["cuda_version"] = "{}.{}".format(cuda // 1000, cuda % 1000 // 10) if cuda else None
    reader.read_all()
    return answer


class CardGoneError(Exception):
    """A card that answers nothing any more: the driver says lost, or reset required."""


class NvmlReader:
    """Asks NVML one thing at a time: what one card refuses, the others still answer."""

    def __init__(self, nvml: Any, answer: Dict[str, Any]) -> None:
        self.nvml = nvml
        self.answer = answer
        quiet = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NOT_FOUND", "INVALID_ARGUMENT")
        gone = ("GPU_IS_LOST", "RESET_REQUIRED")
        self.gone = {getattr(nvml, "NVML_ERROR_" + name, None) for name in gone}
        self.quiet = {getattr(nvml, "NVML_ERROR_" + name, None) for name in quiet}

    def ask(self, function: Any, *arguments: Any, part: str = "driver") -> Any:
        """The answer, or None; refusals other than "not supported" are kept as errors."""
        try:
            value = function(*arguments)
        except self.nvml.NVMLError as error:
            if error.value in self.gone:
                raise CardGoneError(str(error)) from error
            if error.value not in self.quiet:
                entry = [part, "{}: {}".format(function.__name__, error)]
                if entry not in self.answer["errors"]:
                    self.answer["errors"].append(entry)
            return None
        except (AttributeError, TypeError, ValueError, UnicodeDecodeError) as error:
            self.answer["errors"].append([part, "{}: {}".format(function.__name__, error)])
            return None
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def read_all(self) -> None:
        nvml = self.nvml
        handles = {}
        for index in range(self.ask(nvml.nvmlDeviceGetCount) or 0):
            part = "gpus[{}]".format(index)
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:
                self.answer["errors"].append([part, "GPU {}: {}".format(index, error)])
                continue
            try:
                gpu = self.gpu(handle, part)
            except CardGoneError as error:
                self.answer["errors"].append([part, "GPU {}: {}".format(index, error)])
                continue
            gpu["index"] = index
            self.answer["gpus"].append(gpu)
            if gpu["pci_address"]:
                handles[gpu["pci_address"]] = handle
        for address, handle in handles.items():
            try:
                self.answer["links"][address] = self.links(address, handle, handles)
            except CardGoneError as error:
                self.answer["errors"].append(["topology", "{}: {}".format(address, error)])

    def gpu(self, handle: Any, part: str) -> Dict[str, Any]:
        nvml = self.nvml

        def ask(function: Any, *arguments: Any) -> Any:
            return self.ask(function, handle, *arguments, part=part)

        gpu: Dict[str, Any] = {"vendor": "nvidia"}
        gpu["name"] = ask(nvml.nvmlDeviceGetName) or ""
        gpu["uuid"] = ask(nvml.nvmlDeviceGetUUID) or ""
        gpu.update(self.place(handle, part))
        gpu.update(self.memory(handle, part))
        capability = ask(nvml.nvmlDeviceGetCudaComputeCapability)
        gpu["compute_capability"] = "{}.{}".format(*capability) if capability else None
        gpu["memory_bandwidth_gbs"] = self.bandwidth(handle, part)
        ecc = ask(nvml.nvmlDeviceGetEccMode)
        gpu["ecc_enabled"] = bool(ecc[0]) if ecc else None
        limit = ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
        gpu["power_limit_w"] = limit / 1000.0 if limit else None
        gpu["pcie_generation"] = ask(nvml.nvmlDeviceGetCurrPcieLinkGeneration)
        gpu["pcie_generation_max"] = ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration)
        gpu["pcie_width"] = ask(nvml.nvmlDeviceGetCurrPcieLinkWidth)
        gpu["pcie_width_max"] = ask(nvml.nvmlDeviceGetMaxPcieLinkWidth)
        persistence = ask(nvml.nvmlDeviceGetPersistenceMode)
        gpu["persistence_mode"] = bool(persistence) if persistence is not None else None
        gpu.update(self.mig(handle, part))
        gpu["processes"] = self.processes(handle, part)
        return gpu

    def place(self, handle: Any, part: str) -> Dict[str, Any]:
        from .pci import normal_address

        info = self.ask(self.nvml.nvmlDeviceGetPciInfo, handle, part=part)
        if info is None:
            return {"pci_address": "", "pci_id": "", "pci_subsystem_id": ""}
        bus = info.busId
        bus = bus.decode("ascii", "replace") if isinstance(bus, bytes) else str(bus)
        return {
            "pci_address": normal_address(bus),
            "pci_id": _pci_pair(info.pciDeviceId),
            "pci_subsystem_id": _pci_pair(info.pciSubSystemId),
        }

    def memory(self, handle: Any, part: str) -> Dict[str, Any]:
        """v2 tells what the driver keeps for itself; old drivers have v1 only."""
        nvml = self.nvml
        info = None
        version = getattr(nvml, "nvmlMemory_v2", None)
        if version is not None:
            info = self.ask(nvml.nvmlDeviceGetMemoryInfo, handle, version, part=part)
        info = info or self.ask(nvml.nvmlDeviceGetMemoryInfo, handle, part=part)
        if info is None:
            return {"vram_total_mib": None, "vram_free_mib": None, "vram_reserved_mib": None}
        reserved = getattr(info, "reserved", None)
        return {
            "vram_total_mib": int(info.total) // MIB,
            "vram_free_mib": int(info.free) // MIB,
            "vram_reserved_mib": int(reserved) // MIB if reserved is not None else None,
        }

    def bandwidth(self, handle: Any, part: str) -> Optional[float]:
        """GB/s: the highest memory clock, two transfers a cycle, times the bus width.

        NVML counts the clock so for GDDR5 to GDDR7 and HBM alike: 9,751 MHz and 384 bits are the
        936 GB/s of an RTX 3090, 2,619 MHz and 5,120 bits the 3.35 TB/s of an H100.
        """
        nvml = self.nvml
        width_of = getattr(nvml, "nvmlDeviceGetMemoryBusWidth", None)
        if width_of is None:
            return None
        clock = self.ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM, part=part)
        width = self.ask(width_of, handle, part=part)
        speed = 2e6 * (clock or 0) * (width or 0) / 8 / 1e9
        return round(speed, 1) if 10 < speed < 50000 else None

    def mig(self, handle: Any, part: str) -> Dict[str, Any]:
        nvml = self.nvml
        mode = self.ask(nvml.nvmlDeviceGetMigMode, handle, part=part)
        found: Dict[str, Any] = {"mig_enabled": bool(mode[0]) if mode else None}
        instances: List[Dict[str, Any]] = []
        if mode and mode[0]:
            count = self.ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle, part=part) or 0
            for index in range(count):
                try:
                    child = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                except nvml.NVMLError:
                    continue
                instances.append(self.mig_instance(child, part))
        found["mig_instances"] = instances
        return found

    def mig_instance(self, child: Any, part: str) -> Dict[str, Any]:
        memory = self.memory(child, part)["vram_total_mib"]
        name = self.ask(self.nvml.nvmlDeviceGetName, child, part=part) or ""
        return {
            "profile": name.rpartition("MIG ")[2] if "MIG " in name else name,
            "uuid": self.ask(self.nvml.nvmlDeviceGetUUID, child, part=part) or "",
            "memory_mib": memory,
        }

    def processes(self, handle: Any, part: str) -> List[Dict[str, Any]]:
        nvml = self.nvml
        found: Dict[int, Dict[str, Any]] = {}
        for function in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for process in self.ask(function, handle, part=part) or []:
                used = process.usedGpuMemory
                found[int(process.pid)] = {
                    "pid": int(process.pid),
                    "used_mib": int(used) // MIB if used is not None else None,
                }
        return [found[pid] for pid in sorted(found)]

    def links(self, address: str, handle: Any, handles: Dict[str, Any]) -> List[List[Any]]:
        """[[peer address, NV4 | PIX | PXB | PHB | NODE | SYS, GB/s or None]]."""
        nvlinks, switched, speed = self.nvlinks(handle, handles)
        found: List[List[Any]] = []
        for peer, other in handles.items():
            if peer == address:
                continue
            count = nvlinks.get(peer, 0) or switched
            if count:
                found.append([peer, "NV{}".format(count), speed * count if speed else None])
                continue
            level = self.ask(
                self.nvml.nvmlDeviceGetTopologyCommonAncestor, handle, other, part="topology"
            )
            if level in TOPOLOGY_LEVELS:
                found.append([peer, TOPOLOGY_LEVELS[level], None])
        return found

    def nvlinks(self, handle: Any, handles: Dict[str, Any]) -> Any:
        """(links by peer address, links to NVSwitches, GB/s a link and direction)."""
        from .pci import normal_address

        nvml, peers, switched, speed = self.nvml, {}, 0, None  # type: Any, Dict[str, int], int, Any
        for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
            state = self.ask(nvml.nvmlDeviceGetNvLinkState, handle, link, part="nvlink")
            if state is None:
                break
            if state != nvml.NVML_FEATURE_ENABLED:
                continue
            speed = speed or NVLINK_GBS.get(
                self.ask(nvml.nvmlDeviceGetNvLinkVersion, handle, link, part="nvlink") or 0
            )
            remote = self.ask(nvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link, part="nvlink")
            bus = remote.busId if remote is not None else ""
            peer = normal_address(bus.decode("ascii", "replace") if isinstance(bus, bytes) else bus)
            kind = self.remote_kind(handle, link)
            # A virtual machine sees the links but not the NVSwitches behind them: what is no GPU
            # and not told to be anything else is taken for one, as NCCL does.
            if peer in handles:
                peers[peer] = peers.get(peer, 0) + 1
            elif kind not in (GPU_REMOTE, NPU_REMOTE):
                switched += 1
        return peers, switched, speed

    def remote_kind(self, handle: Any, link: int) -> Any:
        """Number of nvmlIntNvLinkDeviceType_t, or None from drivers that do not tell."""
        function = getattr(self.nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", None)
        return self.ask(function, handle, link, part="nvlink") if function else None


GPU_REMOTE, NPU_REMOTE = 0, 1
"""nvmlIntNvLinkDeviceType_t of nvml.h; 2 is a switch, 255 unknown."""

# nvmlGpuTopologyLevel_t of nvml.h, in the words of `nvidia-smi topo -m`.
TOPOLOGY_LEVELS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}

# GB/s of one link in one direction, by NVLink version: 1 is Pascal (20), 2 Volta (25), 3 Ampere
# (25), 4 Hopper (25), 5 Blackwell (50). Source: NVIDIA's NVLink page and the P100, V100, A100,
# H100 and Blackwell architecture papers.
NVLINK_GBS = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 50.0}


def _pci_pair(combined: int) -> str:
    """NVML joins device (high half) and vendor (low half) into one number."""
    value = int(combined)
    return "{:04x}:{:04x}".format(value & 0xFFFF, value >> 16 & 0xFFFF) if value else ""
