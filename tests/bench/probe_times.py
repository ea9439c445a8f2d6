#!/usr/bin/env python3
"""Time the probe of 1, 4 and 8 hosts over SSH, as a table.

    python tests/bench/probe_times.py

Starts eight test hosts (root needed) with the GPUs of different machines, and removes them. "ping"
is Ansible's own module on the same hosts: what starting Ansible, SSH and Python costs alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cli")]

from tests.lab import backend as backends  # noqa: E402
from tests.lab import gpus, inventory, operations  # noqa: E402
from tests.lab.config import Lab, parse_hosts  # noqa: E402

MACHINES = ["h100x8", "rtx3060", "mi300x8", "a100-mig", "rtx4090x8", "nouveau", "gb10", "cpu-only"]
HOSTS = [f"bench{number}" for number in range(1, len(MACHINES) + 1)]
RUNS = 3


def timed(place: Path, hosts: list[str], module: str) -> float:
    """Median seconds of one Ansible run of the module on the hosts."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PYTHONPATH": str(ROOT / "cli"),
    }
    command = [str(Path(sys.executable).parent / "ansible"), "-i", str(place), ",".join(hosts)]
    seconds = []
    for _ in range(RUNS):
        began = time.monotonic()
        subprocess.run(
            [*command, "-b", "-f", "8", "-m", module],
            env=environment,
            check=True,
            capture_output=True,
        )
        seconds.append(time.monotonic() - began)
    return sorted(seconds)[RUNS // 2]


def main() -> None:
    """Print a row for each number of hosts."""
    lab = Lab("bench-probe")
    hosts = operations.up(lab, parse_hosts(",".join(HOSTS)))
    try:
        engine = backends.make(hosts[0].backend)
        for host, machine in zip(hosts, MACHINES, strict=True):
            gpus.install(engine, host, machine)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "lab.ini")
            place.write_text(inventory.render(hosts, lab.key, lab.known_hosts))
            timed(place, HOSTS, "ping")
            print("| hosts | probe s | ping s | probe beyond ping, s a host |")
            print("| --- | --- | --- | --- |")
            for number in (1, 4, 8):
                probe = timed(place, HOSTS[:number], "hardware_facts")
                ping = timed(place, HOSTS[:number], "ping")
                more = (probe - ping) / number
                print(f"| {number} | {probe:.2f} | {ping:.2f} | {more:.2f} |")
    finally:
        operations.down(lab)


if __name__ == "__main__":
    main()
