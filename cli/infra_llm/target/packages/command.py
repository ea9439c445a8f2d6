"""Runs package tools: they take minutes, and must not ask questions.

Standard library, Python 3.8.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import List, Sequence

ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    # Services are restarted by roles, which know what has to be stopped before.
    "NEEDRESTART_SUSPEND": "1",
    "UCF_FORCE_CONFFOLD": "1",
}
_TIMEOUT_S = 3600


@dataclass
class Output:
    """What a command printed, errors among it, and its exit status (127: could not run)."""

    status: int
    text: str

    def lines(self) -> List[str]:
        return self.text.splitlines()


def call(command: Sequence[str], timeout_s: float = _TIMEOUT_S) -> Output:
    """Run a command to its end, stdout and stderr together."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, **ENVIRONMENT),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Output(124, "{} did not end within {:g} s".format(command[0], timeout_s))
    except OSError as error:
        return Output(127, str(error))
    return Output(done.returncode, done.stdout.decode("utf-8", "replace"))
