"""What somebody else holds of a card is not planned with, or ends the host."""

from __future__ import annotations

import pytest
from tests import samples

from infra_llm.core.busy import foreign, free_for_us, is_planned_for
from infra_llm.core.errors import ExitCode, RefusedError
from infra_llm.core.hardware import Gpu, GpuProcess, HostHardware


def machine(*processes: GpuProcess) -> HostHardware:
    card = Gpu(
        index=0,
        vendor="nvidia",
        name="RTX 3060",
        vram_total_mib=12288,
        vram_reserved_mib=300,
        processes=list(processes),
    )
    return samples.hardware(gpus=[card])


OTHER = GpuProcess(pid=4242, name="blender", used_mib=4000)
OURS = GpuProcess(pid=7, name="llama-server", used_mib=9000)
DISPLAY = GpuProcess(pid=9, name="Xorg", used_mib=60)


def test_only_what_others_hold_is_taken_off() -> None:
    host = machine(OTHER, OURS, DISPLAY)
    planned = free_for_us(host, [7], "share", "node")
    assert planned.gpus[0].vram_reserved_mib == 300 + 4000
    assert host.gpus[0].vram_reserved_mib == 300, "the machine itself is as it was"
    assert [process.pid for process in foreign(host.gpus[0], [7])] == [4242]


def test_a_free_card_is_planned_for_as_it_is() -> None:
    host = machine(OURS, DISPLAY)
    assert free_for_us(host, [7], "refuse", "node") is host


def test_the_policy_may_refuse_and_names_the_program() -> None:
    with pytest.raises(RefusedError) as caught:
        free_for_us(machine(OTHER), [], "refuse", "node")
    assert caught.value.code == ExitCode.REFUSED
    assert "4,000 MiB are held by blender (pid 4242)" in caught.value.what
    assert "infra_llm_busy_gpus: share" in caught.value.hint


def test_a_process_of_unknown_size_is_none_that_can_be_planned_around() -> None:
    unknown = GpuProcess(pid=4242, name="blender", used_mib=None)
    host = machine(unknown)
    assert free_for_us(host, [], "refuse", "node") is host


def test_an_applied_plan_is_for_its_hardware() -> None:
    host = machine()
    state = {"desired": {"inputs": {"fingerprint": dict(host.fingerprint)}}}
    assert is_planned_for(state, host)
    assert not is_planned_for(None, host)
    state["desired"]["inputs"]["fingerprint"]["gpu:0"] = "another"
    assert not is_planned_for(state, host)
