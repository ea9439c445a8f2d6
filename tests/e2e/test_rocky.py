"""The driver's role with the real dnf and rpm, on guests dressed as Rocky Linux 9 and 10.

The hosts are stand-ins (Debian below, tests/lab/rocky.py), and so are the packages
(tests/standins/rpm_repository.py). dnf, rpm, module streams, version locks and signatures are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import Cli
from tests.e2e.driver_lab import MACHINE
from tests.e2e.rocky_lab import HOSTS, RockyLab

COMMON = ("libnvidia-ml", "nvidia-driver", "nvidia-driver-libs", "nvidia-driver-cuda",
          "nvidia-driver-cuda-libs", "nvidia-kmod-common", "nvidia-persistenced")  # fmt: skip
OPEN = (*COMMON, "nvidia-open", "kmod-nvidia-open-dkms")
CLOSED = (*COMMON, "cuda-drivers", "kmod-nvidia-latest-dkms")
LOCKS = "/etc/dnf/plugins/versionlock.list"
REPOSITORIES = f"cat /etc/yum.repos.d/* {LOCKS} /etc/dnf/modules.d/* 2>/dev/null; true"


@pytest.fixture(scope="module")
def rocky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RockyLab]:
    made = RockyLab("rocky", tmp_path_factory.mktemp("rocky"))
    yield made
    made.down()


def apply(rocky: RockyLab, branch: str, modules: str, **more: object) -> None:
    """Apply it, and once more: the second time nothing changes."""
    first = rocky.driver(branch, modules, **more)
    assert first.code == 0, first.text[-4000:]
    again = rocky.driver(branch, modules, **more)
    assert again.code == 0, again.text[-4000:]
    assert again.changed == dict.fromkeys(HOSTS, 0), again.text[-4000:]


def check(rocky: RockyLab, version: str, names: tuple[str, ...], module: str) -> None:
    for host in HOSTS:
        assert rocky.nvidia(host) == dict.fromkeys(names, version), host
        assert rocky.locks(host) == dict.fromkeys(names, version), host
        assert f"{module}  {version}" in rocky.on(host, "cat /proc/driver/nvidia/version"), host


def test_neither_apt_nor_dpkg_is_there(rocky: RockyLab) -> None:
    for host in HOSTS:
        assert rocky.on(host, "ls /usr/bin | grep -E '^(apt|dpkg)'; true") == ""


def test_check_mode_says_what_comes_and_touches_nothing(rocky: RockyLab) -> None:
    found = rocky.driver("580", "open", "--check", "--diff")
    assert found.code == 0, found.text[-4000:]
    assert "+kmod-nvidia-open-dkms 3:580.95.05-1.el9" in found.text
    assert "+kmod-nvidia-open-dkms 3:580.95.05-1.el10" in found.text
    assert "+module:nvidia-driver 580-open" in found.text
    assert "+elfutils-libelf-devel 0.190-1.el9" in found.text, "CRB was not looked into"
    for host in HOSTS:
        assert rocky.state(host) == rocky.clean[host]


def test_install_then_every_change_of_branch_and_flavour(rocky: RockyLab) -> None:
    apply(rocky, "580", "proprietary")
    check(rocky, "580.95.05", CLOSED, "x86_64 Kernel Module")
    apply(rocky, "580", "open")
    check(rocky, "580.95.05", OPEN, "Open Kernel Module for x86_64")
    apply(rocky, "595", "open")
    check(rocky, "595.58.03", OPEN, "Open Kernel Module for x86_64")
    apply(rocky, "590", "proprietary")
    check(rocky, "590.44.01", CLOSED, "x86_64 Kernel Module")
    apply(rocky, "580", "proprietary")
    check(rocky, "580.95.05", CLOSED, "x86_64 Kernel Module")
    assert "nvidia-driver 580-dkms [e]" in " ".join(
        rocky.on("r9", "dnf -q module list nvidia-driver | grep '\\[e\\]'").split()
    )


def test_an_upgrade_by_the_administrator_leaves_the_driver(rocky: RockyLab) -> None:
    # 580.95.05 is in the same branch, and in the same stream.
    older = rocky.driver("580", "proprietary", plan={"pin": "580.82.07*"})
    assert older.code == 0, older.text[-4000:]
    for host in HOSTS:
        rocky.on(host, "dnf -y upgrade --refresh")
        assert rocky.nvidia(host) == dict.fromkeys(CLOSED, "580.82.07")
        rocky.on(host, "dnf -q versionlock clear")
        done = rocky.on(host, "dnf --assumeno upgrade", check=False)
        assert f"Upgrade  {len(CLOSED)} Packages" in done, (
            "without the locks it would have been upgraded"
        )
    # A version of the branch is as good as another, until one is wished; the locks come back.
    apply(rocky, "580", "proprietary")
    check(rocky, "580.82.07", CLOSED, "x86_64 Kernel Module")
    apply(rocky, "580", "proprietary", plan={"pin": "580.95.05*"})
    check(rocky, "580.95.05", CLOSED, "x86_64 Kernel Module")


# Faults: each is told in words, and leaves packages, locks and repositories as they were ----------


@pytest.fixture
def settled(rocky: RockyLab) -> Iterator[RockyLab]:
    """580 with proprietary modules, before and after."""
    if any(rocky.nvidia(host) != dict.fromkeys(CLOSED, "580.95.05") for host in HOSTS):
        done = rocky.driver("580", "proprietary")
        assert done.code == 0, done.text[-4000:]
    before = {host: rocky.on(host, REPOSITORIES) for host in HOSTS}
    yield rocky
    for host in HOSTS:
        assert rocky.nvidia(host) == dict.fromkeys(CLOSED, "580.95.05")
        assert rocky.on(host, REPOSITORIES) == before[host]


def failed(rocky: RockyLab, *words: str, **more: object) -> str:
    """What a run said that failed on both hosts."""
    found = rocky.driver("590", "proprietary", *words, **more)
    assert found.code == 2, found.text[-4000:]
    assert found.text.count("failed=1") == len(HOSTS), found.text[-4000:]
    return found.text


HOLDER = """
import fcntl, time
lock = open("/var/lib/rpm/.rpm.lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
time.sleep(600)
"""


def test_a_lock_is_waited_for_and_its_holder_named(settled: RockyLab) -> None:
    for host in HOSTS:
        settled.on(host, "cat >/srv/somebodys-rpm", stdin=HOLDER.encode())
        settled.on(host, "systemd-run --quiet --unit=holder python3 /srv/somebodys-rpm; sleep 0.5")
    try:
        text = failed(settled, lock_timeout=2)
    finally:
        for host in HOSTS:
            settled.on(host, "systemctl stop holder")
    assert "python3 somebodys-rpm (pid" in text
    assert "holds the package database; waited 2 s" in text


def test_another_key_at_the_repository_is_refused(settled: RockyLab) -> None:
    key = "/etc/pki/rpm-gpg/RPM-GPG-KEY-infra-llm-nvidia-cuda"
    for host in HOSTS:
        settled.on(host, f"cp {key} /srv/key; rm {key}; ONLY=nvidia standin-publish other")
    text = failed(settled)
    for host in HOSTS:
        assert settled.on(host, f"ls {key}", check=False) == "", "the other key was taken"
        settled.on(host, f"cp /srv/key {key}; ONLY=nvidia standin-publish vendor")
        assert f"pinned is {settled.keys[host].fingerprint}" in text


def test_an_index_that_another_key_signed_is_refused(settled: RockyLab) -> None:
    for host in HOSTS:
        settled.on(host, "ONLY=nvidia standin-publish other; dnf -q clean all")
    try:
        assert "its index is not signed by the pinned key" in failed(settled)
    finally:
        for host in HOSTS:
            settled.on(host, "ONLY=nvidia standin-publish vendor; dnf -q clean all")


def test_a_package_that_another_key_signed_is_refused(settled: RockyLab) -> None:
    rpm = "/srv/standin/repository/nvidia/libnvidia-ml-590.44.01-1.el*.x86_64.rpm"
    for host in HOSTS:
        settled.on(host, f"standin-sign other {rpm}; ONLY=nvidia standin-publish vendor")
    try:
        text = failed(settled)
    finally:
        for host in HOSTS:
            settled.on(host, f"standin-sign vendor {rpm}; ONLY=nvidia standin-publish vendor")
    for release in ("el9", "el10"):
        package = f"libnvidia-ml-3:590.44.01-1.{release}.x86_64"
        assert f"{package} is not signed by the key of its repository" in text


def test_a_package_that_vanished_is_named(settled: RockyLab) -> None:
    rpm = "/srv/standin/repository/nvidia/nvidia-persistenced-590.44.01-*.rpm"
    for host in HOSTS:
        # dnf keeps what it fetched for a run that failed, and would not notice.
        settled.on(host, f"dnf -q clean packages; mkdir -p /srv/gone; mv {rpm} /srv/gone/")
    try:
        text = failed(settled)
    finally:
        for host in HOSTS:
            settled.on(host, "mv /srv/gone/* /srv/standin/repository/nvidia/")
    assert "can't be fetched" in text, text[-4000:]
    assert "nvidia-persistenced-3:590.44.01-1.el9.x86_64: Cannot download" in text, text[-4000:]
    named = failed(settled, plan={"packages": ["nvidia-driver-of-nowhere"]})
    assert "no repository of this host has nvidia-driver-of-nowhere" in named


def test_a_version_that_nobody_has_is_told(settled: RockyLab) -> None:
    stream = {"module_stream": "nvidia-driver:620-open"}
    found = settled.driver("580", "proprietary", plan={"pin": "580.99.*", "module_stream": ""})
    assert found.code == 2
    assert "no version 580.99.* can be had; there is cuda-drivers 580.95.05-1.el" in found.text
    gone = settled.driver("590", "proprietary", plan=stream)
    assert gone.code == 2
    assert "no repository of this host has the module stream nvidia-driver:620-open" in gone.text


def test_a_lock_of_the_administrator_is_respected(settled: RockyLab) -> None:
    for host in HOSTS:
        settled.on(host, "dnf -q versionlock add dkms; rpm -e --nodeps dkms")
        settled.on(host, f"sed -i 's/^dkms-.*/dkms-0:1.0-1.*/' {LOCKS}")
    try:
        text = failed(settled)
    finally:
        for host in HOSTS:
            settled.on(host, f"sed -i '/dkms-0:1.0/d;/^# Added/d;/^$/d' {LOCKS}")
            settled.on(host, "dnf -y install dkms")
    assert "look for version locks that are not infra-llm's" in text


def test_removal_leaves_nothing(rocky: RockyLab) -> None:
    if not rocky.nvidia("r9"):
        assert rocky.driver("580", "proprietary").code == 0
    done = rocky.play(playbook="tests/e2e/remove.yml")
    assert done.code == 0, done.text[-4000:]
    for host in HOSTS:
        assert rocky.state(host).splitlines() == rocky.clean[host].splitlines()
    again = rocky.play(playbook="tests/e2e/remove.yml")
    assert again.changed == dict.fromkeys(HOSTS, 0), again.text[-4000:]


# The whole way ----------------------------------------------------------------------------------

ROLES = "nvidia_driver,cuda"


@pytest.fixture(scope="module")
def provision(rocky: RockyLab) -> Cli:
    """The command, on guests that play machines."""
    for host in HOSTS:
        rocky.on(host, MACHINE)
    return Cli(rocky.inventory)


def wish(rocky: RockyLab, method: str) -> None:
    """The hosts' variables, with the repositories as a site would name its mirrors."""
    folder = rocky.inventory.with_name("host_vars")
    folder.mkdir(exist_ok=True)
    for host in HOSTS:
        # The wheel is built for the CPU, and what is built from source here never runs.
        own = {
            "llama_cpp_install_method": method,
            "infra_llm_context": 1024,
            "infra_llm_gpu_layers": 0,
        }
        own["infra_llm_repositories"] = rocky.mirrors(host)
        (folder / f"{host}.json").write_text(json.dumps(own))


def results(provision: Cli, *words: str) -> dict[str, str]:
    hosts = provision("provision", *words)["report"]["hosts"]
    return {host: entry["result"] for host, entry in hosts.items()}


def test_provision_serves_from_such_a_host_and_finds_nothing_the_second_time(
    rocky: RockyLab, provision: Cli
) -> None:
    wish(rocky, "wheel")
    assert results(provision) == dict.fromkeys(HOSTS, "serving")
    for host in HOSTS:
        health = 'curl -sf http://127.0.0.1:8080/health || python3 -c "import urllib.request; '
        health += "print(urllib.request.urlopen('http://127.0.0.1:8080/health').read())\""
        assert "ok" in rocky.on(host, health)
    assert results(provision) == dict.fromkeys(HOSTS, "unchanged")


def test_provision_brings_the_stack_and_sees_when_somebody_changes_it(
    rocky: RockyLab, provision: Cli
) -> None:
    # An engine that is built for the cards; here nothing could build it, so its role is left out.
    wish(rocky, "source")
    stack = ("--tags", ROLES)
    results(provision, *stack)
    check(rocky, "580.95.05", OPEN, "Open Kernel Module for x86_64")
    for host in HOSTS:
        assert "release 13.0" in rocky.on(host, "/usr/local/cuda-13.0/bin/nvcc --version")
    assert results(provision, *stack) == dict.fromkeys(HOSTS, "unchanged")
    for host in HOSTS:
        rocky.on(host, "dnf -y remove nvidia-open")
    drift = provision("plan", expect=None)["report"]
    assert "nvidia-open" in json.dumps(drift)
    results(provision, *stack)
    check(rocky, "580.95.05", OPEN, "Open Kernel Module for x86_64")


def test_remove_leaves_nothing_of_the_service_and_the_stack(
    rocky: RockyLab, provision: Cli
) -> None:
    provision("remove")
    for host in HOSTS:
        assert rocky.state(host).splitlines() == rocky.clean[host].splitlines()
        assert rocky.on(host, "id infra-llm; true") == ""
