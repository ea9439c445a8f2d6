"""What apt would do and does: simulation, sizes, the run itself, and its errors in words.

Standard library, Python 3.8.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

from ...core.errors import HostFailedError
from .command import Output
from .dkms_log import NO_BUILD, build_errors
from .dpkg import Call

_STEP = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+))?")
_DOWNLOAD = re.compile(
    r"^Need to get ([\d.,]+) ([kMGT]?B)(?:/([\d.,]+) ([kMGT]?B))? of archives", re.M
)
_SPACE = re.compile(r"^After this operation, ([\d.,]+) ([kMGT]?B) of additional disk space", re.M)
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MIB = 1024 * 1024
_UNKNOWN = re.compile(r"E: (?:Unable to locate package (\S+)|Package '(\S+)' has no installation)")
_NO_VERSION = re.compile(r"E: Version '(\S+)' for '(\S+)' was not found")
_VANISHED = re.compile(r"^E: Failed to fetch (\S+)\s+(.*)", re.M)


_UPDATE_SECONDS = 600
"""Of an update that goes on. apt 2.6 was seen to wait for ever: all of its methods idle, and
nothing queued for them."""
_TIMED_OUT = (124, 137)
"""timeout(1): ended, killed."""


@dataclass
class Steps:
    """What apt would change: name -> (version before, version after), None for not there."""

    changes: Dict[str, Tuple[Optional[str], Optional[str]]] = field(default_factory=dict)

    def installs(self) -> List[str]:
        return sorted(n for n, (old, new) in self.changes.items() if new and not old)

    def replaces(self) -> List[str]:
        return sorted(n for n, (old, new) in self.changes.items() if new and old)

    def removes(self) -> List[str]:
        return sorted(n for n, (_, new) in self.changes.items() if not new)


@dataclass
class Apt:
    """apt-get and apt-cache with the options that point them at a set of sources."""

    run: Call
    options: List[str] = field(default_factory=list)

    def get(self, *words: str) -> Output:
        return self.run(["apt-get", *self.options, *words])

    def update(self, urls: Sequence[str]) -> List[str]:
        """Read the lists anew; what went wrong with repositories that are not ours, in words.

        Raises HostFailedError when one of ours, at `urls`, can't be read or is signed by another
        key, and when apt does not end.
        """
        words = ["timeout", "--kill-after=10", str(_UPDATE_SECONDS), "apt-get", *self.options]
        done = self.run([*words, "update"])
        if done.status in _TIMED_OUT:
            done = self.run([*words, "update"])
        if done.status in _TIMED_OUT:
            raise HostFailedError(
                "apt-get update did not end within {} s, twice".format(_UPDATE_SECONDS),
                hint="run it on the host: a mirror or proxy may take the connection and be silent",
            )
        said = [line for line in done.lines() if re.match(r"^(W|E|Err):?", line)]
        ours = [line for line in said if any(_names(line, url) for url in urls)]
        # A repository that never worked has no old lists to go on with.
        if ours:
            raise HostFailedError(_update_failure(ours), hint=_update_hint(ours))
        if done.status and not urls:
            raise HostFailedError("apt-get update failed:\n{}".format("\n".join(said[-6:])))
        return ["apt-get update: " + line for line in said if line[0] in "WE"][:4]

    def candidates(self, names: Sequence[str]) -> Dict[str, str]:
        """Name -> version that apt would install; packages without one are left out."""
        found: Dict[str, str] = {}
        if not names:
            return found
        done = self.run(["apt-cache", *self.options, "policy", *names])
        name = ""
        for line in done.lines():
            if line and not line.startswith(" "):
                name = line.rstrip(":").partition(":")[0]
            elif line.startswith("  Candidate: ") and "(none)" not in line:
                found[name] = line[len("  Candidate: ") :].strip()
        return found

    def needs(self, names: Sequence[str]) -> List[str]:
        """Installed packages that these depend on, directly or not."""
        words = ("depends", "--recurse", "--installed", "--important", *names)
        done = self.run(["apt-cache", *self.options, *words])
        found = (re.match(r"^(\S+)$", line) for line in done.lines())
        return sorted({m.group(1).partition(":")[0] for m in found if m} - set(names))

    def simulate(self, words: Sequence[str]) -> Steps:
        """What `apt-get install WORDS` would do ("name-" removes). Raises UnsolvableError."""
        done = self.get("--simulate", *_INSTALL, *words)
        if done.status:
            raise unsolvable(done.text)
        steps = Steps()
        for line in done.lines():
            match = _STEP.match(line)
            if match:
                _, name, old, new = match.groups()
                name = name.partition(":")[0]
                removed = line.startswith(("Remv", "Purg"))
                steps.changes[name] = (old, None if removed else new)
        return steps

    def sizes(self, words: Sequence[str]) -> Tuple[int, int]:
        """(bytes to download, bytes more on disk) of `apt-get install WORDS`."""
        return parse_sizes(self.get("--assume-no", *_INSTALL, *words).text)

    def install(self, words: Sequence[str], lock_timeout_s: float) -> Output:
        """Run it, in one transaction."""
        timeout = "DPkg::Lock::Timeout={:.0f}".format(max(1.0, lock_timeout_s))
        return self.get("--yes", "-o", timeout, *_KEEP, *_INSTALL, *words)


_INSTALL = (
    "--no-install-recommends",
    "--allow-downgrades",
    "--allow-change-held-packages",
    "--purge",
    "install",
)
_KEEP = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")


class UnsolvableError(HostFailedError):
    """apt sees no way; `unknown` are names that no list has, fresh lists may know them."""

    def __init__(self, what: str, unknown: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.unknown = list(unknown)


def parse_sizes(text: str) -> Tuple[int, int]:
    """(bytes to download, bytes more on disk) out of what apt-get says before it asks."""
    download, space = _DOWNLOAD.search(text), _SPACE.search(text)
    return (
        _bytes(download.group(1), download.group(2)) if download else 0,
        _bytes(space.group(1), space.group(2)) if space else 0,
    )


def _bytes(number: str, unit: str) -> int:
    return int(float(number.replace(",", "")) * _UNITS[unit])


def unsolvable(text: str) -> UnsolvableError:
    """apt's refusal, in words: which package is unknown, or what does not go together."""
    unknown = sorted({one or other for one, other in _UNKNOWN.findall(text)})
    unknown += sorted({name for _, name in _NO_VERSION.findall(text)})
    if unknown:
        return UnsolvableError(
            "no repository of this host has {}".format(", ".join(unknown)),
            unknown,
            hint="the package may have left its repository: see `apt-cache policy {}`".format(
                unknown[0]
            ),
        )
    _, found, conflict = text.partition("The following packages have unmet dependencies:\n")
    shown = conflict if found else "\n".join(text.splitlines()[-6:])
    return UnsolvableError(
        "apt finds no way to install this together:\n{}".format(shown.strip()),
        hint="look for packages on hold that are not infra-llm's (apt-mark showhold), or of "
        "another source (apt list '?obsolete')",
    )


