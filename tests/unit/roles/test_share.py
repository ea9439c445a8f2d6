"""A build reaches the controller whole or not at all: the role's own tasks, by the real ansible."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLAY = """\
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: llama_cpp, tasks_from: share.yml}
"""
FULL_DISK = '#!/bin/sh\nprintf cut >"$4"\necho "tar: No space left on device" >&2\nexit 2\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A host with a release; the controller is the same machine."""
    release = tmp_path / "llama_cpp" / "releases" / "source-x"
    release.mkdir(parents=True)
    (release / "llama-server").write_text("a build")
    (tmp_path / "play.yml").write_text(PLAY)
    return tmp_path


def share(folder: Path, path: str = os.environ["PATH"]) -> int:
    variables = {
        "llama_cpp_methods": [{"method": "source", "release": "source-x"}],
        "llama_cpp_dir": str(folder / "llama_cpp"),
        "llama_cpp_builds": str(folder / "builds"),
        "ansible_python_interpreter": sys.executable,
    }
    command = [
        sys.executable, "-m", "ansible.cli.playbook", "-i", "localhost,", "-c", "local",
        "-e", json.dumps(variables), str(folder / "play.yml"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PATH": path,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
    }
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True).returncode


def test_a_disk_that_fills_while_it_is_packed_leaves_nothing_to_take(folder: Path) -> None:
    tar = folder / "bin" / "tar"
    tar.parent.mkdir()
    tar.write_text(FULL_DISK)
    tar.chmod(0o755)
    assert share(folder, f"{tar.parent}:{os.environ['PATH']}") == 2
    assert not list(folder.glob("builds/*"))
    assert [path.name for path in (folder / "llama_cpp").iterdir()] == ["releases"]


def test_a_part_of_an_earlier_run_is_replaced(folder: Path) -> None:
    builds = folder / "builds"
    builds.mkdir()
    for path in (folder / "llama_cpp" / "source-x.tar.gz", builds / "source-x.tar.gz.part"):
        path.write_text("cut")
    assert share(folder) == 0
    kept = builds / "source-x.tar.gz"
    with tarfile.open(kept) as archive:
        assert archive.getnames() == [".", "./llama-server"]
    wanted = hashlib.sha256(kept.read_bytes()).hexdigest()
    assert Path(f"{kept}.sha256").read_text() == wanted
    assert sorted(path.name for path in builds.iterdir()) == [kept.name, f"{kept.name}.sha256"]
