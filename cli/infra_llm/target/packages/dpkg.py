"""dpkg's database: what is installed and held, who locks it, and its repair after an interruption.

Standard library, Python 3.8.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Callable, Dict, Iterable, List, Optional, Sequence

from ...core.errors import HostFailedError
from .command import Output, call
from .dkms_log import NO_BUILD, build_errors

Call = Callable[[Sequence[str]], Output]
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
_FLOCK = "hhqqi4x"
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


@dataclass(frozen=True)
class Installed:
    """One package that is installed."""

    version: str
    held: bool
    whole: bool
    """Unpacked and configured; not so after an interruption."""


def installed(run: Call = call) -> Dict[str, Installed]:
    """Name -> package, of all that are on the host in any state but removed."""
    wish = "--showformat=${Package}\\t${Version}\\t${db:Status-Want}\\t${db:Status-Status}\\n"
    done = run(["dpkg-query", "--show", wish])
    if done.status:
        raise HostFailedError("can't ask for packages: {}".format(done.text.strip()))
    found = {}
    for line in done.lines():
        row = line.split("\t")
        if len(row) == 4 and row[3] not in ("not-installed", "config-files"):
            found[row[0]] = Installed(row[1], row[2] == "hold", row[3] == "installed")
    return found


def leftovers(run: Call = call) -> List[str]:
    """Names of removed packages whose configuration files are still there."""
    done = run(["dpkg-query", "--show", "--showformat=${Package}\\t${db:Status-Status}\\n"])
    rows = (line.split("\t") for line in done.lines())
    return [row[0] for row in rows if len(row) == 2 and row[1] == "config-files"]


def matching(names: Iterable[str], patterns: Iterable[str]) -> List[str]:
    """The names that one of the glob patterns finds, sorted."""
    wanted = list(patterns)
    return sorted(n for n in names if any(fnmatchcase(n, pattern) for pattern in wanted))


def lock_holder(path: str) -> Optional[int]:
    """Process that holds a lock file of dpkg or apt; 0 for one out of sight, None for nobody."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_GETLK, asked))
    finally:
        os.close(handle)
    return None if answer[0] == fcntl.F_UNLCK else int(answer[4])


def process_name(pid: int) -> str:
    """What a process calls itself, with its pid: "unattended-upgr (pid 812)"."""
    try:
        with open("/proc/{}/cmdline".format(pid), "rb") as stream:
            words = stream.read().decode("utf-8", "replace").split("\0")
    except OSError:
        words = [""]
    base = os.path.basename(words[0])
    # A script is known by its own name, not by its interpreter's.
    if base.startswith(("python", "perl", "sh", "bash", "dash")) and len(words) > 1 and words[1]:
        base = "{} {}".format(base, os.path.basename(words[1]) or words[1])
    return "{} (pid {})".format(base or "a process", pid)


def wait_for_locks(
    timeout_s: float,
    paths: Sequence[str] = LOCKS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Seconds waited until nobody holds the package database.

    Raises HostFailedError that names the holder when it does not let go in time.
    """
    started = clock()
    while True:
        held = [(path, lock_holder(path)) for path in paths]
        taken = [(path, pid) for path, pid in held if pid is not None]
        waited = clock() - started
        if not taken:
            return waited
        if waited >= timeout_s:
            path, pid = taken[0]
            raise HostFailedError(
                "{} holds the package database; waited {:.0f} s".format(
                    process_name(pid or 0), waited
                ),
                where=path,
                hint="wait until it has finished, then run again",
            )
        sleep(min(1.0, max(0.05, timeout_s - waited)))


def has_journal(updates: str = "/var/lib/dpkg/updates") -> bool:
    """Whether dpkg was killed before it wrote its changes down."""
    try:
        return any(name.isdigit() for name in os.listdir(updates))
    except OSError:
        return False


def half_installed(packages: Dict[str, Installed]) -> List[str]:
    """Packages that dpkg has begun with and not finished, sorted."""
    return sorted(name for name, package in packages.items() if not package.whole)


def repair(run: Call = call) -> str:
    """Finish what an interrupted dpkg left; in words what was done. Raises HostFailedError."""
    done = run(["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"])
    fixed = run(["apt-get", "--yes", "--fix-broken", "install"])
    if fixed.status:
        tail = "\n".join([*done.lines()[-4:], *fixed.lines()[-6:]])
        errors = build_errors(done.text)
        raise HostFailedError(
            "packages are half installed, and dpkg can't finish them:\n{}".format(
                "\n".join([tail, *errors])
            ),
            hint=NO_BUILD
            if errors
            else "mend them by hand (dpkg --audit lists them), then run again",
        )
    return "dpkg was interrupted before: dpkg --configure -a finished its work"
