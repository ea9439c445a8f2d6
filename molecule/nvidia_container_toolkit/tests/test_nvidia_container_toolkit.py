"""Containers have the GPUs (device nodes in their place), and keep them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

PACKAGES = [
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container1",
    "libnvidia-container-tools",
]
VERSION = {"bookworm": "1.17.8-1", "trixie": "1.20.0-1"}
SPECIFICATION = {"bookworm": "/etc/cdi/nvidia.yaml", "trixie": "/var/run/cdi/nvidia.yaml"}
GPUS = {"bookworm": 1, "trixie": 2}
RUNTIME = {"path": "nvidia-container-runtime", "args": []}
DAEMON = {
    "bookworm": {
        "features": {"buildkit": True},
        "log-opts": {"max-size": "10m"},
        "runtimes": {"nvidia": RUNTIME},
    },
    "trixie": {"features": {"cdi": True}, "runtimes": {"nvidia": RUNTIME}},
}
# docker 20.10 has no --device for CDI: there the runtime edits the container.
CDI = "--device=nvidia.com/gpu=all"
GIVE = {
    ("bookworm", "docker"): "--runtime=nvidia --env=NVIDIA_VISIBLE_DEVICES=all",
    ("bookworm", "podman"): CDI,
    ("trixie", "docker"): CDI,
    ("trixie", "podman"): CDI,
}
# Guests have no pids controller on every machine; the image was never in a registry.
RUN = {
    "docker": "docker run --network=none",
    "podman": "podman run --network=none --pids-limit=0 --pull=never",
}
SCOPE = {"docker": "docker-{}.scope", "podman": "libpod-{}.scope"}
# What has systemd put its own device program back. On trixie a reload leaves docker's units alone
# (opencontainers/runc#4612), a changed property does not; docker update changes such properties.
RELOAD = "systemctl daemon-reload"
CHANGE = "systemctl set-property --runtime {} CPUWeight=90"
TAKES = {"bookworm": RELOAD, "trixie": CHANGE}
LEGACY = Path(__file__).parents[3] / "tests/standins/legacy_devices.py"
OPEN = "sh -c 'exec 3</dev/nvidia0'"


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture(autouse=True)
def image(host):
    """An image with busybox alone; there is no registry."""
    host.check_output(
        "docker image inspect busybox >/dev/null 2>&1 || { mkdir -p /tmp/image/bin &&"
        " cp /bin/busybox /tmp/image/bin/ && ln -sf busybox /tmp/image/bin/sh &&"
        " tar -C /tmp/image -c . | docker import --change 'ENV PATH=/bin' - busybox; }"
    )
    host.check_output("podman image exists busybox || docker save busybox | podman load")


@pytest.fixture(params=["docker", "podman"])
def engine(request):
    return request.param


@pytest.fixture
def container(host, engine):
    """Starts containers that wait; they are gone afterwards."""
    names = []

    def start(options):
        names.append(f"test{len(names)}")
        host.check_output(
            f"{RUN[engine]} --detach --name={names[-1]} {options} busybox /bin/busybox sleep 600"
        )
        return names[-1]

    yield start
    for one in names:
        host.check_output(f"{engine} rm --force {one}")


def opens(host, engine, container):
    done = host.run(f"{engine} exec {container} {OPEN}")
    assert done.rc == 0 or "not permitted" in done.stderr or "No such file" in done.stderr
    return done.rc == 0


def scope(host, engine, container):
    """systemd's unit of a container."""
    unit = SCOPE[engine].format(
        host.check_output(f"{engine} inspect --format {{{{.Id}}}} {container}")
    )
    assert host.check_output(f"systemctl is-active {unit}") == "active"
    return unit


def test_the_packages_are_of_the_version_that_was_wished(host, name):
    assert {host.package(one).version for one in PACKAGES} == {VERSION[name]}


def test_daemon_json_has_what_is_needed_beside_what_was_there(host, name):
    file = host.file("/etc/docker/daemon.json")
    assert json.loads(file.content_string) == DAEMON[name]
    assert file.mode == (0o600 if name == "bookworm" else 0o644)


def test_the_specification_is_of_the_driver_and_the_gpus(host, name):
    text = host.file(SPECIFICATION[name]).content_string
    driver = host.check_output("cat /proc/driver/nvidia/version").split("  ")[1]
    assert f"libcuda.so.{driver}" in text
    listed = host.check_output("nvidia-ctk cdi list").split()
    assert listed == [f"nvidia.com/gpu={n}" for n in [*range(GPUS[name]), "all"]]


def test_the_toolkits_own_units_keep_it_from_1_18_on(host, name):
    if name == "trixie":
        assert host.service("nvidia-cdi-refresh.path").is_running
        assert host.service("nvidia-cdi-refresh.path").is_enabled
        assert host.service("nvidia-cdi-refresh.service").is_enabled


def test_a_container_gets_devices_libraries_and_variables(host, name, engine):
    run = f"{RUN[engine]} --rm {GIVE[name, engine]} busybox"
    host.check_output(f"{run} {OPEN}")
    shown = host.check_output(f"{run} busybox ls /dev")
    assert {f"nvidia{n}" for n in range(GPUS[name])} | {"nvidiactl"} <= set(shown.split())
    if CDI in run:
        assert "/libcuda.so." in host.check_output(f"{run} busybox cat /proc/mounts")
    without = host.run(f"{RUN[engine]} --rm busybox {OPEN}")
    assert without.rc != 0


def test_a_running_container_keeps_its_gpus_when_systemd_reloads(host, name, engine, container):
    one = container(GIVE[name, engine])
    assert opens(host, engine, one)
    for event in (RELOAD, CHANGE.format(scope(host, engine, one))):
        host.check_output(event)
        assert opens(host, engine, one)


@pytest.mark.parametrize("engine", ["docker"])
def test_what_a_hook_gave_behind_systemds_back_is_taken_away(host, name, engine, container):
    """The fault that CDI mends, so that the test above is known to be able to fail."""
    numbers = host.check_output("stat --format='0x%t 0x%T' /dev/nvidia0")
    major, minor = (int(number, 16) for number in numbers.split())
    one = container("")
    host.check_output(f"{engine} exec {one} /bin/busybox mknod /dev/nvidia0 c {major} {minor}")
    assert not opens(host, engine, one)
    host.check_output("printf %%s %s >/tmp/legacy_devices.py", LEGACY.read_text())
    host.check_output(f"python3 /tmp/legacy_devices.py {engine} {one}")
    assert opens(host, engine, one)
    host.check_output(TAKES[name].format(scope(host, engine, one)))
    assert not opens(host, engine, one)


def test_the_receipt_names_what_is_ours(host, name):
    text = host.file("/var/lib/infra-llm/receipts/nvidia_container_toolkit.json").content_string
    receipt = json.loads(text)
    assert set(PACKAGES) <= set(receipt["packages_added"])
    paths = {item["path"] for item in receipt["files"]}
    assert "/etc/apt/sources.list.d/infra-llm-nvidia-container-toolkit.sources" in paths
    assert ("/etc/cdi/nvidia.yaml" in paths) == (name == "bookworm")
    ours = {"bookworm": {"runtimes.nvidia"}, "trixie": {"runtimes.nvidia", "features.cdi"}}
    assert set(receipt["inputs"]["daemon"]["ours"]) == ours[name]
