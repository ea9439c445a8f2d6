"""The GPU table and the ways into it. Expected figures are the vendors' published ones."""

from __future__ import annotations

import re

import pytest

from infra_llm.core.errors import BadInputError
from infra_llm.core.findings import findings
from infra_llm.core.gpu_table import GpuRow, GpuTable, complete
from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.readers.gpu_table import load_gpu_table
from infra_llm.readers.stack_rules import load_stack_rules

TABLE = load_gpu_table()


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("RTX 3060", "NVIDIA GeForce RTX 3060"),
        ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3060"),
        ("3060", "NVIDIA GeForce RTX 3060"),
        ("rtx3060", "NVIDIA GeForce RTX 3060"),
        ("GeForce GTX 1080 Ti", "NVIDIA GeForce GTX 1080 Ti"),
        ("1080ti", "NVIDIA GeForce GTX 1080 Ti"),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation"),
        ("L40S 48GB", "NVIDIA L40S"),
        ("L4", "NVIDIA L4"),
        ("A40", "NVIDIA A40"),
        ("Tesla P40", "Tesla P40"),
        ("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-16GB"),
        ("4060 Ti 16GB", "NVIDIA GeForce RTX 4060 Ti"),
        ("H100 SXM", "NVIDIA H100 80GB HBM3"),
        ("H100 PCIe 80GB", "NVIDIA H100 PCIe"),
        ("H200", "NVIDIA H200"),
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        ("DGX Spark", "NVIDIA GB10"),
        ("MI300X", "AMD Instinct MI300X"),
        ("RX 7900 XTX", "AMD Radeon RX 7900 XTX"),
        ("Intel(R) Arc(TM) B580 Graphics", "Intel Arc B580"),
    ],
)
def test_a_name_is_found_as_people_write_it(written: str, found: str) -> None:
    assert TABLE.find_gpu(written).name == found


@pytest.mark.parametrize(
    ("written", "candidates"),
    [
        ("RTX 4060 Ti", ("RTX 4060 Ti 8GB", "RTX 4060 Ti 16GB")),
        ("Tesla V100", ("16 GiB", "32 GiB")),
        ("A100", ("40 GiB", "80 GiB")),
        ("3060 24GB", ("12 GiB",)),
    ],
)
def test_an_ambiguous_name_names_the_candidates(written: str, candidates: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError) as caught:
        TABLE.find_gpu(written)
    assert all(candidate in str(caught.value) for candidate in candidates)


def test_memory_tells_variants_apart() -> None:
    assert TABLE.find_gpu("RTX 4060 Ti", 16384).vram_mib == 16380
    assert TABLE.find_gpu("RTX 4060 Ti", 8 * 1024).vram_mib == 8188
    assert TABLE.find_gpu("Tesla V100", 32 * 1024).vram_mib == 32768


def test_variants_of_one_size_resolve_to_the_slower_and_say_so() -> None:
    row = TABLE.find_gpu("A100 80GB")
    assert row.memory_bandwidth_gbs == 1935
    assert "A100-SXM4-80GB" in row.assumed


@pytest.mark.parametrize("written", ["", "   ", "NVIDIA", "RTX", "RTX 9999", "RTX 4090 Laptop GPU"])
def test_an_unknown_name_is_an_error_that_says_what_to_do(written: str) -> None:
    with pytest.raises(BadInputError, match=r"gpus\.json"):
        TABLE.find_gpu(written)


@pytest.mark.parametrize(
    ("pci_id", "subsystem", "revision", "vram", "name"),
    [
        ("10de:2504", "", "", None, "NVIDIA GeForce RTX 3060"),
        ("10de:25b6", "10de:157e", "", None, "NVIDIA A2"),
        ("10de:25b6", "10de:14a9", "", None, "NVIDIA A16"),
        ("10de:1e30", "10de:129e", "", None, "Quadro RTX 8000"),
        ("10de:1e30", "10de:0000", "", None, "Quadro RTX 6000"),
        ("10de:2bb3", "10de:227a", "", None, "NVIDIA RTX PRO 5000 72GB Blackwell"),
        ("1002:744c", "1002:0e3b", "c8", None, "AMD Radeon RX 7900 XTX"),
        ("1002:744c", "", "cc", None, "AMD Radeon RX 7900 XT"),
        ("8086:e20b", "", "", None, "Intel Arc B580"),
    ],
)
def test_a_device_id_finds_one_board(
    pci_id: str, subsystem: str, revision: str, vram: float | None, name: str
) -> None:
    assert [r.name for r in TABLE.find_pci(pci_id, subsystem, revision, vram)] == [name]


def test_variants_that_share_an_id_are_told_apart_by_memory() -> None:
    assert {r.vram_mib for r in TABLE.find_pci("10de:2d04")} == {8151, 16311}
    assert [r.vram_mib for r in TABLE.find_pci("10de:2d04", vram_mib=16311)] == [16311]


