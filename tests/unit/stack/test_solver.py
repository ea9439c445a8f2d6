"""The solver by its contradictions, pins, platforms, and over any mixture of cards."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.stack.golden import planned
from tests.unit.stack.test_golden import SYSTEMS

from infra_llm.commands.hosts import gpus_named
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Cpu, DriverState, Gpu, HostHardware, System
from infra_llm.core.stack import StackPlan, StackWishes, solve
from infra_llm.core.variables import defaults, wishes
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.stack_rules import load_stack_rules

KERNELS = {
    "debian12": "6.1.0-40-amd64",
    "debian13": "6.12.57+deb13-amd64",
    "ubuntu22.04": "5.15.0-157-generic",
    "ubuntu24.04": "6.8.0-60-generic",
    "rocky9": "5.14.0-570.12.1.el9_6.x86_64",
    "rocky10": "6.12.0-55.9.1.el10_0.x86_64",
}
OS_RELEASE = {
    "debian12": ("debian", "12"),
    "debian13": ("debian", "13"),
    "ubuntu22.04": ("ubuntu", "22.04"),
    "ubuntu24.04": ("ubuntu", "24.04"),
    "rocky9": ("rocky", "9.6"),
    "rocky10": ("rocky", "10.0"),
}


def box(*names: str) -> HostHardware:
    """A machine with these cards that nobody probed."""
    host = HostHardware(cpu=Cpu(architecture="x86_64"))
    for name in names:
        host.gpus.extend(gpus_named(name, len(host.gpus)))
    return host


def running(system: str, *names: str, **driver: Any) -> HostHardware:
    """The same, probed: it runs `system` with the distribution's own kernel."""
    host = box(*names)
    distribution, version = OS_RELEASE[system]
    host.system = System(
        distribution=distribution,
        distribution_version=version,
        kernel=KERNELS[system],
        virtualization="none",
    )
    host.driver = DriverState(**driver)
    return host


def loaded(version: str, flavour: str) -> dict[str, Any]:
    return {
        "module_loaded": True,
        "module_version": version,
        "library_version": version,
        "module_flavour": flavour,
    }


def refused(plan: StackPlan, rule: str) -> str:
    assert plan.refused, plan
    assert plan.rules[-1].id == rule
    assert plan.ways_out
    return plan.reason


# Contradictions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("old", ["GTX TITAN X", "GTX 1080 Ti", "Tesla V100-PCIE-16GB"])
def test_old_cards_beside_blackwell_have_no_driver(system: str, old: str) -> None:
    reason = refused(planned(box(old, "RTX 5090"), system), "no-common-driver")
    assert "RTX 5090 (12.0)" in reason and old in reason


def test_kepler_beside_ada_has_no_branch_in_common() -> None:
    reason = refused(planned(box("Tesla K80", "RTX 4090"), "debian12"), "no-common-driver")
    assert "470" in reason and "520" in reason


def test_volta_beside_ampere_works_with_the_proprietary_modules() -> None:
    plan = planned(box("Tesla V100-PCIE-16GB", "RTX 3090"), "ubuntu24.04")
    assert plan.driver is not None
    assert (plan.driver.branch, plan.driver.modules) == ("580", "proprietary")
    assert plan.architectures == ["70", "86"]


@pytest.mark.parametrize("card", ["Tesla P40", "Tesla V100-PCIE-16GB", "Tesla M40 24GB"])
def test_cuda_13_can_not_be_pinned_on_old_cards(card: str) -> None:
    plan = planned(box(card), "debian12", StackWishes(cuda_version="13.0"))
    assert "can't compile" in refused(plan, "cuda13-from-turing")


def test_an_engine_is_not_planned_for_cards_that_it_does_not_serve() -> None:
    refused(planned(box("Tesla K80"), "debian12"), "engine-card")
    vllm = StackWishes(engines=("vllm",))
    assert "7.5" in refused(planned(box("GTX 1080 Ti"), "debian12", vllm), "engine-card")
    assert not planned(box("Tesla T4"), "debian12", vllm).refused


def test_flavours_that_cards_do_not_have_can_not_be_pinned() -> None:
    pascal = planned(box("GTX 1080 Ti"), "debian12", StackWishes(modules="open"))
    refused(pascal, "open-from-turing")
    blackwell = planned(box("RTX 5090"), "debian12", StackWishes(modules="proprietary"))
    refused(blackwell, "open-only-blackwell")
    ampere = planned(box("RTX 3090"), "debian12", StackWishes(modules="proprietary"))
    assert ampere.driver is not None
    assert ampere.driver.modules == "proprietary" and ampere.driver.packages == ["cuda-drivers"]


