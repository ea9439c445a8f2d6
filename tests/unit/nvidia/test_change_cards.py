"""Services that are stopped for a change of the cards run again, whatever becomes of the change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra_llm.content import content_root

# list-units takes names and states (systemctl(1)); only "runs" and "tries" are in one of those.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --no-block ] && {{ shift; later=--no-block; }}
echo "$*" $later >>{log}
case "$1" in
list-units) echo "runs.service loaded active running one"
            echo "tries.service loaded activating auto-restart another" ;;
show) echo "LoadState=loaded"; echo "ActiveState=$(cat {folder}/$2 2>/dev/null || echo inactive)" ;;
stop) echo inactive >{folder}/$2 ;;
start) echo active >{folder}/$2 ;;
esac
"""
PROGRAM = """import json, sys
if "{wrong}":
    sys.exit("{wrong}")
print(json.dumps({{"done": ["power limit 300 W"], "reboot": []}}))
"""
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: nvidia_driver, tasks_from: change_cards}
"""


def change(folder: Path, drain: list[str], wrong: str = "") -> tuple[int, list[str], str]:
    """Run the tasks with a stand-in of systemctl: (exit status, what was started and stopped, the
    recap)."""
    log, path = folder / "log", folder / "bin"
    path.mkdir()
    log.touch()
    (path / "systemctl").write_text(SYSTEMCTL.format(log=log, folder=folder))
    (path / "systemctl").chmod(0o755)
    for unit, state in (("runs.service", "active"), ("tries.service", "activating")):
        (folder / unit).write_text(state + "\n")
    (folder / "settings.py").write_text(PROGRAM.format(wrong=wrong))
    (folder / "play.yml").write_text(PLAY)
    variables = {
        "nvidia_driver_drain": drain,
        "nvidia_driver_settings_program": str(folder / "settings.py"),
        "nvidia_driver_settings_wishes": str(folder / "wishes.json"),
        "ansible_python_interpreter": sys.executable,
    }
    done = subprocess.run(
        [sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", "-c", "local",
         "-e", json.dumps(variables), str(folder / "play.yml")],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1",
             "ANSIBLE_ROLES_PATH": str(content_root() / "roles")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    acts = [line for line in log.read_text().splitlines() if line.startswith(("st", "list"))]
    return done.returncode, acts, done.stdout + done.stderr


STOPPED = [
    "list-units --plain --no-legend --state=active,activating,reloading "
    "runs.service tries.service rests.service",
    "stop runs.service", "stop tries.service",
]  # fmt: skip
STARTED = ["start runs.service --no-block", "start tries.service --no-block"]
DRAIN = ["runs.service", "tries.service", "rests.service"]


def test_what_ran_runs_again_and_what_did_not_is_left(tmp_path: Path) -> None:
    status, acts, said = change(tmp_path, DRAIN)
    assert status == 0, said
    assert acts == STOPPED + STARTED
    # Two stopped in one task, the cards, two started in one task.
    assert "changed=3" in said


def test_what_ran_runs_again_after_a_failure(tmp_path: Path) -> None:
    status, acts, said = change(tmp_path, DRAIN, wrong="no such profile")
    assert status != 0
    assert "no such profile" in said
    assert acts == STOPPED + STARTED


@pytest.mark.parametrize("wrong", ["", "no such profile"])
def test_without_a_service_no_unit_is_touched(tmp_path: Path, wrong: str) -> None:
    status, acts, said = change(tmp_path, [], wrong)
    assert (status == 0) == (wrong == ""), said
    assert acts == []
