"""rpm's database: what is installed, which keys it trusts, who locks it.

Standard library, Python 3.8. A key is a package there, too: "gpg-pubkey-f796ecb0-5e1f8bd1". So that
a receipt can hold all that came with a role, an enabled module stream counts as one as well:
"module:nvidia-driver", whose version is the stream.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from ...core.errors import HostFailedError
from .command import Output, call
from .dpkg import lock_holder

KEY = "gpg-pubkey-"
STREAM = "module:"
MODULES = "/etc/dnf/modules.d"
LOCKS = ("/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock")
"""Locked with fcntl while rpm works; the second place is that of Fedora and EL 10."""
PID_FILES = ("/var/lib/dnf/rpmdb_lock.pid", "/var/cache/dnf/metadata_lock.pid")
"""dnf writes its process number into these and does not lock them."""
_FORMAT = "%{NAME}\\t%{EVR}\\t%{VERSION}-%{RELEASE}\\n"

Call = Callable[[Sequence[str]], Output]


def installed(run: Call = call) -> Dict[str, str]:
    """Name -> version ("3:580.95.05-1.el9") of all packages, keys and enabled streams.

    Of a package that is there several times (kernels) all versions, with commas between.
    """
    done = run(["rpm", "--query", "--all", "--queryformat", _FORMAT])
    if done.status:
        raise HostFailedError("can't ask for packages: {}".format(done.text.strip()))
    return {**parse(done.text), **streams()}


def versions(names: Iterable[str], run: Call = call) -> Dict[str, str]:
    """The same of those of the names that are installed, in one call of rpm."""
    wanted = sorted(set(names))
    packages = [name for name in wanted if not name.startswith(STREAM)]
    found: Dict[str, str] = {}
    if packages:
        done = run(["rpm", "--query", "--queryformat", _FORMAT, "--", *packages])
        # The status counts those that are not installed; 127 is no rpm at all.
        if done.status and not re.search(r"is not installed|\t", done.text):
            raise HostFailedError("can't ask for packages: {}".format(done.text.strip()))
        found = parse(done.text)
    found.update(streams())
    return {name: found[name] for name in wanted if name in found}


def parse(text: str) -> Dict[str, str]:
    """Name -> version out of rpm's answer; what is no row of it is left out."""
    found: Dict[str, List[str]] = {}
    for line in text.splitlines():
        row = line.split("\t")
        if len(row) == 3:
            name = KEY + row[2] if row[0] + "-" == KEY else row[0]
            # An epoch of 0 is none, and is not always shown.
            version = re.sub(r"^(\(none\)|0):", "", row[1])
            found.setdefault(name, []).append(version)
    return {name: ",".join(sorted(all_)) for name, all_ in found.items()}


def streams(folder: str = MODULES) -> Dict[str, str]:
    """Enabled modules: "module:NAME" -> stream."""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.module"))):
        with open(path, encoding="utf-8", errors="replace") as stream:
            fields = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*)$", stream.read(), re.M))
        if fields.get("state") == "enabled" and fields.get("stream"):
            name = os.path.basename(path)[: -len(".module")]
            found[STREAM + name] = fields["stream"].strip()
    return found


def forget_streams(names: Iterable[str], folder: str = MODULES) -> None:
    """Remove what dnf notes about modules that have no state any more."""
    kept = streams(folder)
    for name in names:
        path = os.path.join(folder, name + ".module")
        if STREAM + name not in kept and os.path.exists(path):
            os.unlink(path)


def holders(
    locks: Sequence[str] = LOCKS, pid_files: Sequence[str] = PID_FILES
) -> List[Tuple[str, int]]:
    """(path, pid) of the processes that work with rpm's database now; 0 for one out of sight."""
    found = [(path, lock_holder(path)) for path in locks]
    taken = [(path, pid) for path, pid in found if pid is not None]
    for path in pid_files:
        pid = _written_pid(path)
        if pid and pid != os.getpid() and os.path.exists("/proc/{}".format(pid)):
            taken.append((path, pid))
    return taken


def _written_pid(path: str) -> Optional[int]:
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read().strip() or 0)
    except (OSError, ValueError):
        return None


def import_key(path: str, run: Call = call) -> List[str]:
    """Let rpm trust the key in a file; the names of the keys that it did not know before."""
    before = set(_keys(run))
    done = run(["rpmkeys", "--import", path])
    if done.status:
        raise HostFailedError(
            "rpm does not take the key: {}".format(done.text.strip()[-300:]), where=path
        )
    return sorted(set(_keys(run)) - before)


def forget_keys(names: Sequence[str], run: Call = call) -> None:
    """Take keys (as `import_key` named them) out of rpm's database."""
    if names:
        done = run(["rpm", "--erase", *names])
        if done.status:
            raise HostFailedError("rpm --erase failed: {}".format(done.text.strip()[-300:]))


def _keys(run: Call) -> List[str]:
    done = run(["rpm", "--query", "--queryformat", _FORMAT, "gpg-pubkey"])
    return [name for name in parse(done.text) if name.startswith(KEY)]
