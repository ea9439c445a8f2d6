"""Damaged, truncated and foreign text never raises, whatever reads it: some 2,600 variations."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.standins import machine as standin

from infra_llm.target.probe import amd, cpu, disks, driver, intel, memory, network, nvidia_smi, pci
from infra_llm.target.probe import system as host_system
from infra_llm.target.probe import topology as pci_topology

CPUINFO = standin.cpuinfo({"model": "AMD EPYC 7302P", "cores": 4, "threads": 8, "flags": ["avx2"]})
MOUNTS = (
    "/dev/nvme0n1p2 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw 0 0\n"
    "/dev/sdb /data\\040x xfs rw 0 0\n"
)
NVRM = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (a@b)\n"
    "GCC version:  gcc version 13.3.0\n"
)
AMD_SMI = (
    '[{"gpu": 0, "asic": {"market_name": "AMD Instinct MI350X", "target_graphics_version": '
    '"gfx950"}, "bus": {"bdf": "0000:05:00.0"}, "vram": {"size": {"value": 294896, "unit": "MB"}}}]'
)
ROCM_SMI = (
    'WARNING: AMD GPU device(s) is/are in a low-power state\n{"card0": {"VRAM Total Memory (B)": '
    '"25753026560", "Card Series": "Radeon RX 7900 XTX", "PCI Bus": "0000:03:00.0", "GFX Version":'
    ' "gfx1100"}}'
)
XPU_SMI = (
    '{"device_list": [{"device_name": "Intel(R) Arc(TM) B580", "pci_bdf_address": "0000:03:00.0",'
    ' "uuid": "00000000-0000-0003-0000-0008e20b8086", "memory_physical_size_byte": "12759072768"}]}'
)
XML = "<nvidia_smi_log><gpu id='00000000:01:00.0'></gpu></nvidia_smi_log>"

# Reader -> a whole text of the kind that it reads.
PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "cpuinfo": (cpu.parse_cpuinfo, CPUINFO),
    "cpu_list": (cpu.parse_cpu_list, "0-3,8,10-11"),
    "cpu_quota": (cpu.parse_cpu_quota, "200000 100000"),
    "meminfo": (memory.parse_meminfo, standin.meminfo(64000)),
    "limit": (memory.parse_limit, "9223372036854771712"),
    "mounts": (disks.parse_mounts, MOUNTS),
    "os_release": (host_system.parse_os_release, 'ID=debian\nVERSION_ID="12"\nNAME="Debian x"\n'),
    "proxies": (host_system.parse_proxies, 'http_proxy="http://user:word@proxy:3128"\n'),
    "rate": (network.parse_rate, "400 Gb/sec (4X NDR)"),
    "if_inet6": (network.parse_if_inet6, f"{'fd' * 16} 02 40 00 80 eth0\n"),
    "nvrm": (driver.parse_module_version, NVRM),
    "dpkg": (lambda text: driver.parse_dpkg_holds(text.splitlines()), "Package: a\nStatus: hold x"),
    "generation": (pci.generation, "16.0 GT/s PCIe"),
    "address": (pci.normal_address, "00000000:01:00.0"),
    "kfd": (amd.parse_properties, "simd_count 304\ngfx_target_version 90402\n"),
    "amd_smi": (amd.parse_amd_smi, AMD_SMI),
    "rocm_smi": (amd.parse_rocm_smi, ROCM_SMI),
    "xpu_smi": (intel.parse_xpu_smi, XPU_SMI),
    "smi_xml": (nvidia_smi.parse_xml, XML),
    "smi_csv": (nvidia_smi.parse_compute_caps, "00000000:01:00.0, 8.6\n"),
    "smi_failure": (nvidia_smi.failure_code, "Failed to initialize NVML: Driver/library mismatch"),
}
FOREIGN = (
    "Échec de l'initialisation de NVML : incompatibilité de version",
    "未找到设备",
    "\x00\x7fELF\x02\x01",
    "-1",
    "99999999999999999999999999",
    "²",
    "٣",
    "{" * 2000,
    "[" * 2000,
    "<gpu>",
    "\r\n\t",
)


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """The text cut, with pieces removed, doubled or replaced by something foreign."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        filler = draw(st.one_of(st.just(""), st.sampled_from(FOREIGN), st.text(max_size=12)))
        text = text[:start] + filler + text[end:]
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@pytest.mark.parametrize("name", sorted(PARSERS))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damage_to_a_text_raises(name: str, data: st.DataObject) -> None:
    parser, text = PARSERS[name]
    parser(data.draw(damaged(text)))


@pytest.fixture(scope="module")
def smi_texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """XML of the nvidia-smi stand-in for machines of different kinds."""
    folder = tmp_path_factory.mktemp("smi")
    _, smi = standin.compile_standins(folder)
    texts = []
    for name in ("rtx3060", "h100x8", "a100-mig", "gb10", "rtx3090x2-nvlink"):
        topology = folder / name
        topology.write_text(standin.topology(standin.load(name)))
        done = subprocess.run(
            [str(smi), "-q", "-x"],
            env={"INFRA_LLM_STANDIN_GPUS": str(topology)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert nvidia_smi.parse_xml(done.stdout)
        texts.append(done.stdout)
    return texts


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damage_to_nvidia_smis_xml_raises(smi_texts: list[str], data: st.DataObject) -> None:
    text = data.draw(damaged(data.draw(st.sampled_from(smi_texts))))
    answer = nvidia_smi.parse_xml(text)
    for gpu in answer["gpus"] if answer else []:
        assert gpu["vram_total_mib"] is None or gpu["vram_total_mib"] >= 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=5000))
def test_no_configuration_space_raises(config: bytes) -> None:
    assert pci_topology.acs_enabled(config) in (True, False, None)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damaged_machine_raises(tmp_path: Path, data: st.DataObject) -> None:
    """Some files of a whole machine damaged at once: facts or error entries, never an exception."""
    from infra_llm.target.probe import probe

    root = tmp_path / "root"
    if not root.exists():
        standin.write_host(standin.load("mi300x8"), root)
        standin.write_sysfs(standin.load("mi300x8"), root / "sys")
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    for path in data.draw(st.lists(st.sampled_from(files), max_size=6)):
        path.write_bytes(data.draw(st.binary(max_size=64)))
    host = probe(str(root))
    assert host.schema == "infra-llm/host-hardware/1"
    assert not any("please report" in error["hint"] for error in host.errors), host.errors
