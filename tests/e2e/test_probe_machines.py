"""Every machine fixture through the real module, over SSH, on real systemd hosts.

Four guests take the machines in turn and keep running while their GPUs are swapped. CPU, RAM and
network are the guest's own; what the stand-in brings is the GPUs, their driver and the PCI layer.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import backend as backends
from tests.lab import gpus, inventory, operations
from tests.lab.config import Host, Lab, parse_hosts
from tests.standins import machine as standin

ROOT = Path(__file__).resolve().parents[2]
HOSTS = "probe1,probe2,probe3,probe4"
# A guest has its own device tree and /proc files: what lies only there can't be laid over them, so
# that machine is a tree beside them, which the module is pointed at.
BESIDE = "jetson-agx-orin"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Host], Path]]:
    chosen = Lab("probe-machines")
    hosts = operations.up(chosen, parse_hosts(HOSTS))
    place = tmp_path_factory.mktemp("lab") / "lab.ini"
    place.write_text(inventory.render(hosts, chosen.key, chosen.known_hosts))
    yield hosts, place
    operations.down(chosen)


def ansible(place: Path, limit: list[str], module: str, *more: str) -> None:
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PYTHONPATH": str(ROOT / "cli"),
    }
    command = [str(Path(sys.executable).parent / "ansible"), "-i", str(place), ",".join(limit)]
    done = subprocess.run(
        [*command, "-b", "-m", module, *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def probe(
    place: Path, folder: Path, limit: list[str], root: str = "/"
) -> dict[str, dict[str, Any]]:
    """The module hardware_facts on the hosts named; {host: result}."""
    arguments = f"timeout=3 root={root}"
    ansible(place, limit, "hardware_facts", "-a", arguments, "--tree", str(folder))
    return {name: json.loads((folder / name).read_text()) for name in limit}


def check(name: str, hardware: dict[str, Any]) -> None:
    expected = standin.load(name)["expect"]
    cards = hardware["gpus"]
    assert [gpu["name"] for gpu in cards] == expected["names"], name
    for index, mib in enumerate(expected.get("vram_mib", [])):
        if not cards[index]["unified_memory"]:
            assert cards[index]["vram_total_mib"] == mib, name
    if expected.get("capability"):
        assert [gpu["compute_capability"] for gpu in cards] == expected["capability"], name
    for a, b, kind in expected.get("links", []):
        kinds = {link["peer"]: link["kind"] for link in cards[a]["links"]}
        assert kinds[cards[b]["pci_address"]] == kind, name
    texts = [f"{error['part']}: {error['what']}" for error in hardware["errors"]]
    # /sys of a living host is not masked, and /proc/self is the guest's own.
    wanted = [text for text in expected["errors"] if "masked" not in text]
    for text in wanted:
        assert any(text in found for found in texts), (name, texts)
    if not wanted:
        assert texts == [], name


def test_every_machine_over_ssh_while_the_hosts_live(
    lab: tuple[list[Host], Path], tmp_path: Path
) -> None:
    hosts, place = lab
    names = [name for name in standin.names() if name != BESIDE]
    backend = backends.make(hosts[0].backend)
    spent = []
    for start in range(0, len(names), len(hosts)):
        batch = dict(zip((h.spec.name for h in hosts), names[start : start + 4], strict=False))
        for host in hosts:
            if host.spec.name in batch:
                gpus.install(backend, host, batch[host.spec.name])
        began = time.monotonic()
        results = probe(place, tmp_path / str(start), list(batch))
        spent.append(time.monotonic() - began)
        for host_name, machine_name in batch.items():
            check(machine_name, results[host_name]["hardware"])
    print(f"{len(names)} machines, median batch of four {sorted(spent)[len(spent) // 2]:.2f} s")


def test_a_set_can_be_taken_away(lab: tuple[list[Host], Path], tmp_path: Path) -> None:
    hosts, place = lab
    backend = backends.make(hosts[0].backend)
    gpus.install(backend, hosts[0], "rtx3060")
    gpus.install(backend, hosts[0], "none")
    name = hosts[0].spec.name
    hardware = probe(place, tmp_path / "out", [name])[name]["hardware"]
    assert hardware["gpus"] == []
    assert hardware["driver"]["library_version"] is None


def test_a_machine_with_a_device_tree_over_ssh(
    lab: tuple[list[Host], Path], tmp_path: Path
) -> None:
    hosts, place = lab
    backend = backends.make(hosts[0].backend)
    gpus.install(backend, hosts[0], "none")
    tools = standin.compile_standins(tmp_path / "tools")
    standin.build(standin.load(BESIDE), tmp_path / "tree", *tools)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(tmp_path / "tree", "srv/machine")
    backend.put(hosts[0], packed.getvalue())
    name = hosts[0].spec.name
    found = probe(place, tmp_path / "out", [name], "/srv/machine")[name]["hardware"]
    check(BESIDE, found)
    assert found["gpus"][0]["unified_memory"]
