"""Builds of llama.cpp for 1, 2 and 4 hosts that are alike: who compiles, and how long it takes.

    python -m tests.bench.build_once

Every row has new Debian 12 guests and a controller that keeps no build yet. The builder gets the
compiler's cache of earlier runs (tests/e2e/compiler_cache.py), so that the times are those of a
warm cache; a first run fills it. Objects and compilations are ccache's own counters on each host.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.compiler_cache import cache_file, carry_in, carry_out, compilations
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words

COUNTS = (1, 2, 4)
LAB = "bench-build"
SETTINGS = "\n[all:vars]\nllama_cpp_install_method=source\ninfra_llm_threads=1\n"


def row(count: int, folder: Path) -> str:
    """Provision `count` new hosts and count."""
    names = [f"host{number}" for number in range(count)]
    inventory = folder / f"{count}.ini"
    hosts = ",".join(f"{name}:bookworm" for name in names)
    words = ("--name", LAB, "--inventory", str(inventory), "--hosts", hosts)
    run(sys.executable, "-m", "tests.lab", "up", *words)
    try:
        inventory.write_text(inventory.read_text() + SETTINGS)
        ssh = {name: ssh_words(inventory, name) for name in names}
        warm = cache_file().exists()
        for name in names:
            carry_in(ssh[name])
        started = time.monotonic()
        environment = {"XDG_CACHE_HOME": str(folder / f"cache{count}")}
        Cli(inventory)("provision", env=environment, timeout=4 * 3600)
        seconds = time.monotonic() - started
        counted = {name: compilations(ssh[name]) for name in names}
        builders = [name for name in names if counted[name]["objects"]]
        assert len(builders) == 1, f"{builders} compiled"
        if not warm:
            carry_out(ssh[builders[0]])
    finally:
        subprocess.run([sys.executable, "-m", "tests.lab", "down", "--name", LAB], check=True)
    found = counted[builders[0]]
    return f"| {count} | 1 | {found['objects']} | {found['compiled']} | {seconds:.0f} |"


def main() -> None:
    """Print a row a number of hosts."""
    print("| hosts | hosts that compiled | objects | of these compiled anew | seconds |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            print(row(count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
