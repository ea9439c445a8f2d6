"""The wheel carries all that provisioning needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def tracked(*folders: str) -> list[str]:
    """Files of the repository under `folders`; build leftovers are not among them."""
    done = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation"]
    subprocess.run(
        [*command, "--no-deps", "--no-index", "--wheel-dir", str(folder), str(ROOT)], check=True
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_it_holds_playbooks_roles_plugins_and_data(wheel: zipfile.ZipFile) -> None:
    packaged = set(wheel.namelist())
    for path in tracked("playbooks", "roles", "ansible.cfg"):
        assert f"infra_llm/content/{path}" in packaged
    for path in tracked("cli/infra_llm"):
        assert path.removeprefix("cli/") in packaged
    for name in ("data/catalogue.yml", "data/gpus.json", "content/playbooks/provision.yml"):
        assert f"infra_llm/{name}" in packaged


def test_its_files_are_those_of_the_repository(wheel: zipfile.ZipFile) -> None:
    for path in tracked("playbooks", "roles"):
        assert wheel.read(f"infra_llm/content/{path}") == (ROOT / path).read_bytes()


def test_it_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    folders = {name.split("/")[0] for name in wheel.namelist()}
    assert sorted(folders) == ["infra_llm", "infra_llm-0.1.0.dist-info"]
    assert not [n for n in wheel.namelist() if "test" in n or "__pycache__" in n]


def test_it_installs_the_command(wheel: zipfile.ZipFile) -> None:
    points = wheel.read("infra_llm-0.1.0.dist-info/entry_points.txt").decode()
    assert "infra-llm = infra_llm.__main__:main" in points