def test_every_row_is_whole_and_names_its_sources() -> None:
    assert len(TABLE.rows) >= 100
    for row in TABLE.rows:
        assert set(row.sources) == {"ids", "vram", "specification", "fp16"}, row.name
        assert row.memory_bandwidth_gbs > 0, row.name
        assert row.fp16_tflops > 0, row.name
        assert row.vram_mib is None or row.vram_mib > 1024, row.name
        assert row.vendor != "nvidia" or re.fullmatch(r"\d{1,2}\.\d", row.compute_capability or "")
        assert row.vendor != "amd" or re.fullmatch(r"gfx[0-9a-f]{3,4}", row.gfx_target or "")
        for pci in row.pci_ids:
            assert re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}(/[0-9a-f:]{9}|@[0-9a-f]{2})?", pci)


def test_the_cards_that_sites_have_are_there() -> None:
    capabilities = {row.compute_capability for row in TABLE.rows if row.vendor == "nvidia"}
    assert capabilities >= {"6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0"}
    assert capabilities >= {"10.0", "10.3", "12.0", "12.1"}


@pytest.mark.parametrize(
    ("name", "bandwidth", "tflops"),
    [
        # NVIDIA data sheets: bandwidth GB/s, dense FP16 tensor TFLOPS.
        ("RTX 4090", 1008, 330.3),
        ("RTX 3090", 936, 142),
        ("A100-SXM4-80GB", 2039, 312),
        ("H100 SXM", 3350, 989),
        ("L40S", 864, 362),
        ("Tesla T4", 320, 65),
        ("Tesla P40", 346, 11.8),
        ("MI300X", 5300, 1307),
        ("RX 7900 XTX", 960, 123),
    ],
)
def test_figures_meet_the_data_sheets(name: str, bandwidth: float, tflops: float) -> None:
    row = TABLE.find_gpu(name)
    assert row.memory_bandwidth_gbs == pytest.approx(bandwidth, rel=0.01)
    assert row.fp16_tflops == pytest.approx(tflops, rel=0.02)


def test_a_bare_card_is_completed_from_its_device_id() -> None:
    host = HostHardware(gpus=[Gpu(0, "nvidia", pci_address="0000:01:00.0", pci_id="10de:1b06")])
    complete(host, TABLE)
    gpu = host.gpus[0]
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA GeForce GTX 1080 Ti", "6.1")
    assert gpu.vram_total_mib == 11264
    assert host.sources["gpus[0000:01:00.0].vram_total_mib"] == "GPU table"
    assert host.errors == []


def test_what_the_driver_said_stays() -> None:
    gpu = Gpu(0, "nvidia", "NVIDIA GeForce RTX 4090", pci_id="10de:2684", vram_total_mib=49140)
    host = HostHardware(gpus=[gpu])
    complete(host, TABLE)
    assert gpu.vram_total_mib == 49140
    assert gpu.memory_bandwidth_gbs == pytest.approx(1008, rel=0.01)


def test_an_unknown_device_is_named_with_how_to_add_it() -> None:
    host = HostHardware(gpus=[Gpu(0, "nvidia", pci_address="0000:41:00.0", pci_id="10de:ffff")])
    complete(host, TABLE)
    assert host.gpus[0].name == "unknown nvidia GPU 10de:ffff"
    assert "10de:ffff" in host.errors[0]["what"]
    assert "gpus.json" in host.errors[0]["hint"]


def test_an_unknown_card_of_which_the_driver_tells_all_is_no_error() -> None:
    gpu = Gpu(
        0,
        "nvidia",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        pci_id="10de:2717",
        vram_total_mib=16376,
        compute_capability="8.9",
        memory_bandwidth_gbs=576.0,
    )
    host = HostHardware(gpus=[gpu])
    complete(host, TABLE)
    assert host.errors == []
    gpu.memory_bandwidth_gbs = None
    complete(host, TABLE)
    assert host.errors[0]["what"].endswith("is not in the GPU table: its speed not known")
    assert {f.code: f.severity for f in findings(host, load_stack_rules())}["unknown_gpu"] == "note"


def test_an_id_shared_by_variants_takes_the_smaller_memory_and_says_assumed() -> None:
    host = HostHardware(gpus=[Gpu(0, "nvidia", pci_address="0000:01:00.0", pci_id="10de:2d04")])
    complete(host, TABLE)
    assert host.gpus[0].vram_total_mib == 8151
    assert "assumed" in host.sources["gpus[0000:01:00.0].vram_total_mib"]


def test_a_broken_table_is_an_error_with_its_place() -> None:
    with pytest.raises(BadInputError, match=r"gpus\[0\]"):
        GpuTable.from_data({"gpus": [{"name": 3}]})
    with pytest.raises(BadInputError, match="GPU table"):
        GpuTable.from_data({})
    assert GpuTable([]).find_pci("10de:2504") == []
    assert GpuRow("x", "nvidia", "Ada", 1.0, 1.0).label() == "x"
