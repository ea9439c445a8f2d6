"""Every fault of the driver and its tools, and of the host, through the real readers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.standins import machine as standin
from tests.unit.probe.conftest import Prober

from infra_llm.core.hardware import HostHardware
from infra_llm.target.probe import ProbeOptions, probe
from infra_llm.target.probe.context import Context, isolated, run_command
from infra_llm.target.probe.nvml import load_pynvml


def whats(host: HostHardware) -> str:
    return "\n".join(f"{e['what']} -> {e['hint']}" for e in host.errors)


def with_faults(name: str, **faults: object) -> dict[str, object]:
    return {**standin.load(name), "faults": faults}


def test_a_hung_driver_costs_the_time_out_and_no_more(probe_machine: Prober) -> None:
    started = time.monotonic()
    host = probe_machine(with_faults("rtx3060", hang="device"), timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert "NVML hangs: no answer within 0.5 s" in whats(host)
    assert host.gpus[0].name == "NVIDIA GeForce RTX 3060", "from its device id"


def test_a_hung_driver_leaves_no_process_behind(probe_machine: Prober) -> None:
    probe_machine(with_faults("rtx3060", hang="init"), timeout_s=0.3)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert children == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (18, "Driver/library version mismatch -> reboot"),
        (4, "Insufficient Permissions -> probe as root"),
        (9, "Driver Not Loaded -> `infra-llm provision` installs"),
        (999, "NVML"),
    ],
)
def test_nvml_that_refuses_says_what_to_do(code: int, words: str, probe_machine: Prober) -> None:
    host = probe_machine(with_faults("rtx3060", init=code))
    if code == 999:
        # An unknown refusal of NVML: nvidia-smi is asked, and says the same.
        words = "nvidia-smi"
    assert words in whats(host)
    assert host.gpus[0].vram_total_mib == 12288


def test_a_lost_card_is_kept_with_its_fault(probe_machine: Prober) -> None:
    host = probe_machine(with_faults("p100x4", cards={"2": 15}))
    assert [bool(gpu.fault) for gpu in host.gpus] == [False, False, True, False]
    assert "GPU is lost" in whats(host)
    assert "power-cycle" in whats(host)


@pytest.mark.parametrize("code", [15, 16])
def test_a_card_that_is_lost_after_it_had_a_handle(code: int, probe_machine: Prober) -> None:
    host = probe_machine(with_faults("p100x4", late={"1": code}))
    assert [bool(gpu.fault) for gpu in host.gpus] == [False, True, False, False]
    assert len(host.errors) == 2, "one of NVML, one of the card, not one for each question"
    assert host.gpus[1].name == "Tesla P100-PCIE-16GB"


@pytest.mark.parametrize(
    ("missing", "field", "value"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", "vram_total_mib", 12288),
        ("nvmlDeviceGetMemoryInfo_v2", "vram_reserved_mib", None),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes", []),
        ("nvmlDeviceGetMigMode", "mig_enabled", None),
        ("nvmlDeviceGetNvLinkState", "links", []),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_w", None),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability", "8.6"),
        ("nvmlDeviceGetPciInfo_v3", "name", "NVIDIA GeForce RTX 3060"),
    ],
)
def test_functions_that_old_drivers_lack(
    missing: str, field: str, value: object, probe_machine: Prober
) -> None:
    host = probe_machine(with_faults("rtx3060", missing=[missing]))
    assert getattr(host.gpus[0], field) == value


def test_nvlinks_to_switches_that_a_vm_does_not_show(probe_machine: Prober) -> None:
    missing = ["nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkRemoteDeviceType"]
    host = probe_machine(with_faults("h100x8", missing=missing))
    assert {link.kind for link in host.gpus[0].links} == {"NV18"}


def test_nvlinks_to_a_card_that_a_container_hides_are_not_links_to_others(
    probe_machine: Prober,
) -> None:
    machine = standin.load("dgx1-v100")
    machine["gpus"] = machine["gpus"][:4]
    machine["nvlink"]["pairs"] = [p for p in machine["nvlink"]["pairs"] if max(p[:2]) < 4]
    host = probe_machine(machine)
    assert {link.kind for link in host.gpus[0].links} == {"NV1", "NV2"}


def test_a_library_without_driver_is_no_crash(probe_machine: Prober) -> None:
    machine = {**standin.load("rtx3060"), "masked_sys": True}
    host = probe_machine({**machine, "faults": {"init": 9}})
    assert host.gpus == []
    assert "/sys is missing or masked" in whats(host)


def test_without_pynvml_nvidia_smi_is_read(probe_machine: Prober) -> None:
    host = probe_machine("h100x8", pynvml_source="this is not python (")
    assert len(host.gpus) == 8
    gpu = host.gpus[0]
    assert (gpu.vram_total_mib, gpu.compute_capability) == (81559, "9.0")
    assert host.sources[f"gpus[{gpu.pci_address}].vram_total_mib"] == "nvidia-smi"
    assert gpu.ecc_enabled is True
    assert gpu.power_limit_w == 700.0
    assert gpu.links[0].kind == "NODE", "NVLink is not in nvidia-smi's XML: PCIe is what is known"


def test_nvidia_smi_reads_mig_and_processes_too(probe_machine: Prober) -> None:
    host = probe_machine("a100-mig-mixed", pynvml_source="")
    plain, sliced = host.gpus
    assert [(p.pid, p.used_mib) for p in plain.processes] == [(55111, 20481)]
    assert [i.profile for i in sliced.mig_instances] == ["2g.20gb"] * 3


@pytest.mark.parametrize("source", ["", "x = 1", "zlib+base64:!!!!", "zlib+base64:AAAA", "(("])
def test_a_damaged_pynvml_is_an_import_error(source: str) -> None:
    if source == "":
        assert load_pynvml(source).nvmlInit
        return
    with pytest.raises(ImportError, match="pynvml that came with the run"):
        load_pynvml(source)


def test_no_library_and_no_card_is_no_error(probe_machine: Prober) -> None:
    host = probe_machine("cpu-only")
    assert host.errors == []
    assert host.driver.library_version is None


def test_an_empty_root_gives_errors_and_an_empty_machine(tmp_path: Path) -> None:
    host = probe(str(tmp_path))
    assert host.gpus == []
    assert host.memory.total_mib == 0
    assert "/proc/cpuinfo can't be read" in whats(host)


def test_a_root_that_is_not_there_is_no_crash() -> None:
    assert probe("/nonexistent/root").errors


def test_a_command_that_hangs_is_left(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_command(["sh", "-c", "echo begun; sleep 60"], 0.3)
    assert time.monotonic() - started < 3
    assert result.failure == "no answer within 0.3 s"


def test_a_command_speaks_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    assert run_command(["sh", "-c", "echo $LC_ALL $LANGUAGE"], 5).output.strip() == "C C"


def test_a_failed_command_gives_its_last_line() -> None:
    result = run_command(["sh", "-c", "echo one; echo two; exit 3"], 5)
    assert (result.status, result.failure) == (3, "exit 3: two")


def test_a_missing_tool_is_not_run(tmp_path: Path) -> None:
    assert Context(str(tmp_path)).run("nvidia-smi").failure == "missing"


def test_a_reader_that_dies_or_raises_is_told() -> None:
    with pytest.raises(RuntimeError, match="died"):
        isolated(lambda: os._exit(3), 5)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        isolated(lambda: 1 / 0, 5)
    with pytest.raises(TimeoutError):
        isolated(lambda: time.sleep(60), 0.2)
    assert isolated(lambda: {"a": [1]}, 5) == {"a": [1]}


def test_a_reader_that_raises_becomes_an_error_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: Context) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("infra_llm.target.probe.read_cpu", broken)
    host = probe(str(tmp_path), ProbeOptions())
    assert "KeyError" in whats(host)
    assert "please report" in whats(host)
