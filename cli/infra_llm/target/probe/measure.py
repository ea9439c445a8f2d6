"""Measurements on request, in the standard library alone, cached by the hardware's fingerprint.

RAM: every usable thread compares two arrays with the C library's memcmp, which ctypes calls with
the interpreter unlocked. It reads 2 x N bytes and writes none, as a decoder reads weights; a
STREAM triad reads two arrays and writes a third, and shows 5 to 25 % less on most machines.
GPU: the driver's own libcuda.so.1 copies a buffer within the card; a copy reads and writes.
"""

from __future__ import annotations

import ctypes
import threading
import time
from functools import partial
from typing import Any, Dict, List, Optional

from ...core.hardware import HostHardware
from .context import Context, isolated
from .disks import measure_read_mib_s
from .nvml import find_library

MIB = 1024 * 1024
SECONDS = 1.0


def measure(context: Context, host: HostHardware) -> None:
    """Take over cached figures of the same machine, and measure what is asked for and missing."""
    options, cached = context.options, context.options.measured
    if cached.get("fingerprint") and cached["fingerprint"] == host.fingerprint.get("all"):
        _take_over(context, host, cached)
    if options.measure_memory and host.cpu.memory_bandwidth_gbs is None:
        threads = max(1, host.cpu.usable_threads)
        budget = max(16 * MIB, host.memory.available_mib * MIB // 4)
        host.cpu.memory_bandwidth_gbs = isolated(
            lambda: memory_read_gbs(threads, budget), options.measure_timeout_s
        )
        context.source("cpu.memory_bandwidth_gbs", "measured: memcmp, {} threads".format(threads))
    if options.measure_disks:
        for disk in host.disks:
            if disk.read_mib_s is None:
                reader = partial(measure_read_mib_s, disk.device, context.path(disk.mount))
                disk.read_mib_s = isolated(reader, options.measure_timeout_s)
                context.source("disks[{}].read_mib_s".format(disk.mount), "measured")
    if options.measure_gpus:
        _measure_gpus(context, host)


def _take_over(context: Context, host: HostHardware, cached: Dict[str, Any]) -> None:
    speed = cached.get("memory_bandwidth_gbs")
    if isinstance(speed, (int, float)):
        host.cpu.memory_bandwidth_gbs = float(speed)
        context.source("cpu.memory_bandwidth_gbs", "measured earlier, same fingerprint")
    disks, gpus = cached.get("disks") or {}, cached.get("gpus") or {}
    for disk in host.disks:
        if isinstance(disks.get(disk.mount), (int, float)):
            disk.read_mib_s = float(disks[disk.mount])
            context.source("disks[{}].read_mib_s".format(disk.mount), "measured earlier")
    for gpu in host.gpus:
        if isinstance(gpus.get(gpu.pci_address), (int, float)):
            gpu.memory_bandwidth_measured_gbs = float(gpus[gpu.pci_address])


def figures(host: HostHardware) -> Dict[str, Any]:
    """The measured figures in the form that `ProbeOptions.measured` takes back."""
    return {
        "fingerprint": host.fingerprint.get("all", ""),
        "memory_bandwidth_gbs": host.cpu.memory_bandwidth_gbs,
        "disks": {d.mount: d.read_mib_s for d in host.disks if d.read_mib_s is not None},
        "gpus": {
            g.pci_address: g.memory_bandwidth_measured_gbs
            for g in host.gpus
            if g.memory_bandwidth_measured_gbs is not None
        },
    }


def memory_read_gbs(threads: int, budget_bytes: int, seconds: float = SECONDS) -> float:
    """Read bandwidth in GB/s of all threads at once.

    Each thread's bytes are divided by the CPU time that it got, not by the clock: on a machine
    that is busy the figure stays that of the hardware, within what the others take of the memory.
    Each thread has two arrays of its own, together larger than any last-level cache (at least
    256 MiB a thread where the budget allows), touched by the thread itself so that they lie on
    its own NUMA node.
    """
    size = min(128 * MIB, max(8 * MIB, budget_bytes // (2 * threads)))
    libc = ctypes.CDLL(None)
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    start, counts = threading.Barrier(threads + 1), [0] * threads
    deadline, spent = [0.0], [0.0] * threads

    def work(index: int) -> None:
        one, other = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
        ctypes.memset(one, 1, size)
        ctypes.memset(other, 1, size)
        start.wait()
        began = time.thread_time()
        while counts[index] == 0 or time.monotonic() < deadline[0]:
            libc.memcmp(one, other, size)
            counts[index] += 1
        spent[index] = time.thread_time() - began

    workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(threads)]
    for worker in workers:
        worker.start()
    deadline[0] = time.monotonic() + 3600
    start.wait()
    deadline[0] = time.monotonic() + seconds
    for worker in workers:
        worker.join()
    rates = [count / max(used, 1e-6) for count, used in zip(counts, spent)]
    return round(2.0 * size * sum(rates) / 1e9, 1)


def _measure_gpus(context: Context, host: HostHardware) -> None:
    wanted = [g for g in host.gpus if g.vendor == "nvidia" and not g.fault]
    if not wanted or all(g.memory_bandwidth_measured_gbs for g in wanted):
        return
    library = find_library(context, "libcuda.so.1")
    if not library:
        context.error("gpus", "memory bandwidth was not measured: there is no libcuda.so.1")
        return
    try:
        speeds = isolated(partial(cuda_copy_gbs, library), context.options.measure_timeout_s)
    except (TimeoutError, RuntimeError) as error:
        context.error("gpus", "memory bandwidth was not measured: {}".format(error))
        return
    for gpu in wanted:
        speed = speeds.get(gpu.pci_address)
        if speed is not None:
            gpu.memory_bandwidth_measured_gbs = speed
            place = "gpus[{}].memory_bandwidth_measured_gbs".format(gpu.pci_address)
            context.source(place, "measured: cuMemcpyDtoD, bytes read and written")


def cuda_copy_gbs(library: str) -> Dict[str, float]:
    """GB/s (read plus written) of a copy within each card, by PCI address; CUDA driver API.

    Raises RuntimeError with CUDA's error number.
    """
    cuda = ctypes.CDLL(library)

    def call(name: str, *arguments: Any) -> None:
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            raise RuntimeError("{} answers error {}".format(name, code))

    call("cuInit", 0)
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    found: Dict[str, float] = {}
    for index in range(count.value):
        device, bus = ctypes.c_int(), ctypes.create_string_buffer(32)
        call("cuDeviceGet", ctypes.byref(device), index)
        call("cuDeviceGetPCIBusId", bus, 32, device)
        handle = ctypes.c_void_p()
        call("cuCtxCreate_v2", ctypes.byref(handle), 0, device)
        try:
            speed = _copy_speed(call)
        finally:
            cuda.cuCtxDestroy_v2(handle)
        if speed is not None:
            found[bus.value.decode("ascii", "replace").lower()] = speed
    return found


def _copy_speed(call: Any) -> Optional[float]:
    size = 256 * MIB
    buffers: List[ctypes.c_uint64] = []
    try:
        for _ in range(2):
            buffer = ctypes.c_uint64()
            call("cuMemAlloc_v2", ctypes.byref(buffer), ctypes.c_size_t(size))
            buffers.append(buffer)
        best = 0.0
        copies = 1
        for _ in range(6):
            began = time.monotonic()
            for _ in range(copies):
                call("cuMemcpyDtoD_v2", buffers[0], buffers[1], ctypes.c_size_t(size))
            call("cuCtxSynchronize")
            elapsed = time.monotonic() - began
            best = max(best, 2.0 * size * copies / elapsed / 1e9)
            # The next round is to take 50 ms: launches cost nothing then, and slow cards end.
            copies = max(1, min(200, int(copies * 0.05 / max(elapsed, 1e-6))))
        return round(best, 1)
    finally:
        for buffer in buffers:
            call("cuMemFree_v2", buffer)
