"""Which family of distributions this host belongs to. Standard library, Python 3.8."""

from __future__ import annotations

import os
import re
from typing import Dict, Iterable

from ...core.errors import HostFailedError
from ...core.os_family import os_family
from ..service import Run, run_command
from . import rpm
from .command import Output

PLACES = ("etc/os-release", "usr/lib/os-release")


def host_family(root: str = "/") -> str:
    """The family by os-release, never by which tools there are: a host may have both."""
    for place in PLACES:
        try:
            with open(os.path.join(root, place), encoding="utf-8") as stream:
                fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', stream.read(), re.M))
        except OSError:
            continue
        return os_family(fields.get("ID", ""), fields.get("ID_LIKE", ""))
    return "debian"


def package_versions(
    names: Iterable[str], run: Run = run_command, family: str = ""
) -> Dict[str, str]:
    """Name -> version of those that are installed, in one call of dpkg-query or rpm.

    Raises HostFailedError where the package database can't be asked.
    """
    wanted = sorted(set(names))
    if not wanted:
        return {}
    if (family or host_family()) == "redhat":
        return rpm.versions(wanted, lambda command: _joined(*run(list(command))))
    wish = "--showformat=${Package}\\t${Version}\\t${db:Status-Status}\\n"
    status, out, error = run(["dpkg-query", "--show", wish, "--", *wanted])
    # 1 means that some are not known; the others are listed all the same.
    if status not in (0, 1):
        raise HostFailedError(
            "can't ask for packages: {}".format(error.strip() or "dpkg-query failed"),
            hint="receipts know the packages of dpkg and rpm only",
        )
    rows = (line.split("\t") for line in out.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def _joined(status: int, out: str, error: str) -> Output:
    return Output(status, out + error)
