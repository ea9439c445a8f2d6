"""The stack as a host holds it: what it is made from, what differs, and which roles are due."""

from __future__ import annotations

from typing import Any

import pytest
from tests import samples

from infra_llm.core.decide import read_desired
from infra_llm.core.errors import BadInputError, RefusedError
from infra_llm.core.hardware import DriverState, HostHardware
from infra_llm.core.layout import LAYOUT
from infra_llm.core.stack.desired import STACK_ROLES, needs_stack, stack_changes
from infra_llm.runner.host import after_stack
from infra_llm.runner.stack import desired_stack


def card_host(**driver: Any) -> HostHardware:
    return samples.hardware(gpus=[samples.nvidia()], driver=DriverState(**driver))


def loaded(version: str = "580.95.05") -> dict[str, Any]:
    return {"module_loaded": True, "module_version": version, "module_flavour": "open"}


def applied(stack: dict[str, Any], *, done: bool = True) -> dict[str, Any]:
    """The host's stack state after the roles ran."""
    return {**stack, "schema": "infra-llm/stack-state/1", "done": done}


def test_a_host_without_an_nvidia_card_has_no_stack() -> None:
    assert desired_stack(samples.hardware(), samples.wishes(), None, "node") == {}
    assert stack_changes({}, None, {}) == {}
    amd = samples.hardware(gpus=[samples.nvidia(vendor="amd")])
    assert desired_stack(amd, samples.wishes(), None, "node") == {}


@pytest.mark.parametrize(
    ("wish", "needed"),
    [
        ({}, True),
        ({"llama_cpp_install_method": "source"}, True),
        ({"llama_cpp_install_method": "wheel"}, False),
        ({"llama_cpp_install_method": "release"}, False),
        ({"llama_cpp_backend": "cpu"}, False),
        ({"llama_cpp_backend": "vulkan"}, True),
    ],
)
def test_an_engine_that_leaves_the_card_alone_needs_no_stack(
    wish: dict[str, Any], needed: bool
) -> None:
    assert needs_stack(card_host(), samples.wishes(**wish)) is needed


def test_a_new_host_gets_driver_and_toolkit() -> None:
    stack = desired_stack(card_host(), samples.wishes(), None, "node")
    found = stack_changes(stack, None, {})
    assert found == {
        "nvidia_driver": ["driver 580 open from vendor"],
        "cuda": ["CUDA 13.0 toolkit"],
    }
    driver = stack["roles"]["nvidia_driver"]
    assert [entry["name"] for entry in driver["repositories"]] == ["distribution", "nvidia-cuda"]
    assert stack["roles"]["cuda"]["plan"]["root"] == "/usr/local/cuda-13.0"


def test_a_toolkit_out_of_wheels_brings_them_and_lies_where_the_role_puts_it() -> None:
    wishes = samples.wishes(infra_llm_cuda_source="wheels")
    cuda = desired_stack(card_host(), wishes, None, "node")["roles"]["cuda"]
    assert cuda["plan"]["kind"] == "wheels"
    assert cuda["plan"]["root"] == f"{LAYOUT['stack_toolkits']}/{cuda['plan']['version']}"
    assert "nvidia-cuda-nvcc" in [wheel["name"] for wheel in cuda["wheels"]]
    assert cuda["repositories"] == []


def test_what_we_installed_stands_when_it_is_loaded() -> None:
    """The driver told the capability and is loaded now: the plan is still the vendor's."""
    wishes = samples.wishes()
    before = applied(desired_stack(card_host(), wishes, None, "node"))
    again = desired_stack(card_host(**loaded()), wishes, before, "node")
    assert again["plan"]["driver"]["source"] == "vendor"
    assert stack_changes(again, before, {}) == {}


def test_a_new_kernel_changes_the_headers_and_nothing_else() -> None:
    wishes = samples.wishes()
    before = applied(desired_stack(card_host(), wishes, None, "node"))
    host = card_host(**loaded())
    host.system.kernel = "6.1.0-41-amd64"
    again = desired_stack(host, wishes, before, "node")
    assert set(stack_changes(again, before, {})) == {"nvidia_driver"}
    driver = again["plan"]["driver"]
    assert (driver["source"], driver["branch"]) == ("vendor", "580")
    assert "linux-headers-6.1.0-41-amd64" in driver["headers"]