def test_a_pinned_branch_must_know_the_cards() -> None:
    refused(planned(box("RTX 5090"), "ubuntu22.04", StackWishes(branch=535)), "branch-knows-card")
    refused(planned(box("GTX 1080 Ti"), "rocky9", StackWishes(branch=595)), "branch-knows-card")
    refused(planned(box("RTX 3090"), "rocky9", StackWishes(branch=999)), "unknown-branch")
    gone = StackWishes(branch=620, modules="proprietary")
    refused(planned(box("RTX 3090"), "debian12", gone), "proprietary-gone-620")


def test_the_distributions_own_driver_must_know_the_cards() -> None:
    distro = StackWishes(source="distro")
    assert "535" in refused(planned(box("RTX 5090"), "debian12", distro), "branch-knows-card")
    assert "550" in refused(planned(box("RTX 5090"), "debian13", distro), "branch-knows-card")
    refused(planned(box("RTX 3090"), "rocky9", distro), "el-no-driver")
    ubuntu = planned(box("RTX 5090"), "ubuntu24.04", distro)
    assert ubuntu.driver is not None and ubuntu.driver.branch == "580"
    # Ubuntu's toolkit 12.0 does not know Blackwell: NVIDIA's repository, without its drivers.
    assert ubuntu.cuda.version == "13.0"
    vendor = next(r for r in ubuntu.repositories if r.name == "nvidia-cuda")
    assert "nvidia-driver*" in vendor.exclude


def test_debian_packages_of_both_flavours() -> None:
    own = planned(box("RTX 3090"), "debian13", StackWishes(source="distro"))
    assert own.driver is not None
    assert own.driver.modules == "proprietary" and "nvidia-kernel-dkms" in own.driver.packages
    assert own.cuda.packages == ["nvidia-cuda-toolkit", "nvidia-cuda-toolkit-gcc"]
    assert [r.name for r in own.repositories] == ["distribution"]
    other = planned(box("RTX 3090"), "debian13", StackWishes(source="distro", modules="open"))
    assert other.driver is not None
    assert "nvidia-open-kernel-dkms" in other.driver.packages
    assert "nvidia-kernel-dkms" in other.driver.conflicts
    assert "debian-open-kernels" in {rule.id for rule in other.rules}
    assert "debian-open-kernels" not in {rule.id for rule in own.rules}


def test_what_has_versions_of_its_own_is_not_pinned_to_the_drivers() -> None:
    pinned = planned(box("RTX 3090"), "debian12", StackWishes(source="distro", modules="open"))
    assert pinned.driver is not None and pinned.driver.pin == "535.261.03*"
    assert "nvidia-persistenced" in pinned.driver.packages
    assert not {"nvidia-persistenced", "nvidia-modprobe"} & set(pinned.driver.pinned)
    held = planned(box("RTX 3090"), "debian12", StackWishes(source="distro"))
    assert held.driver is not None and "nvidia-persistenced" in held.driver.pinned


@pytest.mark.parametrize(
    ("system", "kernel", "meta"),
    [
        ("debian12", "6.1.0-47-amd64", "amd64"),
        ("debian12", "6.1.0-47-cloud-amd64", "cloud-amd64"),
        ("debian13", "6.12.117+deb13-rt-amd64", "rt-amd64"),
        ("debian13", "6.12.117+deb13-cloud-arm64", "cloud-arm64"),
        ("debian13", "6.12.117+deb13-arm64-16k", "arm64-16k"),
    ],
)
def test_the_next_kernels_headers_are_of_the_running_ones_kind(
    system: str, kernel: str, meta: str
) -> None:
    host = running(system, "RTX 3090")
    host.system.kernel = kernel
    plan = planned(host, system)
    assert plan.driver is not None
    assert plan.driver.headers == [f"linux-headers-{kernel}", f"linux-headers-{meta}"]


def test_pascal_on_debian_13_needs_debians_driver_and_ollama_refuses_it() -> None:
    vendor = planned(box("Tesla P40"), "debian13", StackWishes(source="vendor"))
    refused(vendor, "debian13-from-590")
    ollama = planned(box("Tesla P40"), "debian13", StackWishes(engines=("ollama",)))
    assert "570" in ollama.reason and ollama.refused
    turing = planned(box("Tesla T4"), "debian13", StackWishes(engines=("ollama",)))
    assert turing.driver is not None and turing.driver.branch == "595"


