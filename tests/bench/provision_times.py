#!/usr/bin/env python3
"""Time cold, second and full runs of `infra-llm provision`, as a table.

    python tests/bench/provision_times.py inventories/local.ini lab.ini

Every inventory is removed first, so hosts on it lose their service for a moment.
"""

from __future__ import annotations

import subprocess
import sys
import time


def timed(*words: str) -> float:
    """Seconds that one command took; it must succeed."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "infra_llm", *words], check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    """Print a row an inventory."""
    print("| inventory | cold s | second s | --full s |")
    print("| --- | --- | --- | --- |")
    for inventory in sys.argv[1:]:
        where = ("--inventory", inventory)
        timed("remove", *where)
        cold = timed("provision", *where)
        second = sorted(timed("provision", *where) for _ in range(3))[1]
        full = timed("provision", *where, "--full")
        print(f"| {inventory} | {cold:.1f} | {second:.1f} | {full:.1f} |")
        timed("remove", *where)


if __name__ == "__main__":
    main()