def test_a_kept_driver_stays_kept() -> None:
    wishes = samples.wishes()
    first = desired_stack(card_host(**loaded("570.172.08")), wishes, None, "node")
    assert first["plan"]["driver"]["source"] == "present"
    assert set(first["roles"]) == {"nvidia_driver", "cuda"}
    cuda = first["roles"]["cuda"]["repositories"]
    assert [entry["name"] for entry in cuda] == ["nvidia-cuda"] and cuda[0]["exclude"]
    again = desired_stack(card_host(**loaded("570.172.08")), wishes, applied(first), "node")
    assert stack_changes(again, applied(first), {}) == {}


def test_another_branch_is_a_change_and_refreshes_the_containers_view() -> None:
    wishes = samples.wishes(infra_llm_container_engine="docker")
    before = applied(desired_stack(card_host(), wishes, None, "node"))
    other = wishes | {"infra_llm_driver_branch": 595}
    again = desired_stack(card_host(**loaded()), other, before, "node")
    found = stack_changes(again, before, {})
    assert found["nvidia_driver"] == ["driver 580 open from vendor -> driver 595 open from vendor"]
    assert found["nvidia_container_toolkit"] == ["the driver changes"]
    assert "container_engine" not in found


def test_differences_on_the_host_and_an_unfinished_run_are_due() -> None:
    stack = desired_stack(card_host(), samples.wishes(), None, "node")
    found = stack_changes(stack, applied(stack), {"cuda": ["package gone"], "other": ["x"]})
    assert found == {"cuda": ["package gone"]}
    cut = stack_changes(stack, applied(stack, done=False), {})
    assert set(cut) == {"nvidia_driver", "cuda"}


def test_limits_are_the_drivers() -> None:
    wishes = samples.wishes(infra_llm_gpu_power_limit_w=250)
    before = applied(desired_stack(card_host(), samples.wishes(), None, "node"))
    again = desired_stack(card_host(**loaded()), wishes, before, "node")
    assert set(stack_changes(again, before, {})) == {"nvidia_driver"}
    assert again["roles"]["nvidia_driver"]["power_limit_w"] == 250


def test_a_refusal_ends_the_host_with_its_ways_out() -> None:
    host = card_host(secure_boot=True)
    with pytest.raises(RefusedError) as caught:
        desired_stack(host, samples.wishes(), None, "node")
    assert "infra_llm_secure_boot: mok" in caught.value.hint


def test_a_distribution_without_rules_keeps_its_driver_or_is_named() -> None:
    host = card_host(**loaded())
    host.system.distribution = "arch"
    assert desired_stack(host, samples.wishes(), None, "node") == {}
    host.driver = DriverState()
    with pytest.raises(BadInputError, match="arch"):
        desired_stack(host, samples.wishes(), None, "node")


def test_a_plan_or_state_with_a_broken_stack_is_named() -> None:
    desired = samples.desired()
    assert read_desired(desired, "x").stack == {}
    with pytest.raises(BadInputError, match=r"stack\.roles"):
        stack = desired_stack(card_host(), samples.wishes(), None, "node") | {"roles": 3}
        read_desired(desired | {"stack": stack}, "x")


def test_the_second_look_keeps_what_the_first_found() -> None:
    def decision(due: list[str], role: str) -> dict[str, Any]:
        return {
            "due": due,
            "stack_due": [r for r in due if r in STACK_ROLES],
            "changes": [{"role": role, "text": "differs"}],
            "fresh": role == "nvidia_driver",
            "previous": None,
        }

    first = decision(["preflight", "nvidia_driver", "llm_verify"], "nvidia_driver")
    second = decision(["preflight", "llama_cpp", "llm_verify"], "llama_cpp")
    merged = after_stack(first, second)
    assert merged["due"] == ["preflight", "nvidia_driver", "llama_cpp", "llm_verify"]
    assert [change["role"] for change in merged["changes"]] == ["nvidia_driver", "llama_cpp"]
    assert merged["stack_due"] == [] and merged["fresh"] is True
