"""Ubuntu's own driver: modules that come signed, in step with kernel and libraries."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from tests.unit.stack.golden import planned
from tests.unit.stack.test_solver import running

from infra_llm.core.stack import StackWishes
from infra_llm.core.stack.model import DriverPlan


def driver(kernel: str = "", modules: str = "auto") -> DriverPlan:
    host = running("ubuntu24.04", "RTX 3090")
    host.system.kernel = kernel or host.system.kernel
    plan = planned(host, "ubuntu24.04", StackWishes(source="distro", modules=modules))
    assert plan.driver is not None
    assert ("signed-together" in {rule.id for rule in plan.rules}) is not plan.driver.hold
    return plan.driver


def test_nothing_is_held_and_unattended_upgrades_leave_the_kernel_too() -> None:
    plan = driver("6.17.0-23-generic")
    assert not plan.hold
    assert "linux-image-generic-hwe-24.04" in plan.excluded
    assert "linux-modules-nvidia-*" in plan.excluded
    vendor = planned(
        running("ubuntu24.04", "RTX 3090"), "ubuntu24.04", StackWishes(source="vendor")
    ).driver
    assert vendor is not None
    assert (vendor.hold, vendor.excluded) == (True, [])


@pytest.mark.parametrize(
    ("modules", "name", "goes"),
    [
        ("open", "libnvidia-compute-580-server", False),
        ("open", "nvidia-utils-580-server", False),
        ("open", "linux-modules-nvidia-580-server-open-generic", False),
        ("open", "linux-modules-nvidia-580-server-open-oracle", False),
        ("open", "nvidia-fabricmanager-580", False),
        ("open", "libnvidia-nscq-580", False),
        ("open", "nvidia-container-toolkit", False),
        ("open", "linux-modules-nvidia-580-server-generic", True),
        ("open", "linux-modules-nvidia-580-server-oem-24.04", True),
        ("open", "nvidia-headless-no-dkms-580-server", True),
        ("open", "libnvidia-compute-595-server", True),
        ("open", "libnvidia-compute-570-server", True),
        ("open", "nvidia-fabricmanager-570", True),
        # The desktop's, as `ubuntu-drivers install` brings them.
        ("open", "libnvidia-compute-580", True),
        ("open", "nvidia-driver-580-open", True),
        ("open", "linux-modules-nvidia-580-open-generic-hwe-24.04", True),
        # NVIDIA's own, from 590 on without a branch.
        ("open", "libnvidia-compute", True),
        ("open", "nvidia-dkms-open", True),
        ("proprietary", "linux-modules-nvidia-580-server-generic", False),
        ("proprietary", "linux-modules-nvidia-580-server-open-generic", True),
        ("proprietary", "nvidia-headless-no-dkms-580-server", False),
        ("proprietary", "nvidia-headless-no-dkms-580-server-open", True),
    ],
)
def test_what_can_not_be_beside_it_goes_in_the_same_run(
    modules: str, name: str, goes: bool
) -> None:
    plan = driver(modules=modules)
    assert any(fnmatchcase(name, pattern) for pattern in plan.conflicts) is goes
    assert not any(fnmatchcase(own, p) for own in plan.packages for p in plan.conflicts)
