"""Which of the back ends this machine has; everything after ``create`` is the same for all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Protocol

from tests.lab.config import Host, HostSpec, Lab, LabError
from tests.lab.container import Container
from tests.lab.guestfiles import File
from tests.lab.nspawn import Nspawn

VARIABLE = "INFRA_LLM_LAB_BACKEND"


class Backend(Protocol):
    """What a lab needs from whatever runs its guests."""

    name: str

    def prepare(self) -> None: ...
    def base(self, suite: str) -> str: ...
    def create(self, lab: Lab, spec: HostSpec, base: str, files: dict[str, File]) -> Host: ...
    def put(self, host: Host, tar: bytes) -> None: ...
    def execute(self, host: Host, argv: Sequence[str]) -> str: ...
    def alive(self, host: Host) -> bool: ...
    def destroy(self, lab: Lab, names: Sequence[str]) -> None: ...
    def destroy_all(self) -> list[str]: ...


def engine_runs(engine: str) -> bool:
    """Whether a container engine answers; a client without its daemon is not enough."""
    if not shutil.which(engine):
        return False
    try:
        done = subprocess.run(
            [engine, "info"], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # The docker client prints its own half and exits 0 without a daemon in some versions.
    return done.returncode == 0 and b"Cannot connect" not in done.stdout + done.stderr


def choose() -> str:
    """Name of the back end: the variable, else an engine that runs, else nspawn."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in ("nspawn", "docker", "podman"):
        raise LabError(f"{VARIABLE}={wanted} is not known", "use nspawn, docker or podman")
    return wanted or next((name for name in ("docker", "podman") if engine_runs(name)), "nspawn")


def make(name: str) -> Backend:
    """Back end by name."""
    return Nspawn() if name == "nspawn" else Container(name)
