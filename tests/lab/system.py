"""Small wrappers around processes, locks and files of the machine that runs the lab."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.lab.config import LabError

PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh-keygen": "openssh-client",
    "cc": "gcc libc6-dev",
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.ext4": "e2fsprogs",
    "setpriv": "util-linux",
}


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the caller."""
    # One write, so that lines of hosts that start side by side stay whole.
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def run(argv: Sequence[str], *, stdin: bytes | None = None, timeout: float = 120) -> str:
    """Run a command and give its stdout; LabError with its last lines when it fails."""
    try:
        # Never our own stdin: a tool that asks a question would hang the run.
        done = subprocess.run(
            argv, input=stdin or b"", capture_output=True, check=False, timeout=timeout
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{argv[0]} did not finish within {timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).decode(errors="replace").splitlines()[-15:])
        raise LabError(f"{' '.join(argv[:3])} ... failed with {done.returncode}:\n{tail}")
    return done.stdout.decode(errors="replace")


def ensure_tools(tools: Sequence[str]) -> None:
    """Install the Debian packages of the tools that are missing (as root), or say which."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    absent = [tool for tool in tools if not shutil.which(tool)]
    missing = sorted({package for tool in absent for package in PACKAGES[tool].split()})
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise LabError(
            f"missing packages: {', '.join(missing)}", f"sudo apt-get install {' '.join(missing)}"
        )
    say(f"installing {', '.join(missing)}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    with locked(Path("/run/infra-llm-lab/apt.lock"), timeout=600):
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        run([*apt, "update"], timeout=300)
        run([*apt, "install", "-y", "--no-install-recommends", *missing], timeout=600)


@contextlib.contextmanager
def locked(path: Path, timeout: float = 60) -> Iterator[None]:
    """Hold an flock; the kernel drops it when the holder dies, so no stale lock can remain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LabError(f"another run holds {path}", "wait for it to finish") from None
                time.sleep(0.1)
        yield


def wait_for(ready: Callable[[], bool], timeout: float, pause: float = 0.05) -> bool:
    """Poll until ready or until the wall clock says stop."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def start_time(pid: int) -> int:
    """Start time of a live process in clock ticks, 0 when there is none (or only a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    after_name = text.rpartition(")")[2].split()
    return 0 if after_name[0] == "Z" else int(after_name[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether the very process is running, not another that got its number."""
    return pid > 0 and start > 0 and start_time(pid) == start


def write_json(path: Path, data: object) -> None:
    """Replace a file at once, so that a killed run leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as handle:
        json.dump(data, handle, indent=1, sort_keys=True)
    Path(handle.name).replace(path)


def read_json(path: Path, default: Any) -> Any:
    """Content of a JSON file, or the default when it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return default
