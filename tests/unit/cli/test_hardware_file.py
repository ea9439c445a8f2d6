"""Hardware that is not at hand: a probe's document, or cards by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import samples

from infra_llm.commands.hosts import gpus_named, read_hardware
from infra_llm.core.errors import BadInputError

WITH_CARD = samples.hardware(gpus=[samples.nvidia()]).to_dict()


def refused(path: Path, document: Any) -> BadInputError:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(BadInputError) as caught:
        read_hardware(path)
    assert caught.value.where.startswith(str(path))
    assert caught.value.hint, "what to do next"
    return caught.value


def test_a_probes_document_is_read_alone_or_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    for document in (WITH_CARD, [{"name": "h1", "exit_code": 0, **WITH_CARD}]):
        path.write_text(json.dumps(document))
        assert read_hardware(path).to_dict() == WITH_CARD


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "too deeply nested"),
        ('{"memory": {"total_mib": NaN}}', "NaN is no number of JSON"),
        ('{"memory": {"total_mib": 1e999}}', "1e999 is no number of JSON"),
        ([], "0 hosts in the file"),
        ([WITH_CARD, WITH_CARD], "2 hosts in the file"),
        ([7], "expected an object, found int"),
        ({}, "no document of schema infra-llm/host-hardware/1"),
        ([{"name": "h1", "exit_code": 5, "error": "no sudo"}], "the probe of h1 failed: no sudo"),
        ({"error": "no sudo"}, "the probe of the host failed: no sudo"),
        (WITH_CARD | {"schema": "infra-llm/launch-plan/1"}, "this version reads"),
        (WITH_CARD | {"gpus": 3}, "expected a list"),
    ],
)
def test_what_is_no_probe_is_refused(document: Any, words: str, tmp_path: Path) -> None:
    assert words in refused(tmp_path / "host.json", document).what


@pytest.mark.parametrize(
    ("part", "changes", "place"),
    [
        ("memory", {"total_mib": 0}, "memory.total_mib"),
        ("memory", {"total_mib": -1}, "memory.total_mib"),
        ("memory", {"available_mib": -1}, "memory.available_mib"),
        ("memory", {"limit_mib": -1}, "memory.limit_mib"),
        ("memory", {"total_mib": 10**400}, "memory.total_mib"),
        ("memory", {"total_mib": 2**40}, "memory.total_mib"),
        ("cpu", {"cores": 0}, "cpu.cores"),
        ("cpu", {"memory_bandwidth_gbs": 0}, "cpu.memory_bandwidth_gbs"),
        ("gpu", {"vendor": "NVIDIA"}, "gpus[0].vendor"),
        ("gpu", {"vendor": "3dfx"}, "gpus[0].vendor"),
        ("gpu", {"vram_total_mib": -1}, "gpus[0].vram_total_mib"),
        ("gpu", {"vram_total_mib": 10**400}, "gpus[0].vram_total_mib"),
        ("gpu", {"vram_reserved_mib": -99999}, "gpus[0].vram_reserved_mib"),
        ("gpu", {"vram_reserved_mib": 99999}, "gpus[0].vram_reserved_mib"),
        ("gpu", {"vram_free_mib": 12289}, "gpus[0].vram_free_mib"),
        ("gpu", {"fp16_tflops": -2}, "gpus[0].fp16_tflops"),
        ("gpu", {"fp16_tflops": 10**400}, "gpus[0].fp16_tflops"),
        ("gpu", {"memory_bandwidth_gbs": 0}, "gpus[0].memory_bandwidth_gbs"),
        ("gpu", {"memory_bandwidth_gbs": 1e300}, "gpus[0].memory_bandwidth_gbs"),
        ("gpu", {"mig_instances": [{"profile": "1g.5gb", "memory_mib": -1}]}, "memory_mib"),
    ],
)
def test_what_no_machine_can_be_is_refused(
    part: str, changes: dict[str, Any], place: str, tmp_path: Path
) -> None:
    document = json.loads(json.dumps(WITH_CARD))
    (document["gpus"][0] if part == "gpu" else document[part]).update(changes)
    assert refused(tmp_path / "host.json", document).where.endswith(place)


def test_a_vendor_in_other_letters_is_answered_with_the_known_name(tmp_path: Path) -> None:
    card = {"index": 0, "vendor": "NVIDIA"}
    error = refused(tmp_path / "host.json", WITH_CARD | {"gpus": [card]})
    assert error.what == "is 'NVIDIA'; did you mean nvidia?"
    assert error.hint == "one of nvidia, amd, intel, apple"


RTX_3060, MI300X = "NVIDIA GeForce RTX 3060", "AMD Instinct MI300X"


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("rtx3060", RTX_3060, 1),
        ("RTX 3060", RTX_3060, 1),
        ("rtx3060x2", RTX_3060, 2),
        ("RTX 3060 x 2", RTX_3060, 2),
        ('"RTX 3060"x2', RTX_3060, 2),
        ("3060x64", RTX_3060, 64),
        ("rx6600", "AMD Radeon RX 6600", 1),
        ("rx6600x4", "AMD Radeon RX 6600", 4),
        ("mi300x", MI300X, 1),
        ("mi300x8", MI300X, 8),
        ("MI300Xx8", MI300X, 8),
    ],
)
def test_cards_by_name_and_number(text: str, name: str, count: int) -> None:
    found = gpus_named(text, 1)
    assert [gpu.name for gpu in found] == [name] * count
    assert [gpu.index for gpu in found] == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "NAMExN"),
        ("RTX 3060x0", "N is 1 to 64"),
        ("RTX 3060x65", "N is 1 to 64"),
        ("RTX 3060x999", "N is 1 to 64"),
        ("rx580", "GPU 'rx580': no such GPU in the table"),
        ("rtx9999", "GPU 'rtx9999': no such GPU in the table"),
        ("RTX 9999x2", "GPU 'RTX 9999': no such GPU in the table"),
        ("RTX 4060 Tix2", "GPU 'RTX 4060 Ti': several cards have that name"),
        ("x" * 5000, "no such GPU"),
    ],
)
def test_cards_that_are_none_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        gpus_named(text, 0)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [("rtx9999", "rtx9999", 1), ("RTX 9999x2", "RTX 9999", 2), ("Foo 7 x2", "Foo 7", 2)],
)
def test_a_card_that_no_table_has_is_taken_with_its_memory(
    text: str, name: str, count: int
) -> None:
    found = gpus_named(text, 0, 24)
    assert [(gpu.name, gpu.vram_total_mib) for gpu in found] == [(name, 24576)] * count