def test_vllm_needs_a_driver_of_its_own_cuda_release() -> None:
    pinned = StackWishes(engines=("vllm",), branch=550)
    refused(planned(box("RTX 3090"), "ubuntu22.04", pinned), "vllm-driver")
    auto = planned(box("RTX 3090"), "ubuntu22.04", StackWishes(engines=("vllm",)))
    assert auto.driver is not None and auto.driver.branch == "580"
    assert auto.cuda.kind == "none"


# Kernel, Secure Boot ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_headers_of_the_running_and_the_next_kernel(system: str) -> None:
    plan = planned(running(system, "RTX 3090"), system)
    assert plan.driver is not None
    headers = plan.driver.headers
    assert any(KERNELS[system] in name for name in headers)
    assert any(KERNELS[system] not in name for name in headers)
    assert plan.reboot.needed is False


def test_headers_of_a_hardware_enablement_kernel() -> None:
    host = running("ubuntu24.04", "RTX 3090")
    host.system.kernel = "6.17.0-23-generic"
    plan = planned(host, "ubuntu24.04")
    assert plan.driver is not None
    assert plan.driver.headers == [
        "linux-headers-6.17.0-23-generic",
        "linux-headers-generic-hwe-24.04",
    ]
    signed = planned(host, "ubuntu24.04", StackWishes(source="distro")).driver
    assert signed is not None
    assert signed.packages[0] == "linux-modules-nvidia-580-server-open-generic-hwe-24.04"
    assert signed.headers == []


@pytest.mark.parametrize("kernel", ["6.18.44-fc-v669", "6.12.9-x64v3-xanmod1", "6.8.12-11-pve"])
@pytest.mark.parametrize("system", ["debian12", "ubuntu24.04", "rocky9"])
def test_a_kernel_without_headers_is_refused_unless_they_are_there(
    system: str, kernel: str
) -> None:
    host = running(system, "RTX 3090")
    host.system.kernel = kernel
    assert kernel in refused(planned(host, system), "no-headers")
    host.driver.kernel_headers = True
    plan = planned(host, system)
    assert plan.driver is not None and plan.driver.headers == []


def test_secure_boot() -> None:
    for system in ("debian12", "debian13", "rocky9", "rocky10"):
        host = running(system, "RTX 3090", secure_boot=True)
        refused(planned(host, system), "secure-boot")
        key = planned(host, system, StackWishes(secure_boot="mok"))
        assert key.driver is not None and key.driver.mok and key.reboot.needed
    ubuntu = running("ubuntu22.04", "RTX 3090", secure_boot=True)
    signed = planned(ubuntu, "ubuntu22.04")
    assert signed.driver is not None
    assert (signed.driver.source, signed.driver.mok) == ("distro", False)
    refused(planned(ubuntu, "ubuntu22.04", StackWishes(secure_boot="refuse")), "secure-boot")
    refused(planned(ubuntu, "ubuntu22.04", StackWishes(source="vendor")), "secure-boot")
    kept = running("debian12", "RTX 3090", secure_boot=True, **loaded("580.95.05", "open"))
    assert not planned(kept, "debian12").refused


# A driver that is there ---------------------------------------------------------------------------


def test_a_good_driver_stays() -> None:
    host = running("debian12", "RTX 3090", **loaded("570.172.08", "open"))
    plan = planned(host, "debian12")
    assert plan.driver is not None
    assert (plan.driver.source, plan.driver.packages) == ("present", [])
    assert plan.cuda.version == "12.8" and not plan.reboot.needed
    assert {"keep-present", "present-end-of-life"} <= {rule.id for rule in plan.rules}


@pytest.mark.parametrize(
    ("wish", "version", "flavour", "words"),
    [
        (StackWishes(branch=595), "580.95.05", "open", "595 is pinned"),
        (StackWishes(modules="open"), "580.95.05", "proprietary", "do not serve"),
        (StackWishes(engines=("vllm",)), "550.90.07", "open", "580 or later"),
        (StackWishes(cuda_version="13.0"), "550.90.07", "open", "13.0"),
        (StackWishes(), "384.130", "proprietary", "not in the table"),
    ],
)
def test_a_driver_that_does_not_do_is_replaced_or_refused(
    wish: StackWishes, version: str, flavour: str, words: str
) -> None:
    host = running("ubuntu22.04", "RTX 3090", **loaded(version, flavour))
    plan = planned(host, "ubuntu22.04", wish)
    assert plan.driver is not None and plan.driver.source == "vendor"
    why = next(rule.why for rule in plan.rules if rule.id == "present-not-enough")
    assert words in why
    assert plan.reboot.needed
    keep = StackWishes(**{**wish.__dict__, "source": "present"})
    assert words in refused(planned(host, "ubuntu22.04", keep), "present-not-enough")


