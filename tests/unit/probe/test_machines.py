"""Every machine fixture through the real readers, the real pynvml and the stand-in library."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.standins import machine as standin
from tests.unit.probe.conftest import Prober

from infra_llm.core.codec import from_dict
from infra_llm.core.findings import findings
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.hardware_check import check_hardware
from infra_llm.readers.stack_rules import load_stack_rules
from infra_llm.report.hardware_panel import hardware_panel

# What a fixture may expect of each GPU, in order, and of the host.
OF_GPUS: dict[str, Callable[[Gpu], Any]] = {
    "names": lambda gpu: gpu.name,
    "vram_mib": lambda gpu: gpu.vram_total_mib,
    "capability": lambda gpu: gpu.compute_capability,
    "gfx": lambda gpu: gpu.gfx_target,
    "power_w": lambda gpu: gpu.power_limit_w,
    "ecc": lambda gpu: gpu.ecc_enabled,
    "pcie_width": lambda gpu: gpu.pcie_width,
    "integrated": lambda gpu: gpu.integrated,
    "unified": lambda gpu: gpu.unified_memory,
    "kernel_driver": lambda gpu: gpu.kernel_driver,
    "fault": lambda gpu: bool(gpu.fault),
    "mig": lambda gpu: [i.profile for i in gpu.mig_instances],
}
OF_HOST: dict[str, Callable[[HostHardware], Any]] = {
    "virtualization": lambda host: host.system.virtualization,
    "flavour": lambda host: host.driver.module_flavour,
    "nvswitch": lambda host: host.driver.nvswitch,
    "reboot_required": lambda host: host.driver.reboot_required,
    "secure_boot": lambda host: host.driver.secure_boot,
    "held": lambda host: host.driver.held_packages,
    "dkms": lambda host: host.driver.dkms,
    "cpu_model": lambda host: host.cpu.model,
    "architecture": lambda host: host.cpu.architecture,
    "cores": lambda host: host.cpu.cores,
    "sockets": lambda host: host.cpu.sockets,
    "limit_mib": lambda host: host.memory.limit_mib,
    "proxies": lambda host: host.system.proxies,
    "acs": lambda host: host.system.acs,
    "iommu_mode": lambda host: host.system.iommu_mode,
    "numa_gpus": lambda host: [len(node.gpus) for node in host.numa],
}


@pytest.mark.parametrize("name", standin.names())
def test_a_machine_is_probed_as_its_fixture_says(name: str, probe_machine: Prober) -> None:
    machine = standin.load(name)
    expected = dict(machine["expect"])
    hangs = "hang" in machine.get("faults", {})
    host = probe_machine(machine, timeout_s=1.0 if hangs else 20.0)
    _check_errors(host, expected.pop("errors"))
    for a, b, kind in expected.pop("links", []):
        assert _link(host, a, b).kind == kind
    for a, b, gbs in expected.pop("link_gbs", []):
        assert _link(host, a, b).bandwidth_gbs == gbs
    for gpu, nic, kind in expected.pop("nics", []):
        assert {n.peer: n.kind for n in host.gpus[gpu].nics}[nic] == kind
    if "rdma" in expected:
        assert {n.rdma for n in host.network} == {expected.pop("rdma")}
    if "processes" in expected:
        held = [[p.pid, p.used_mib] for gpu in host.gpus for p in gpu.processes]
        assert held == expected.pop("processes")
    for gpu, gbs in zip(host.gpus, expected.pop("bandwidth_gbs", []), strict=False):
        assert gpu.memory_bandwidth_gbs == pytest.approx(gbs, rel=0.03), "as the data sheet says"
    codes = {finding.code for finding in findings(host, load_stack_rules())}
    assert codes >= set(expected.pop("findings", []))
    for key, value in expected.items():
        got = [OF_GPUS[key](gpu) for gpu in host.gpus] if key in OF_GPUS else OF_HOST[key](host)
        assert got == value, key
    assert from_dict(HostHardware, host.to_dict()) == host
    check_hardware(host, name)
    assert hardware_panel(name, host, verbose=True).renderable


def _check_errors(host: HostHardware, expected: list[str]) -> None:
    texts = [f"{e['part']}: {e['what']}" for e in host.errors]
    for text in expected:
        assert any(text in found for found in texts), texts
    if not expected:
        assert texts == []


def _link(host: HostHardware, a: int, b: int) -> Any:
    peer = host.gpus[b].pci_address
    return next(link for link in host.gpus[a].links if link.peer == peer)


def test_there_are_at_least_forty_machines_and_each_says_where_it_is_from() -> None:
    assert len(standin.names()) >= 40
    for name in standin.names():
        source = standin.load(name)["provenance"]["source"]
        assert re.match(r"^(https://github\.com/\S+|constructed)", source), name


@pytest.mark.parametrize("name", ["rtx3060", "h100x8", "a100-mig", "gb10"])
def test_every_figure_of_a_card_names_its_source(name: str, probe_machine: Prober) -> None:
    host = probe_machine(name)
    for gpu in host.gpus:
        for field in ("name", "vram_total_mib", "compute_capability", "memory_bandwidth_gbs"):
            assert getattr(gpu, field) is not None
            assert host.sources[f"gpus[{gpu.pci_address}].{field}"]


def test_cards_can_be_swapped_while_the_host_lives(probe_machine: Prober) -> None:
    before = probe_machine("rtx3060")
    after = probe_machine("rtx5090")
    assert [g.name for g in before.gpus] == ["NVIDIA GeForce RTX 3060"]
    assert [g.name for g in after.gpus] == ["NVIDIA GeForce RTX 5090"]
