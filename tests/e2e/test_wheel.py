"""The built wheel alone, in an empty environment and from another folder, provisions a machine."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, run


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that holds the wheel and its locked dependencies only."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder))
    [wheel] = folder.glob("infra_llm-*.whl")
    venv.create(folder / "env", with_pip=True)
    python = str(folder / "env" / "bin" / "python")
    install = (python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
    run(*install, "--require-hashes", "-r", str(ROOT / "requirements" / "run.lock"))
    run(*install, "--no-deps", str(wheel))
    return folder / "env" / "bin" / "infra-llm"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own.ini").write_text(
        "localhost ansible_connection=local ansible_python_interpreter=/usr/bin/python3 "
        "infra_llm_port=8099\n"
    )
    yield tmp_path


def test_it_provisions_from_another_folder(installed: Path, elsewhere: Path) -> None:
    def call(*words: str) -> str:
        done = subprocess.run(
            [str(installed), *words, "--inventory", "own.ini", "--json"],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(elsewhere)},
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    try:
        host = json.loads(call("provision"))["hosts"]["localhost"]
        assert host["result"] == "serving"
        assert host["endpoint"]["url"] == "http://127.0.0.1:8099/v1"
    finally:
        call("remove")