def test_present_is_refused_where_nothing_is_there() -> None:
    wish = StackWishes(source="present")
    refused(planned(running("debian12", "RTX 3090"), "debian12", wish), "present-not-enough")
    refused(planned(box("RTX 3090"), "debian12", wish), "present-not-enough")


def test_a_swapped_library_needs_a_reload_or_a_reboot() -> None:
    state = loaded("580.173.02", "open") | {"library_version": "580.178.04"}
    plan = planned(running("ubuntu24.04", "RTX 3060 12GB", **state), "ubuntu24.04")
    assert plan.driver is not None and plan.driver.source == "present"
    assert plan.reboot.needed and "580.178.04" in plan.reboot.why[0]


def test_nouveau_needs_a_reboot() -> None:
    plan = planned(running("debian12", "RTX 3090", nouveau_bound=True), "debian12")
    assert plan.driver is not None and plan.driver.blacklist_nouveau and plan.reboot.needed


# Platforms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["docker", "lxc", "systemd-nspawn", "wsl"])
def test_the_driver_of_containers_and_wsl_belongs_to_the_host(kind: str) -> None:
    rule = "wsl" if kind == "wsl" else "container-guest"
    there = running("debian12", "RTX 3090", **loaded("580.95.05", "open"))
    there.system.virtualization = kind
    plan = planned(there, "debian12")
    assert plan.driver is not None
    assert (plan.driver.source, plan.driver.packages) == ("present", [])
    assert plan.cuda.version == "13.0"
    missing = running("debian12", "RTX 3090")
    missing.system.virtualization = kind
    refused(planned(missing, "debian12"), rule)
    missing.system.kernel = "6.18.44-of-the-host"
    pinned = planned(missing, "debian12", StackWishes(source="vendor"))
    assert pinned.refused == (kind == "wsl")
    assert pinned.driver is None or pinned.driver.headers == []


@pytest.mark.parametrize("card", ["NVIDIA GB10", "Jetson Orin NX", "Jetson AGX Thor"])
def test_machines_that_bring_their_driver_keep_it(card: str) -> None:
    plan = planned(box(card), "ubuntu24.04")
    assert plan.driver is not None
    assert (plan.driver.source, plan.driver.packages, plan.cuda.kind) == ("present", [], "none")
    refused(planned(box(card), "ubuntu24.04", StackWishes(source="vendor")), "own-driver")
    refused(planned(running("ubuntu24.04", card), "ubuntu24.04"), "own-driver")


def test_a_vgpu_keeps_its_guest_driver() -> None:
    host = running("debian12", "RTX 3090", **loaded("550.90.07", "proprietary"))
    host.gpus = [Gpu(0, "nvidia", name="NVIDIA L40S-12Q", compute_capability="8.9")]
    plan = planned(host, "debian12")
    assert plan.driver is not None and plan.driver.source == "present"
    assert "vgpu" in {rule.id for rule in plan.rules}
    refused(planned(host, "debian12", StackWishes(source="distro")), "vgpu")


def test_cards_of_virtual_machines_and_other_vendors_are_left_out() -> None:
    host = running("debian12", "RTX 5090", "GTX 1080 Ti", "RX 7900 XTX")
    host.gpus[1].kernel_driver = "vfio-pci"
    plan = planned(host, "debian12")
    assert plan.architectures == ["120"]
    assert {"vfio", "amd"} <= {rule.id for rule in plan.rules}


# MIG, CUDA, repositories --------------------------------------------------------------------------


def test_mig() -> None:
    wish = StackWishes(mig={"all": ["1g.10gb"] * 7})
    plan = planned(box("A100-SXM4-80GB"), "debian12", wish)
    assert plan.mig == {"0": ["1g.10gb"] * 7}
    refused(planned(box("RTX 3090"), "debian12", wish), "mig")
    refused(planned(box("NVIDIA A30"), "debian12", wish), "mig")
    elsewhere = StackWishes(mig={"0000:ff:00.0": []})
    refused(planned(box("A100-SXM4-80GB"), "debian12", elsewhere), "mig")
    odd = StackWishes(mig={"0": ["half"]})
    refused(planned(box("A100-SXM4-80GB"), "debian12", odd), "mig")
    old = StackWishes(mig={"0": ["4g.96gb"]}, branch=570)
    refused(planned(box("RTX PRO 6000 Blackwell Server Edition"), "ubuntu22.04", old), "mig")


