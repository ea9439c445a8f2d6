"""Runs molecule scenarios one after the other, or a few side by side, and sums up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab.config import TREE, LabError
from tests.lab.system import say

LOGS = TREE / ".lab" / "logs"


@dataclass(frozen=True)
class Outcome:
    scenario: str
    code: int
    seconds: float


def known(tree: Path = TREE) -> list[str]:
    """All scenarios of the tree."""
    return sorted(path.parent.name for path in tree.glob("molecule/*/molecule.yml"))


def select(wanted: Sequence[str], tree: Path = TREE) -> list[str]:
    """The scenarios that are asked for, all without a wish; LabError for an unknown one."""
    there = known(tree)
    if unknown := sorted(set(wanted) - set(there)):
        raise LabError(f"no scenario {', '.join(unknown)}", f"known: {', '.join(there)}")
    return list(wanted) or there


def environment() -> dict[str, str]:
    """The caller's environment with this interpreter's folder first on PATH.

    Molecule starts ansible-config and pytest by name, and dies when an environment's own are not
    found; the link is not resolved, or it would lead out of the environment.
    """
    first = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{first}:{os.environ['PATH']}",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
    }


def run_one(scenario: str) -> Outcome:
    """Run ``molecule test`` for a scenario, output in a log.

    In a folder of its own: molecule's is named after the checkout's last folder, and one that a
    killed run of any such checkout left tells it that the hosts are there already.
    """
    started = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"molecule-{scenario}.log"
    argv = ["molecule", "test", "--no-command-borders", "-s", scenario]
    with (
        log.open("wb") as output,
        tempfile.TemporaryDirectory(prefix=f"infra-llm-molecule-{scenario}-") as folder,
    ):
        done = subprocess.run(
            argv,
            cwd=TREE,
            env={**environment(), "MOLECULE_EPHEMERAL_DIRECTORY": folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    outcome = Outcome(scenario, done.returncode, time.monotonic() - started)
    say(f"{'ok    ' if not done.returncode else 'FAILED'} {scenario} {outcome.seconds:.0f} s")
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()[-40:]
        say("\n".join(f"    {line}" for line in lines) + f"\n    whole log: {log}")
    return outcome


def run_all(wanted: Sequence[str], jobs: int) -> int:
    """Run scenarios; 0 when all passed, else 1."""
    chosen = select(wanted)
    if not shutil.which("molecule", path=environment()["PATH"]):
        raise LabError("molecule is not installed", "run it with the Python of the dev environment")
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        outcomes = list(pool.map(run_one, chosen))
    failed = [outcome.scenario for outcome in outcomes if outcome.code]
    say(f"{len(outcomes) - len(failed)} of {len(outcomes)} scenarios passed "
        f"in {time.monotonic() - started:.0f} s")  # fmt: skip
    return 1 if failed else 0
