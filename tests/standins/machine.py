"""A machine that is not here: one JSON file of tests/fixtures/machines as files and a topology.

Everything is written below a root: /proc, /sys, /etc as the probe reads them, the topology of the
NVML stand-in, and the stand-ins for libnvidia-ml.so.1 and nvidia-smi. Nothing of it drives a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MACHINES = HERE.parent / "fixtures" / "machines"
MIB = 1024 * 1024
LIBRARY_FOLDER = {"x86_64": "usr/lib/x86_64-linux-gnu", "aarch64": "usr/lib/aarch64-linux-gnu"}
NVML_LEVELS = {"PIX": 10, "PXB": 20, "PHB": 30, "NODE": 40, "SYS": 50}
SPEEDS = {1: "2.5", 2: "5.0", 3: "8.0", 4: "16.0", 5: "32.0", 6: "64.0"}
VENDORS = {"nvidia": "10de", "amd": "1002", "intel": "8086"}

Machine = dict[str, Any]


def names() -> list[str]:
    return sorted(path.stem for path in MACHINES.glob("*.json"))


def load(name: str) -> Machine:
    """The machine of that name. Raises FileNotFoundError with the names that there are."""
    path = MACHINES / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no machine {name!r}; there are: {', '.join(names())}")
    machine: Machine = json.loads(path.read_text(encoding="utf-8"))
    return machine


def compile_standins(folder: Path) -> tuple[Path, Path]:
    """(libnvidia-ml.so.1, nvidia-smi) and libcuda.so.1 beside them, compiled into `folder`."""
    source = HERE / "nvml"
    library, smi, cuda = (
        folder / name for name in ("libnvidia-ml.so.1", "nvidia-smi", "libcuda.so.1")
    )
    folder.mkdir(parents=True, exist_ok=True)
    compiler = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1"]
    shared = ["-shared", "-fPIC"]
    for target, flags, parts in (
        (library, [*shared, "-Wl,-soname,libnvidia-ml.so.1"], "nvml.c"),
        (cuda, [*shared, "-Wl,-soname,libcuda.so.1"], "cuda.c"),
        (smi, [], "smi.c"),
    ):
        files = [str(source / "standin.c"), str(source / parts)]
        subprocess.run([*compiler, *flags, "-o", str(target), *files], check=True)
    return library, smi


# The topology of the NVML stand-in (format: nvml/standin.h) --------------------------------------


def nvidia_cards(machine: Machine) -> list[dict[str, Any]]:
    return [gpu for gpu in machine.get("gpus", []) if gpu["vendor"] == "nvidia" and "uuid" in gpu]


def topology(machine: Machine) -> str:
    driver, faults = machine.get("driver", {}), machine.get("faults", {})
    version = driver.get("version", "")
    lines = [f"driver {version}", f"cuda {driver.get('cuda', 0)}"]
    library = driver.get("library", version)
    lines.append(f"nvml {driver.get('cuda', 12000) // 1000}.{library}")
    if "init" in faults:
        lines.append(f"fault init {faults['init']}")
    lines += [f"{key} {faults[key]}" for key in ("hang", "smi") if key in faults]
    lines += [f"missing {name}" for name in faults.get("missing", [])]
    cards = nvidia_cards(machine)
    for index, gpu in enumerate(cards):
        lines += _card(machine, gpu, cards)
        lines += [f"  link {text}" for text in _links(machine, index, cards)]
    for a, b, word in machine.get("levels", []):
        lines.append(f"level {a} {b} {NVML_LEVELS[word]}")
    default = NVML_LEVELS[machine.get("level", "PHB")]
    told = {(a, b) for a, b, _ in machine.get("levels", [])}
    for a in range(len(cards)):
        lines += [
            f"level {a} {b} {default}" for b in range(a + 1, len(cards)) if (a, b) not in told
        ]
    return "\n".join(lines) + "\n"


def _card(machine: Machine, gpu: dict[str, Any], cards: list[dict[str, Any]]) -> list[str]:
    def pair(text: str) -> str:
        vendor, _, device = text.partition(":")
        return f"0x{device}{vendor}" if device else "-1"

    total = gpu.get("vram_mib")
    processes = gpu.get("processes", [])
    reserved = gpu.get("reserved_mib", 300)
    used = sum(mib for _, mib in processes)
    free = -1 if total is None else max(0, total - reserved - used) * MIB
    domain, _, rest = gpu["pci"].partition(":")
    major, _, minor = gpu.get("capability", "0.0").partition(".")
    pcie = gpu.get("pcie", [4, 4, 16, 16])
    numbers = {
        "device_id": pair(gpu["id"]),
        "subsystem_id": pair(gpu.get("subsystem", "")),
        "total": -1 if total is None else total * MIB,
        "free": free,
        "reserved": reserved * MIB,
        "capability": int(major) * 10 + int(minor),
        "ecc": _flag(gpu.get("ecc")),
        "clock": gpu.get("memory_clock_mhz", -1),
        "bits": gpu.get("memory_bus_bits", -1),
        "power": int(gpu["power_w"] * 1000) if gpu.get("power_w") else -1,
        "gen": pcie[0],
        "gen_max": pcie[1],
        "width": pcie[2],
        "width_max": pcie[3],
        "persistence": _flag(gpu.get("persistence", False)),
        "mig": _flag(gpu.get("mig")),
        "error": machine.get("faults", {}).get("cards", {}).get(str(cards.index(gpu)), 0),
        "late": machine.get("faults", {}).get("late", {}).get(str(cards.index(gpu)), 0),
    }
    bus = f"{int(domain, 16):08X}:{rest.upper()}"
    lines = ["gpu", f"  name {gpu['name']}", f"  uuid {gpu['uuid']}", f"  bus {bus}"]
    lines += [f"  {key} {value}" for key, value in numbers.items()]
    lines += [f"  process {pid} {mib * MIB}" for pid, mib in processes]
    for number, (profile, mib) in enumerate(gpu.get("slices", [])):
        uuid = f"MIG-{number:08x}-1111-5222-8333-{cards.index(gpu):012x}"
        slices = profile.partition("g.")[0]
        lines.append(f"  slice {mib * MIB} {slices} {uuid} {gpu['name']} MIG {profile}")
    return lines


def _flag(value: bool | None) -> int:
    return -1 if value is None else int(value)


def _links(machine: Machine, index: int, cards: list[dict[str, Any]]) -> list[str]:
    nvlink = machine.get("nvlink")
    if not nvlink:
        return []
    version = nvlink["version"]
    if "switch" in nvlink:
        switch = "0000000F:FF:00.0"
        return [f"{number} {switch} 1 {version}" for number in range(nvlink["switch"])]
    lines: list[str] = []
    for a, b, count in nvlink["pairs"]:
        if index in (a, b):
            domain, _, rest = cards[b if index == a else a]["pci"].partition(":")
            bus = f"{int(domain, 16):08X}:{rest.upper()}"
            lines += [f"{len(lines) + n} {bus} 0 {version}" for n in range(count)]
    return lines


# /sys ------------------------------------------------------------------------------------------


def write_sysfs(machine: Machine, sys: Path, tree: str = "devices") -> None:
    """The PCI layer, modules, NUMA nodes, KFD and RDMA below `sys`.

    `tree` is where device folders lie: "devices" as in a kernel's sysfs, "bus/pci/tree" where
    only /sys/bus/pci can be mounted over.
    """
    (sys / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
    for device in pci_devices(machine):
        _write_device(machine, sys, tree, device)
    for number, node in enumerate(machine.get("numa", [])):
        folder = sys / f"devices/system/node/node{number}"
        _write(folder / "cpulist", node["cpus"])
        _write(folder / "meminfo", f"Node {number} MemTotal: {node['mib'] * 1024} kB")
    _write_modules(machine, sys)
    _write_kfd(machine, sys)
    for nic in machine.get("nics", []):
        _write_nic(sys, tree, nic)
    if machine.get("iommu"):
        (sys / "class/iommu/dmar0").mkdir(parents=True, exist_ok=True)
        _write(sys / "kernel/iommu_groups/1/type", machine["iommu"])
    else:
        (sys / "class/iommu").mkdir(parents=True, exist_ok=True)
    if machine.get("secure_boot") is not None:
        variable = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        path = sys / "firmware/efi/efivars" / variable
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x06\0\0\0" + bytes([machine["secure_boot"]]))
    else:
        (sys / "firmware").mkdir(parents=True, exist_ok=True)
    if machine.get("product"):
        _write(sys / "class/dmi/id/product_name", machine["product"])


def pci_devices(machine: Machine) -> list[dict[str, Any]]:
    """GPUs, NICs, further devices and the bridges above them."""
    found = [*machine.get("gpus", []), *machine.get("nics", []), *machine.get("devices", [])]
    found = [device for device in found if device.get("pci") and not device.get("hidden")]
    bridges: dict[str, dict[str, Any]] = {}
    for device in found:
        for depth, address in enumerate(device.get("path", [])[1:], start=1):
            bridges.setdefault(
                address,
                {
                    "pci": address,
                    "id": "8086:352a",
                    "class": "0x060400",
                    "path": device["path"][:depth],
                    "acs": device.get("acs"),
                },
            )
    return [*bridges.values(), *found]


def device_folder(sys: Path, tree: str, device: dict[str, Any]) -> Path:
    path = device.get("path") or [f"pci{device['pci'].rsplit(':', 1)[0]}"]
    return sys.joinpath(tree, *path, device["pci"])


def _write_device(machine: Machine, sys: Path, tree: str, device: dict[str, Any]) -> None:
    folder = device_folder(sys, tree, device)
    vendor, _, number = device.get("id", "15b3:1021").partition(":")
    values = {
        "vendor": f"0x{vendor}",
        "device": f"0x{number}",
        "class": device.get("class", "0x020000"),
        "revision": f"0x{device.get('revision', 'a1')}",
        "numa_node": str(device.get("numa", -1)),
    }
    if device.get("subsystem"):
        subvendor, _, subdevice = device["subsystem"].partition(":")
        values["subsystem_vendor"], values["subsystem_device"] = f"0x{subvendor}", f"0x{subdevice}"
    if device.get("pcie"):
        gen, gen_max, width, width_max = device["pcie"]
        values["current_link_speed"] = f"{SPEEDS[gen]} GT/s PCIe"
        values["max_link_speed"] = f"{SPEEDS[gen_max]} GT/s PCIe"
        values["current_link_width"], values["max_link_width"] = str(width), str(width_max)
    for name, value in {**values, **device.get("files", {})}.items():
        _write(folder / name, str(value))
    if device.get("acs") is not None and device["class"] == "0x060400":
        (folder / "config").write_bytes(_config(device["acs"]))
    if device.get("driver"):
        _link(folder / "driver", f"../../../../bus/pci/drivers/{device['driver']}")
    depth = len((Path("bus/pci/devices")).parts)
    target = folder.relative_to(sys)
    _link(sys / "bus/pci/devices" / device["pci"], "../" * depth + str(target))


def _config(acs: bool) -> bytes:
    """4 KiB of configuration space with one extended capability: ACS (id 0x000d)."""
    config = bytearray(4096)
    config[0x100:0x104] = (0x000D | 1 << 16).to_bytes(4, "little")
    config[0x106:0x108] = (0x1D if acs else 0).to_bytes(2, "little")
    return bytes(config)


def _write_modules(machine: Machine, sys: Path) -> None:
    driver = machine.get("driver", {})
    if driver.get("version") and driver.get("loaded", True):
        _write(sys / "module/nvidia/version", driver["version"])
    (sys / "module").mkdir(parents=True, exist_ok=True)
    if any(gpu.get("driver") == "amdgpu" for gpu in machine.get("gpus", [])):
        _write(sys / "module/amdgpu/version", driver.get("amdgpu", ""))


def _write_kfd(machine: Machine, sys: Path) -> None:
    cards = [gpu for gpu in machine.get("gpus", []) if gpu.get("kfd")]
    if not cards:
        return
    nodes = sys / "class/kfd/kfd/topology/nodes"
    _write(nodes / "0/properties", "cpu_cores_count 64\nsimd_count 0\n")
    for number, gpu in enumerate(cards, start=1):
        domain, bus, rest = gpu["pci"].split(":")
        slot, _, function = rest.partition(".")
        location = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
        values = {
            "cpu_cores_count": gpu["kfd"].get("cpu_cores", 0),
            "simd_count": 304,
            "gfx_target_version": gpu["kfd"]["gfx_target_version"],
            "location_id": location,
            "domain": int(domain, 16),
        }
        text = "".join(f"{key} {value}\n" for key, value in values.items())
        _write(nodes / f"{number}/properties", text)
        if machine.get("xgmi"):
            peers = [n for n in range(1, len(cards) + 1) if n != number]
            for link, peer in enumerate(peers):
                lines = ("type 11", f"node_to {peer}", f"max_bandwidth {machine['xgmi']}")
                _write(nodes / f"{number}/io_links/{link}/properties", "\n".join(lines))


def _write_nic(sys: Path, tree: str, nic: dict[str, Any]) -> None:
    folder = device_folder(sys, tree, nic)
    if nic.get("name"):
        net = sys / "class/net" / nic["name"]
        _write(net / "operstate", nic.get("operstate", "up"))
        _write(net / "speed", str(nic.get("speed", -1)))
        _link(net / "device", str(Path("../../..") / folder.relative_to(sys)))
    if nic.get("rdma"):
        base = sys / "class/infiniband" / nic["rdma"]["device"]
        _write(base / "ports/1/link_layer", nic["rdma"]["layer"])
        _write(base / "ports/1/state", nic["rdma"]["state"])
        _write(base / "ports/1/rate", nic["rdma"]["rate"])
        _link(base / "device", str(Path("../../..") / folder.relative_to(sys)))


# /proc, /etc and the rest --------------------------------------------------------------------


def write_host(machine: Machine, root: Path) -> None:
    """/proc, /etc, /var and /lib of the machine below `root`."""
    cpu, system = machine["cpu"], machine["os"]
    _write(root / "proc/cpuinfo", cpuinfo(cpu))
    _write(root / "proc/meminfo", meminfo(machine["ram_mib"]))
    _write(root / "proc/self/status", f"Cpus_allowed_list:\t0-{cpu['threads'] - 1}\n")
    _write(root / "proc/self/cgroup", "0::/system.slice/ssh.service\n")
    _write(root / "proc/mounts", "/dev/nvme0n1p2 / ext4 rw 0 0\n")
    _write(root / "proc/sys/kernel/osrelease", system["kernel"])
    _write(root / "proc/sys/kernel/hostname", machine.get("hostname", "machine"))
    _write(root / "proc/1/comm", system.get("pid1", "systemd"))
    (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    release = f'ID={system["id"]}\nVERSION_ID="{system["version"]}"\n'
    _write(root / "etc/os-release", release)
    write_nvrm(machine, root / "proc")
    for path, text in machine.get("files", {}).items():
        _write(root / path.lstrip("/"), text)
        if "/bin/" in path:
            (root / path.lstrip("/")).chmod(0o755)


def write_nvrm(machine: Machine, proc: Path) -> None:
    driver = machine.get("driver", {})
    if not driver.get("version") or not driver.get("loaded", True):
        return
    kind = "UNIX Open Kernel Module" if driver.get("flavour") == "open" else "UNIX x86_64 Kernel"
    for_ = " for x86_64" if driver.get("flavour") == "open" else " Module"
    line = f"NVRM version: NVIDIA {kind}{for_}  {driver['version']}  Release Build"
    _write(proc / "driver/nvidia/version", f"{line}\nGCC version:  gcc version 13.3.0\n")


def cpuinfo(cpu: dict[str, Any]) -> str:
    threads, cores, sockets = cpu["threads"], cpu["cores"], cpu.get("sockets", 1)
    if cpu.get("arch") == "aarch64":
        block = "CPU implementer\t: 0x41\nCPU part\t: {part}\nFeatures\t: {flags}\n"
        parts = cpu.get("parts", ["0xd4f"])
        return "".join(
            f"processor\t: {i}\n"
            + block.format(part=parts[i * len(parts) // threads], flags=" ".join(cpu["flags"]))
            + "\n"
            for i in range(threads)
        )
    per_socket = cores // sockets
    return "".join(
        f"processor\t: {i}\nmodel name\t: {cpu['model']}\n"
        f"physical id\t: {i % cores // per_socket}\ncore id\t\t: {i % per_socket}\n"
        f"flags\t\t: {' '.join(cpu['flags'])}\n\n"
        for i in range(threads)
    )


def meminfo(mib: int) -> str:
    kib = mib * 1024
    return f"MemTotal:  {kib} kB\nMemFree: {kib // 2} kB\nMemAvailable: {kib * 9 // 10} kB\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def install_tools(machine: Machine, root: Path, library: Path, smi: Path) -> None:
    """libnvidia-ml.so.1 and nvidia-smi below `root` where the machine has a driver package."""
    driver = machine.get("driver", {})
    folder = root / LIBRARY_FOLDER[machine["cpu"].get("arch", "x86_64")]
    for old in [*folder.glob("libnvidia-ml.so.*"), *folder.glob("libcuda.so.*")]:
        old.unlink()
    (root / "usr/bin/nvidia-smi").unlink(missing_ok=True)
    version = driver.get("library", driver.get("version"))
    if not version:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(library, folder / f"libnvidia-ml.so.{version}")
    shutil.copy2(library.with_name("libcuda.so.1"), folder / f"libcuda.so.{version}")
    for name in ("libnvidia-ml.so", "libcuda.so"):
        _link(folder / f"{name}.1", f"{name}.{version}")
    if driver.get("nvidia_smi", True):
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        shutil.copy2(smi, root / "usr/bin/nvidia-smi")


def build(machine: Machine, root: Path, library: Path, smi: Path) -> Path:
    """The whole machine below `root`; the topology's path, for INFRA_LLM_STANDIN_GPUS."""
    write_host(machine, root)
    if not machine.get("masked_sys"):
        write_sysfs(machine, root / "sys")
    install_tools(machine, root, library, smi)
    path = root / "etc/infra-llm-standin/gpus.topology"
    _write(path, topology(machine))
    return path
