"""The NVIDIA stack by `infra-llm provision` as a whole: driver, CUDA, container engine, toolkit.

Two guests with a stand-in card, one with docker and one with podman. The engines, apt and dpkg
are real; NVIDIA's packages are stand-ins of its names and layout, and so are the card, the
module, NVML and nvcc (it compiles nothing). So no engine for CUDA can be built here: what serves
afterwards is the wheel for the CPU, which plans nothing onto the card.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Cli
from tests.e2e.driver_lab import MACHINE, DriverLab
from tests.standins import apt_repository, container_toolkit, machine, nvidia_repository
from tests.standins.apt_repository import Package

LIST_HOST = (ROOT / "molecule/llm_remove/list_host.sh").read_text()
HOSTS = {"s1": ("bookworm", "docker"), "s2": ("trixie", "podman")}
ROLES = "nvidia_driver,cuda,container_engine,nvidia_container_toolkit"
DRIVER = {"s1": "580.95.05", "s2": "595.58.03"}
"""NVIDIA's repository for Debian 13 begins with 590."""
CUDA = {"s1": "13.0", "s2": "13.2"}
RELEASES = ("12.9", "13.0", "13.1", "13.2", "13.3", "13.4")
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release {release} (stand-in)'\n"
# A card's device files, here other character devices that can be opened, and a module's name in
# the kernel's list.
PREPARE = f"""{MACHINE}
for name in nvidia0 nvidiactl; do rm -f /dev/$name; mknod -m 666 /dev/$name c 10 237; done
echo kernel/drivers/video/nvidia.ko: >>"/lib/modules/$(uname -r)/modules.dep"
"""
STANDIN = re.compile(
    r"> /(etc/infra-llm-standin|var/lib/dkms|usr/lib/modules)(/|$)"
    r"|> /(etc/modprobe.d|var/log/alternatives.log)$"
)
"""What the stand-ins for kernel and DKMS leave, and a folder that every machine with kmod has."""


def card() -> str:
    """What NVML's stand-in says of the card once the driver is loaded: nothing before that."""
    text = machine.topology(machine.load("rtx5090"))
    lines = text[text.index("gpu\n") :]
    lines = re.sub("name .*", "name NVIDIA GeForce RTX 5060 Ti", lines)
    lines = re.sub("device_id .*", "device_id 0x2d0410de", lines)
    return "driver \nnvml 13.\ncuda 13000\nfault init 9\n" + lines


def cuda(release: str) -> list[Package]:
    """What the solver takes of a CUDA release, by NVIDIA's names."""
    dashed, version = release.replace(".", "-"), f"{release}.0-1"
    nvcc = {f"usr/local/cuda-{release}/bin/nvcc": (NVCC.format(release=release), 0o755)}
    return [
        Package(f"cuda-nvcc-{dashed}", version, files=nvcc),
        Package(f"cuda-minimal-build-{dashed}", version, depends=f"cuda-nvcc-{dashed}"),
        Package(f"libcublas-dev-{dashed}", version),
    ]


def _place(url: str, fingerprint: str) -> dict[str, str]:
    return {"url": url, "key_url": f"{url}/gpgkey", "key_fingerprint": fingerprint}


class Stack:
    """The lab, its stand-in repositories, and the command."""

    def __init__(self, folder: Path) -> None:
        named = "no-driver-rtx5060ti"
        hosts = ",".join(f"{host}:{suite}" for host, (suite, _) in HOSTS.items())
        self.lab = DriverLab("stack", folder, hosts, gpus=f"{named},{named}", containers=True)
        vendor = folder / "vendor"
        vendor.mkdir()
        key = nvidia_repository.build(vendor)
        apt_repository.build([p for r in RELEASES for p in cuda(r)], vendor / "repository", key)
        toolkit = vendor / "repository/toolkit"
        container_toolkit.main([str(toolkit), "--keys", str(folder / "keys")])
        fingerprint = (toolkit / "fingerprint").read_text()
        tar = nvidia_repository.pack(vendor)
        for host in HOSTS:
            self.lab.on(host, "mkdir -p /srv/standin; tar -xC /srv/standin", stdin=tar)
            self.lab.on(host, f"sh /srv/standin/setup; {PREPARE}")
            self.lab.on(host, "cat >/etc/infra-llm-standin/gpus.topology", stdin=card().encode())
            self.lab.on(host, "bash -s /root/before", stdin=LIST_HOST.encode())
        url = f"http://127.0.0.1:{nvidia_repository.PORT}"
        self.wishes: dict[str, Any] = {
            "llama_cpp_install_method": "source",
            "infra_llm_context": 1024,
            "infra_llm_repositories": {
                "nvidia-cuda": _place(url, key.fingerprint),
                "nvidia-container-toolkit": _place(f"{url}/toolkit", fingerprint),
            },
        }
        self.command = Cli(self.lab.inventory)
        self.wish()

    def wish(self, **more: Any) -> None:
        """Write the hosts' variables."""
        folder = self.lab.inventory.with_name("host_vars")
        folder.mkdir(exist_ok=True)
        for host, (_, engine) in HOSTS.items():
            own = {**self.wishes, "infra_llm_container_engine": engine, **more}
            (folder / f"{host}.json").write_text(json.dumps(own))

    def provision(self, *words: str) -> dict[str, Any]:
        found = self.command("provision", *words)["report"]["hosts"]
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stack"))
    yield made
    made.lab.down()