def test_a_pinned_release_may_rest_on_minor_version_compatibility() -> None:
    host = running("ubuntu22.04", "RTX 3090", **loaded("550.90.07", "open"))
    plan = planned(host, "ubuntu22.04", StackWishes(cuda_version="12.9"))
    assert plan.driver is not None and plan.driver.source == "present"
    assert plan.cuda.version == "12.9"
    assert "cuda-minor" in {rule.id for rule in plan.rules}


def test_sources_of_cuda() -> None:
    none = planned(box("RTX 3090"), "debian12", StackWishes(cuda_source="none"))
    assert none.cuda.kind == "none" and none.driver is not None
    wheels = planned(box("RTX 3090"), "debian12", StackWishes(cuda_source="wheels"))
    assert (wheels.cuda.kind, wheels.cuda.version) == ("wheels", "13.0")
    old = StackWishes(cuda_source="distro")
    refused(planned(box("RTX 5090"), "debian12", old), "no-toolkit")
    # Neither an index nor NVIDIA's repository has CUDA 12 for Debian 13.
    glibc = StackWishes(cuda_source="wheels")
    assert "2.41" in " ".join(planned(box("Tesla P40"), "debian13", glibc).ways_out)


def test_the_wheels_of_the_rules_are_in_the_catalogue() -> None:
    found = load_catalogue()["toolkits"]["wheels"]
    assert load_stack_rules().cuda_wheels == list(found)
    assert all(set(of) == {"x86_64", "aarch64"} for of in found.values())


def test_a_sites_mirror_stands_in_for_nvidias_repository() -> None:
    rules, catalogue = load_stack_rules(), load_catalogue()["repositories"]
    site = {"nvidia-cuda": {"url": "http://mirror/cuda", "key_fingerprint": "A" * 40}}
    plan = solve(
        box("RTX 3090"), rules.distribution("rocky10"), StackWishes(), rules, catalogue, site
    )
    found = {r.name: r for r in plan.repositories}
    assert found["nvidia-cuda"].url == "http://mirror/cuda"
    assert found["nvidia-cuda"].key_fingerprint == "A" * 40
    assert found["epel"].key_fingerprint and found["distribution"].components == ["crb"]


def test_arm_takes_the_servers_repository() -> None:
    host = box("RTX 3090")
    host.cpu.architecture = "aarch64"
    plan = planned(host, "ubuntu24.04")
    assert plan.repositories[0].url.endswith("/ubuntu2404/sbsa/")


def test_el9_takes_a_module_stream_and_el10_a_version_lock() -> None:
    for card, stream in (("RTX 3090", "580-open"), ("Tesla P40", "580-dkms")):
        nine = planned(box(card), "rocky9").driver
        assert nine is not None and nine.module_stream == f"nvidia-driver:{stream}"
    ten = planned(box("RTX 3090"), "rocky10").driver
    assert ten is not None and (ten.module_stream, ten.pin) == ("", "580.*")


def test_wishes_come_out_of_an_inventorys_variables() -> None:
    assert StackWishes.from_variables(wishes({}, "host")) == StackWishes()
    given_variables = {
        "infra_llm_driver_branch": "580",
        "infra_llm_cuda_version": 12.9,
        "infra_llm_mig": {0: ["1g.10gb"]},
        "llama_cpp_install_method": "source",
    }
    found = StackWishes.from_variables(wishes(given_variables, "host"))
    assert (found.branch, found.cuda_version, found.way) == (580, "12.9", "source")
    assert found.mig == {"0": ["1g.10gb"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("infra_llm_driver_source", "elsewhere"),
        ("infra_llm_driver_branch", "5x0"),
        ("infra_llm_cuda_version", "13"),
        ("infra_llm_cuda_version", True),
        ("infra_llm_reboot", "always"),
        ("infra_llm_reboot_window", "1-5"),
        ("infra_llm_mig", {"0": "1g.10gb"}),
        ("infra_llm_gpu_power_limit_w", 5),
        ("infra_llm_gpu_ecc", "maybe"),
        ("infra_llm_remove_foreign_driver", "ja"),
        ("infra_llm_repositories", {"nvidia-cuda": {"uri": "x"}}),
        ("infra_llm_repositories", {"nvidia-cuda": {"url": "ftp://x"}}),
        ("infra_llm_repositories", {"nvidia-cuda": {"key_fingerprint": "12"}}),
    ],
)
def test_bad_variables_are_named(name: str, value: object) -> None:
    assert name in defaults()
    with pytest.raises(BadInputError, match=name):
        wishes({name: value}, "host")
