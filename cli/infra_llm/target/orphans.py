"""End what an interrupted run left working on a host.

Ansible's tasks outlive their controller: a download or a build goes on after Ctrl-C. Every task of
a run carries INFRA_LLM_RUN in its environment, so its processes can be told from all others.
Runs on the target: standard library, Python 3.8.
"""

from __future__ import annotations

import os
import signal
import time
from typing import List

VARIABLE = "INFRA_LLM_RUN"


def processes_of(run_id: str) -> List[int]:
    """Pids of the processes that carry the run's id, this one and its parents left out."""
    mark = "{}={}".format(VARIABLE, run_id).encode("utf-8")
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open("/proc/{}/environ".format(pid), "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def end_processes(run_id: str, grace_seconds: float = 5.0) -> int:
    """TERM to all of them, KILL to what is left after the grace; how many there were."""
    first = processes_of(run_id)
    for number, wait in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
        for pid in processes_of(run_id):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + wait
        while processes_of(run_id) and time.monotonic() < deadline:
            time.sleep(0.1)
    return len(first)
