"""What a person sees of a probed machine."""

from __future__ import annotations

import pytest
from rich.console import Console
from tests.unit.probe.conftest import Prober

from infra_llm.core.hardware import HostHardware
from infra_llm.report.hardware_panel import error_row, hardware_panel, host_line


def shown(host: HostHardware, verbose: bool = False) -> str:
    console = Console(width=120, record=True, force_terminal=False, quiet=False)
    with console.capture() as capture:
        console.print(hardware_panel("node1", host, verbose))
    return capture.get()


def test_a_mismatch_says_both_versions_and_what_will_help(probe_machine: Prober) -> None:
    text = shown(probe_machine("unattended-upgrade"))
    assert "library 580.178.04, loaded module 580.173.02" in text
    assert "reboot, or `infra-llm provision` will" in text


def test_a_line_counts_equal_cards_and_what_is_wrong(probe_machine: Prober) -> None:
    line = host_line("node1", probe_machine("h200x8"))
    assert line.startswith("node1: 8 x NVIDIA H200 140 GiB, 112 cores, 2015 GiB RAM, ubuntu 22.04")
    assert line.endswith("(1 wrong)"), "NVSwitches without a Fabric Manager"


def test_an_integrated_gpu_stands_behind_the_card(probe_machine: Prober) -> None:
    line = host_line("n", probe_machine("amd-igpu-rtx3090"))
    assert "NVIDIA GeForce RTX 3090 24.0 GiB + AMD Radeon Graphics (Raphael) (integrated)" in line


def test_verbose_shows_the_topology_matrix(probe_machine: Prober) -> None:
    text = shown(probe_machine("rtx3090x2-nvlink"), verbose=True)
    assert "NV4" in text
    assert "NV4" not in shown(probe_machine("rtx3090x2-nvlink"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nouveau", "nouveau drives the NVIDIA card"),
        ("gtx1080ti-rtx5090", "no driver serves both"),
        ("driver-not-loaded", "DKMS has no module for the running kernel"),
        ("secure-boot", "Secure Boot is on"),
        ("held-packages", "packages on hold: nvidia-driver-550"),
        ("acs-on-rtx4090x2", "ACS redirects traffic"),
        ("h200x8", "no Fabric Manager"),
        ("rtx3090x4-pcie", "4 of 16 PCIe lanes"),
        ("rtx4090", "1,234 MiB are held by"),
        ("cpu-vm-cgroup-cap", "a cgroup caps the RAM at 8,192 MiB"),
        ("host-vfio", "set aside for a virtual machine"),
        ("unknown-gpu", "10de:3fff is not in the GPU table"),
        ("gpu-lost", "GPU is lost"),
        ("a100-mig", "MIG 7 x 1g.10gb"),
        ("gb10", "shared"),
    ],
)
def test_the_panel_names_what_matters(name: str, words: str, probe_machine: Prober) -> None:
    assert words in " ".join(shown(probe_machine(name)).split())


@pytest.mark.parametrize("name", ["h100x8", "rtx3060", "cpu-only", "mi300x8", "l40s"])
def test_a_sound_machine_has_nothing_wrong(name: str, probe_machine: Prober) -> None:
    assert "wrong" not in shown(probe_machine(name), verbose=True)


def test_a_host_that_can_not_be_probed_is_a_row() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(error_row("node2", "unreachable: [connection refused]"))
    assert "unreachable: [connection refused]" in capture.get()


def test_an_empty_document_can_be_shown() -> None:
    assert "no GPU" in host_line("n", HostHardware())
    assert "node1" in shown(HostHardware())