def test_the_whole_stack_comes_in_one_run(stack: Stack) -> None:
    stack.provision("--tags", ROLES)
    for host, (_, engine) in HOSTS.items():
        on = stack.lab.on
        loaded = on(host, "cat /proc/driver/nvidia/version")
        assert f"Open Kernel Module for x86_64  {DRIVER[host]}" in loaded
        assert "RTX 5060 Ti" in on(host, "nvidia-smi -L")
        nvcc = on(host, f"/usr/local/cuda-{CUDA[host]}/bin/nvcc --version")
        assert f"release {CUDA[host]}" in nvcc
        assert on(host, "nvidia-ctk cdi list").split() == ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]
        held = on(host, "apt-mark showhold").split()
        assert {"nvidia-open", "libnvidia-ml1", "nvidia-kernel-open-dkms"} <= set(held)
        if engine == "docker":
            runtimes = json.loads(on(host, "docker info --format '{{json .Runtimes}}'"))
            assert "nvidia" in runtimes
        other = {"docker": "podman", "podman": "dockerd"}[engine]
        assert on(host, f"command -v {other}; true") == ""


def test_a_container_opens_the_card(stack: Stack) -> None:
    """podman by CDI. docker of bookworm knows no CDI and gets it through the runtime."""
    image = (
        "mkdir -p /tmp/image/bin && cp /bin/busybox /tmp/image/bin/ "
        "&& ln -sf busybox /tmp/image/bin/sh && tar -C /tmp/image -c ."
    )
    ways = {"docker": "--runtime=nvidia --env=NVIDIA_VISIBLE_DEVICES=all",
            "podman": "--pids-limit=0 --device=nvidia.com/gpu=all"}  # fmt: skip
    for host, (_, engine) in HOSTS.items():
        on = stack.lab.on
        on(host, "apt-get -qq update; apt-get -qq --yes install busybox-static")
        on(host, f"{image} | {engine} import - busybox")
        run = f"{engine} run --rm --network=none"
        opened = "busybox /bin/sh -c 'exec 3</dev/nvidia0'"
        on(host, f"{run} {ways[engine]} {opened}")
        without = on(host, f"{run} --pids-limit=0 {opened}; echo $?", check=False)
        assert without.splitlines()[-1] != "0", "the card must not be open to all"
        on(host, f"{engine} rmi --force busybox; apt-get -qq --yes --purge remove busybox-static")


def test_the_second_run_is_one_look(stack: Stack) -> None:
    started = time.monotonic()
    found = stack.provision("--tags", ROLES)
    assert {host: entry["result"] for host, entry in found.items()} == dict.fromkeys(
        HOSTS, "unchanged"
    )
    assert time.monotonic() - started < 60 * (1 + os.getloadavg()[0] / 2)


def test_the_stack_stays_when_the_engine_is_the_cpus(stack: Stack) -> None:
    # The wheel is built for the CPU: it is told so.
    stack.wish(llama_cpp_install_method="wheel", infra_llm_gpu_layers=0)
    first = stack.provision()
    assert {host: entry["result"] for host, entry in first.items()} == dict.fromkeys(
        HOSTS, "serving"
    )
    for host, entry in first.items():
        assert entry["plan"]["flags"]["n_gpu_layers"] == 0
        assert stack.lab.versions(host)["nvidia-open"].startswith(DRIVER[host])
    again = stack.provision()
    assert {host: entry["result"] for host, entry in again.items()} == dict.fromkeys(
        HOSTS, "unchanged"
    )


def test_removal_leaves_what_was_there_before(stack: Stack) -> None:
    stack.command("remove")
    for host in HOSTS:
        stack.lab.on(host, "bash -s /root/after", stdin=LIST_HOST.encode())
        for kind in ("packages", "users", "units", "files"):
            script = f"diff /root/before/{kind} /root/after/{kind}"
            rows = stack.lab.on(host, script, check=False).splitlines()
            different = [row for row in rows if row[0] in "<>" and not STANDIN.search(row)]
            assert different == [], (host, kind)
