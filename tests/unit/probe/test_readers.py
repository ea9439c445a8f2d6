"""The pure parsers on captured text, and what the readers do with a tree of files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tests.standins import machine as standin
from tests.unit.probe.conftest import Prober

from infra_llm.core.gpu_table import complete
from infra_llm.core.hardware import HostHardware, Memory, accelerators, changed_parts
from infra_llm.readers.gpu_table import load_gpu_table
from infra_llm.target.probe import amd, cpu, disks, driver, memory, network, pci, probe
from infra_llm.target.probe import system as host_system
from infra_llm.target.probe.context import Context
from infra_llm.target.probe.fingerprint import fingerprint
from infra_llm.target.probe.identity import rounded_gib
from infra_llm.target.probe.topology import acs_enabled, relation

TREE = Path(__file__).resolve().parents[3] / "cli" / "infra_llm"

# From a public log: https://github.com/ROCm/rocm-systems/issues/11549 and ollama/ollama#2411.
KFD_7900 = (
    "cpu_cores_count 0\nsimd_count 192\ngfx_target_version 110000\nlocation_id 768\ndomain 0\n"
)


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110000, "gfx1100"),
        (100306, "gfx1036"),
        (90402, "gfx942"),
        (90010, "gfx90a"),
        (90500, "gfx950"),
        (110501, "gfx1151"),
        (90012, "gfx90c"),
        (0, None),
    ],
)
def test_gfx_names(version: int, name: str | None) -> None:
    assert amd.gfx_name(version) == name


def test_kfd_properties() -> None:
    values = amd.parse_properties(KFD_7900)
    assert values["gfx_target_version"] == 110000
    assert values["location_id"] == 0x0300


@pytest.mark.parametrize(
    ("text", "version", "flavour"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.158.01  Release Build",
            "570.158.01",
            "open",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.173.02  Tue Jun 23 08:38:17 2026",
            "580.173.02",
            "proprietary",
        ),
        ("", None, None),
    ],
)
def test_the_loaded_module(text: str, version: str | None, flavour: str | None) -> None:
    # Lines from NVIDIA/NVSentinel#155 and zzzhouuu/truenas-nvidia-drivers#19.
    assert driver.parse_module_version(text) == (version, flavour)


def test_cpu_lists_and_quotas() -> None:
    assert cpu.parse_cpu_list("0-2,8,10-11") == [0, 1, 2, 8, 10, 11]
    assert cpu.parse_cpu_list("a,1-,") == []
    assert cpu.parse_cpu_quota("250000 100000") == 2.5
    assert cpu.parse_cpu_quota("max 100000") is None
    assert cpu.parse_cpu_quota("-1 100000") is None


def test_a_cpu_without_hyperthreads_counts_cores() -> None:
    text = standin.cpuinfo(
        {"model": "X", "sockets": 2, "cores": 4, "threads": 8, "flags": ["avx2", "amx_int8"]}
    )
    found = cpu.parse_cpuinfo(text)
    assert (found.sockets, found.cores, found.threads) == (2, 4, 8)
    assert found.instruction_sets == ["amx_int8", "avx2"]


def test_the_usable_threads_follow_the_quota(probe_machine: Prober) -> None:
    host = probe_machine("cpu-vm-cgroup-cap")
    assert (host.cpu.threads, host.cpu.usable_threads) == (8, 2)
    assert host.memory.available_mib == 7168, "8 GiB cap, 1 GiB in use"


def test_a_cgroup_v1_limit_and_its_absence(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": standin.meminfo(64000),
        "proc/self/cgroup": "4:memory:/box\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(4096 << 20),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.read_memory(Context(str(tmp_path))).limit_mib == 4096
    (tmp_path / "sys/fs/cgroup/memory/box/memory.limit_in_bytes").write_text("9223372036854771712")
    assert memory.read_memory(Context(str(tmp_path))).limit_mib is None


def test_mounts_that_can_hold_models() -> None:
    text = (
        "/dev/sda2 / ext4 rw 0 0\n/dev/sda2 /home ext4 rw 0 0\n/dev/sdb1 /data\\0401 xfs rw 0 0\n"
        "tmpfs /run tmpfs rw 0 0\n/dev/loop0 /snap/core squashfs ro 0 0\n"
        "/dev/sda1 /boot ext4 rw 0 0\n"
        "nas:/models /mnt/models nfs4 rw 0 0\noverlay /var/lib/docker/x overlay rw 0 0\n"
    )
    assert [d.mount for d in disks.parse_mounts(text)] == ["/", "/data 1", "/mnt/models"]
    assert [d.mount for d in disks.parse_mounts("overlay / overlay rw 0 0\n")] == ["/"]


def test_os_release_and_proxies() -> None:
    release = host_system.parse_os_release('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n')
    assert release == {"NAME": "Debian GNU/Linux", "ID": "debian", "VERSION_ID": "12"}
    found = host_system.parse_proxies("export HTTPS_PROXY=http://a:b@proxy:3128\nPATH=/bin\n")
    assert found == {"https_proxy": "http://***@proxy:3128"}


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("00000000:01:00.0", "0000:01:00.0"),
        ("0000000F:01:00.0", "000f:01:00.0"),
        ("C1:00.0", "0000:c1:00.0"),
        ("0000:05:00", "0000:05:00.0"),
        ("nonsense", ""),
    ],
)
def test_pci_addresses(written: str, address: str) -> None:
    assert pci.normal_address(written) == address


def test_link_speeds() -> None:
    assert [pci.generation(f"{s} GT/s PCIe") for s in ("2.5", "8.0", "16.0", "32.0")] == [
        1,
        3,
        4,
        5,
    ]
    assert pci.generation("Unknown") is None
    assert network.parse_rate("400 Gb/sec (4X NDR)") == 400_000
    assert network.parse_rate("") == 0


def test_global_addresses_only() -> None:
    text = (
        "fe80000000000000000000000000beef 02 40 20 80 eth0\n"
        "fd000000000000000000000000000002 02 40 00 80 eth0\n"
    )
    assert network.parse_if_inet6(text) == {"eth0": ["fd00::2"]}


def device(chain: list[str], bridge: str, numa: int | None = None) -> pci.PciDevice:
    return pci.PciDevice(
        chain[-1], chain=chain, host_bridge=bridge, numa_node=numa, bridges_known=True
    )


def test_how_devices_reach_each_other() -> None:
    switch = ["0000:00:01.0", "0000:01:00.0"]
    one = device([*switch, "0000:02:00.0", "0000:03:00.0"], "pci0000:00", 0)
    near = device([*switch, "0000:02:01.0", "0000:04:00.0"], "pci0000:00", 0)
    deeper = device(
        [*switch, "0000:02:02.0", "0000:05:00.0", "0000:06:00.0", "0000:07:00.0"], "pci0000:00", 0
    )
    port = device(["0000:00:02.0", "0000:08:00.0"], "pci0000:00", 0)
    bridge = device(["0000:40:01.0", "0000:41:00.0"], "pci0000:40", 0)
    socket = device(["0000:80:01.0", "0000:81:00.0"], "pci0000:80", 1)
    others = (near, deeper, port, bridge, socket)
    assert [relation(one, d) for d in others] == ["PIX", "PXB", "PHB", "NODE", "SYS"]
    assert all(relation(a, b) == relation(b, a) for a in others for b in others)


def test_acs_needs_the_extended_configuration_space() -> None:
    assert acs_enabled(bytes(64)) is None
    assert acs_enabled(bytes(4096)) is False


def test_acs_on_and_off(probe_machine: Prober) -> None:
    machine = standin.load("acs-on-rtx4090x2")
    assert probe_machine(machine).system.acs is True
    for gpu in machine["gpus"]:
        gpu["acs"] = False
    assert probe_machine(machine).system.acs is False


def test_dkms_states(tmp_path: Path) -> None:
    base = tmp_path / "var/lib/dkms/nvidia"
    (base / "580.95.05/6.1.0-40-amd64/x86_64/module").mkdir(parents=True)
    (base / "580.95.05/6.1.0-41-amd64/x86_64/module").mkdir(parents=True)
    (base / "kernel-6.1.0-40-amd64-x86_64").symlink_to("580.95.05/6.1.0-40-amd64/x86_64")
    (base / "590.10").mkdir()
    state = driver.read_driver(Context(str(tmp_path)), [])
    assert state.dkms == [
        "nvidia/580.95.05, 6.1.0-40-amd64, x86_64: installed",
        "nvidia/580.95.05, 6.1.0-41-amd64, x86_64: built",
        "nvidia/590.10: added",
    ]


def test_the_fingerprint_ignores_what_flaps(probe_machine: Prober) -> None:
    machine = standin.load("rtx3060")
    before = probe_machine(machine).fingerprint
    machine["os"]["kernel"] = "6.8.0-71-generic"
    machine["ram_mib"] -= 300
    machine["gpus"][0]["processes"] = [[1, 4000]]
    after = probe_machine(machine).fingerprint
    assert after == before
    assert changed_parts(before, after) == []


def test_installing_a_driver_is_no_change_of_hardware(probe_machine: Prober) -> None:
    machine = standin.load("rtx3060")
    with_driver = probe_machine(machine).fingerprint
    del machine["driver"]
    without = probe_machine(machine).fingerprint
    assert without["all"] == with_driver["all"]
    assert changed_parts(without, with_driver) == []


def test_a_swapped_card_changes_its_own_part_only(probe_machine: Prober) -> None:
    before = probe_machine("rtx3060").fingerprint
    machine = standin.load("rtx3060")
    machine["gpus"] = standin.load("rtx5090")["gpus"]
    after = probe_machine(machine).fingerprint
    assert before["all"] != after["all"]
    changed = ["gpu:0000:01:00.0", "gpu_identity:0000:01:00.0"]
    assert changed_parts(before, after) == changed


def test_another_card_of_the_same_kind_is_seen_by_its_uuid(probe_machine: Prober) -> None:
    machine = standin.load("rtx3060")
    before = probe_machine(machine).fingerprint
    machine["gpus"][0]["uuid"] = "GPU-00000000-1111-2222-3333-444444444444"
    assert changed_parts(before, probe_machine(machine).fingerprint) == [
        "gpu_identity:0000:01:00.0"
    ]


def test_new_mig_slices_change_the_identity(probe_machine: Prober) -> None:
    machine = standin.load("a100-mig")
    before = probe_machine(machine).fingerprint
    machine["gpus"][0]["slices"] = [["3g.40gb", 40192]]
    assert changed_parts(before, probe_machine(machine).fingerprint) == [
        "gpu_identity:0000:01:00.0"
    ]


@pytest.mark.parametrize(
    ("mib", "gib"), [(24105, 24), (62841, 64), (64000, 64), (128000, 128), (515582, 512), (900, 1)]
)
def test_ram_is_rounded_to_its_modules(mib: int, gib: int) -> None:
    assert rounded_gib(mib) == gib


def test_engines_get_whole_cards_and_nothing_else(probe_machine: Prober) -> None:
    names = {
        "amd-igpu-rtx3090": ["NVIDIA GeForce RTX 3090"],
        "intel-igpu-rtx3060": ["NVIDIA GeForce RTX 3060"],
        "host-vfio": [],
        "cpu-only": [],
        "gb10": ["NVIDIA GB10"],
        "strix-halo": ["AMD Radeon 8060S Graphics"],
        "gpu-lost": ["NVIDIA A100 80GB PCIe"],
        "a100-mig-mixed": ["NVIDIA A100-SXM4-80GB"],
        "a100-mig": ["NVIDIA A100-SXM4-80GB MIG 1g.10gb"],
    }
    for name, expected in names.items():
        assert [gpu.name for gpu in accelerators(probe_machine(name))] == expected


def test_a_mig_instance_has_its_share_of_the_card(probe_machine: Prober) -> None:
    (instance,) = accelerators(probe_machine("a100-mig"))
    assert instance.vram_total_mib == 9856
    assert instance.uuid.startswith("MIG-")
    # A100 80GB: 2,039 GB/s and 312 TFLOPS for eight memory slices and seven compute slices.
    assert instance.memory_bandwidth_gbs == pytest.approx(2039 * 9856 / 81920, rel=0.01)
    assert instance.fp16_tflops == pytest.approx(312 / 7, rel=0.01)


def test_completing_twice_changes_nothing(probe_machine: Prober) -> None:
    host = probe_machine("strix-halo")
    before = host.to_dict()
    complete(host, load_gpu_table())
    assert host.to_dict() == before


def test_memory_limits_are_a_part_of_their_own() -> None:
    free = fingerprint(HostHardware(memory=Memory(total_mib=64000)))
    capped = fingerprint(HostHardware(memory=Memory(total_mib=64000, limit_mib=8192)))
    assert changed_parts(free, capped) == ["memory_limit"]


def test_this_machine_can_be_probed() -> None:
    host = probe()
    assert host.cpu.threads >= 1
    assert host.memory.total_mib > 100
    assert any(disk.mount == "/" for disk in host.disks)
    assert not any("please report" in error["hint"] for error in host.errors), host.errors


TRAVELS = [*(TREE / "target/probe").rglob("*.py"), TREE / "core/hardware.py"]


@pytest.mark.parametrize("path", TRAVELS, ids=lambda path: path.name)
def test_what_runs_on_a_target_is_python_3_8_and_stands_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    modern = {"removeprefix", "removesuffix", "bit_count", "is_relative_to", "readlink_to"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module not in {"infra_llm", "ansible", "pydantic"}
            assert str(node.module).split(".")[0] in STANDARD, node.module
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= STANDARD | {"pynvml"}
        if isinstance(node, ast.Attribute):
            assert node.attr not in modern
        if isinstance(node, ast.keyword):
            assert node.arg not in {"strict", "slots", "kw_only", "missing_ok"}, node.lineno


STANDARD = {
    *("__future__", "base64", "contextlib", "ctypes", "dataclasses", "fcntl", "functools", "glob"),
    *("hashlib", "json", "os", "platform", "re", "select", "shlex", "signal", "socket", "struct"),
    *("subprocess", "sys", "threading", "time", "types", "typing", "xml", "zlib"),
}
