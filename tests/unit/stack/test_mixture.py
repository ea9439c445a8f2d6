"""Whatever cards, distribution and driver come together: what holds for every plan."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.stack.golden import planned
from tests.unit.stack.test_golden import SYSTEMS, check_invariants
from tests.unit.stack.test_solver import box, loaded, running

from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.stack import StackWishes
from infra_llm.readers.gpu_table import load_gpu_table

NVIDIA = [row for row in load_gpu_table().rows if row.vendor == "nvidia"]


def mixture(rows: list[Any], system: str | None, version: str, flavour: str) -> HostHardware:
    host = running(system, **(loaded(version, flavour) if version else {})) if system else box()
    for index, row in enumerate(rows):
        host.gpus.append(
            Gpu(
                index,
                row.vendor,
                name=row.name,
                compute_capability=row.compute_capability,
                unified_memory=row.unified_memory,
            )
        )
    return host


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.sampled_from(NVIDIA), min_size=1, max_size=9),
    system=st.sampled_from(SYSTEMS),
    probed=st.booleans(),
    version=st.sampled_from(["", "470.82.01", "535.129.03", "550.54.15", "580.95.05", "595.71.05"]),
    flavour=st.sampled_from(["open", "proprietary"]),
    secure_boot=st.sampled_from([None, False, True]),
    wish=st.builds(
        StackWishes,
        engines=st.sampled_from([("llama.cpp",), ("vllm",), ("ollama",), ("llama.cpp", "vllm")]),
        source=st.sampled_from(["auto", "vendor", "distro", "present"]),
        branch=st.sampled_from([None, 470, 535, 550, 570, 580, 595, 620]),
        modules=st.sampled_from(["auto", "open", "proprietary"]),
        cuda_source=st.sampled_from(["auto", "vendor", "distro", "wheels", "none"]),
        cuda_version=st.sampled_from([None, "11.8", "12.4", "12.9", "13.0", "13.2"]),
        container_engine=st.sampled_from(["none", "docker", "podman", "auto"]),
        secure_boot=st.sampled_from(["auto", "mok", "refuse"]),
    ),
)
def test_invariants_of_any_mixture(
    rows: list[Any],
    system: str,
    probed: bool,
    version: str,
    flavour: str,
    secure_boot: bool | None,
    wish: StackWishes,
) -> None:
    host = mixture(rows, system if probed else None, version, flavour)
    host.driver.secure_boot = secure_boot
    own = any(row.unified_memory for row in rows)
    plan = planned(host, system, wish)
    if own and not plan.refused:
        assert plan.driver is not None and plan.driver.packages == []
        return
    check_invariants(host, plan)
    if plan.refused or plan.driver is None:
        return
    driver = plan.driver
    assert wish.modules in ("auto", driver.modules)
    assert wish.branch in (None, int(driver.branch))
    assert wish.source in ("auto", driver.source)
    assert plan.cuda.version in ("", wish.cuda_version or plan.cuda.version)
    if secure_boot and driver.source != "present":
        assert driver.mok or (driver.source == "distro" and system.startswith("ubuntu"))
    if driver.source == "present":
        assert probed and driver.branch == version[:3] and driver.modules == flavour
    assert planned(host, system, wish) == plan, "the same question, the same answer"