def run_failure(done: Output) -> HostFailedError:
    """Why the transaction itself failed."""
    vanished = _VANISHED.findall(done.text)
    if vanished:
        listed = "\n".join("{} {}".format(url, why) for url, why in vanished[:4])
        return HostFailedError(
            "packages that the lists name can't be fetched:\n{}".format(listed),
            hint="the repository changed or can't be reached; run again, or name a mirror in "
            "infra_llm_repositories",
        )
    if "No space left on device" in done.text:
        return HostFailedError(
            "the disk is full: {}".format(_line_with(done.text, "No space left on device")),
            hint="free space there, then run again: what is half installed is finished then",
        )
    errors = build_errors(done.text)
    return HostFailedError(
        "apt-get failed:\n{}".format("\n".join([*_reason(done.lines()), *errors])),
        hint=NO_BUILD if errors else "",
    )


def _reason(lines: List[str]) -> List[str]:
    """The first package that failed, with what its script said before; else the last lines."""
    kept = [line for line in lines if not line.startswith("(Reading database")]
    for number, line in enumerate(kept):
        if line.startswith("dpkg: error processing"):
            return kept[max(0, number - 6) : number + 2]
    return kept[-10:]


def _line_with(text: str, words: str) -> str:
    return next(line.strip() for line in text.splitlines() if words in line)


def _names(line: str, url: str) -> bool:
    bare = url.partition("$")[0].rstrip("/")
    return bool(bare) and bare in line


def _update_failure(lines: Sequence[str]) -> str:
    return "a repository can't be used:\n{}".format("\n".join(lines[-4:]))


def _update_hint(lines: Sequence[str]) -> str:
    text = " ".join(lines)
    if any(
        w in text for w in ("NO_PUBKEY", "signature", "not signed", "BADSIG", "sqv", "Missing key")
    ):
        return (
            "it is not signed by the pinned key; if the vendor changed its key, compare the new "
            "fingerprint with the vendor's page and set key_fingerprint in infra_llm_repositories"
        )
    return "check its address and the network, or name a mirror in infra_llm_repositories"


def check_space(needs: Sequence[Tuple[str, int]]) -> None:
    """Raise HostFailedError unless every file system has room; `needs` are (folder, bytes)."""
    wanted: Dict[int, Tuple[str, int]] = {}
    for folder, need in needs:
        place = folder
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        first, so_far = wanted.get(device, (place, 0))
        wanted[device] = (first, so_far + need)
    for place, need in wanted.values():
        state = os.statvfs(place)
        free = state.f_bavail * state.f_frsize
        if need > free:
            raise HostFailedError(
                "no space: {} MiB are needed, {} MiB are free, {} MiB are missing".format(
                    -(-need // _MIB), free // _MIB, -(-(need - free) // _MIB)
                ),
                where=place,
                hint="free space there, then run again",
            )
