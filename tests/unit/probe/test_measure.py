"""Measurements on request: they are of this machine's real memory and disk, and cached."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.standins import machine as standin
from tests.unit.probe.conftest import Prober

from infra_llm.core.hardware import HostHardware
from infra_llm.target.probe import ProbeOptions, probe
from infra_llm.target.probe.disks import measure_read_mib_s
from infra_llm.target.probe.measure import figures, memory_read_gbs


def test_memory_bandwidth_is_that_of_real_memory() -> None:
    gbs = memory_read_gbs(threads=1, budget_bytes=256 << 20, seconds=0.3)
    # One core of anything since DDR3 reads 2 to 60 GB/s; a cache would show hundreds.
    assert 1.0 < gbs < 150.0


def test_disk_reads_are_measured_past_the_cache(tmp_path: Path) -> None:
    speed = measure_read_mib_s("overlay", str(tmp_path))
    assert speed is not None
    assert speed > 5
    assert list(tmp_path.iterdir()) == [], "the test file is removed"


def test_a_folder_that_can_not_be_written_gives_none() -> None:
    assert measure_read_mib_s("overlay", "/proc/nowhere") is None


def test_nothing_is_measured_unless_asked(probe_machine: Prober) -> None:
    host = probe_machine("rtx3060")
    assert host.cpu.memory_bandwidth_gbs is None
    assert host.gpus[0].memory_bandwidth_measured_gbs is None
    assert all(disk.read_mib_s is None for disk in host.disks)


def test_a_figure_of_the_same_machine_is_taken_over(probe_machine: Prober) -> None:
    first = probe_machine("rtx3060")
    first.cpu.memory_bandwidth_gbs = 41.5
    first.gpus[0].memory_bandwidth_measured_gbs = 333.0
    again = probe_machine("rtx3060", measured=figures(first), measure_memory=True)
    assert again.cpu.memory_bandwidth_gbs == 41.5
    assert again.gpus[0].memory_bandwidth_measured_gbs == 333.0
    assert "measured earlier" in again.sources["cpu.memory_bandwidth_gbs"]


def test_a_figure_of_other_hardware_is_not(probe_machine: Prober) -> None:
    first = probe_machine("rtx3060")
    first.cpu.memory_bandwidth_gbs = 41.5
    other = probe_machine("rtx4090", measured=figures(first))
    assert other.cpu.memory_bandwidth_gbs is None


@pytest.mark.parametrize(
    "measured", [{}, {"fingerprint": ""}, {"fingerprint": 3, "gpus": None}, {"disks": []}]
)
def test_damaged_figures_are_left(measured: dict[str, object], probe_machine: Prober) -> None:
    host = probe_machine("cpu-only", measured=measured)
    assert host.cpu.memory_bandwidth_gbs is None
    assert host.errors == []


def test_a_card_is_measured_through_the_driver(probe_machine: Prober) -> None:
    host = probe_machine("rtx3090x2-nvlink", measure_gpus=True)
    assert all((gpu.memory_bandwidth_measured_gbs or 0) > 0.5 for gpu in host.gpus)
    place = f"gpus[{host.gpus[0].pci_address}].memory_bandwidth_measured_gbs"
    assert "cuMemcpyDtoD" in host.sources[place]


def test_a_card_that_can_not_be_measured_says_why(probe_machine: Prober) -> None:
    hung = {**standin.load("rtx3060"), "faults": {"hang": "cuda"}}
    host = probe_machine(hung, measure_gpus=True, measure_timeout_s=0.5)
    assert any("was not measured" in error["what"] for error in host.errors)
    bare = probe_machine("nouveau", measure_gpus=True)
    assert any("no libcuda.so.1" in error["what"] for error in bare.errors)


def test_the_real_machine_can_be_measured() -> None:
    host: HostHardware = probe("/", ProbeOptions(measure_memory=True))
    assert (host.cpu.memory_bandwidth_gbs or 0) > 1
    assert "memcmp" in host.sources["cpu.memory_bandwidth_gbs"]
