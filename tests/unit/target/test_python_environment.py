"""An environment has exactly what the lock file names, or it is not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pip
import pytest

from infra_llm.core.errors import BadInputError, HostFailedError
from infra_llm.target.archives import read_marker
from infra_llm.target.python_environment import explain, pip_environment, run_environment
from infra_llm.target.transport import Settings


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artifact(path: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "filename": path.name,
        "sha256": digest(path),
        "size": path.stat().st_size,
        "places": [{"kind": "path", "path": str(path)}],
    }


def wheel(folder: Path, name: str, code: str) -> Path:
    """A stand-in for a package."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
        rows = [f"{inner},,{len(text)}\n" for inner, text in files.items()]
        archive.writestr(f"{info}/RECORD", "".join([*rows, f"{info}/RECORD,,\n"]))
    return path


@pytest.fixture(scope="session")
def pip_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pip of this environment, packed again: Debian's ensurepip carries none."""
    site = Path(pip.__file__).parent.parent
    folders = [site / "pip", next(site.glob("pip-*.dist-info"))]
    path = tmp_path_factory.mktemp("pip") / f"pip-{pip.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (file for folder in folders for file in sorted(folder.rglob("*"))):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(site))
    return path


@pytest.fixture
def params(tmp_path: Path, pip_wheel: Path) -> dict[str, Any]:
    """Two packages of a site's folder, a third that only the catalogue has."""
    site = tmp_path / "site"
    wheels = [wheel(site, name, f"NAME = {name!r}\n") for name in ("alpha", "beta")]
    own = wheel(tmp_path / "own", "gamma", "NAME = 'gamma'\n")
    lock = tmp_path / "tiny.lock"
    lock.write_text(
        "".join(
            f"{path.name.split('-')[0]}==1.0 \\\n    --hash=sha256:{digest(path)}\n"
            for path in [*wheels, own]
        )
    )
    return {
        "dest": str(tmp_path / "releases" / "one"),
        "python": sys.executable,
        "lock": str(lock),
        "lock_sha256": digest(lock),
        "artifact": {"name": "tiny", "version": "1", "filename": "tiny.lock", "sha256": "a" * 64},
        "pip": artifact(pip_wheel),
        "wheels": [artifact(own)],
        "settings": {"folders": [str(site), "/nowhere"], "index_urls": ["file:///nowhere"]},
    }


def imported(params: dict[str, Any]) -> str:
    code = "import alpha, beta, gamma; print(alpha.NAME, beta.NAME, gamma.NAME)"
    done = subprocess.run(
        [f"{params['dest']}/bin/python", "-I", "-c", code], capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr


def test_it_is_made_once_mended_and_made_anew_for_another_lock(
    params: dict[str, Any], tmp_path: Path
) -> None:
    assert run_environment(params, check_mode=True)["changed"]
    assert not (tmp_path / "releases").exists()
    assert run_environment(params)["changed"]
    assert imported(params) == "alpha beta gamma"
    assert [path.name for path in (tmp_path / "releases").iterdir()] == ["one"]
    packages = next(Path(params["dest"]).glob("lib/*/site-packages"))
    assert not (packages / "pip").exists()
    assert not run_environment(params)["changed"]
    (packages / "beta" / "__init__.py").unlink()
    assert run_environment(params)["repaired"] == "beta/__init__.py"
    assert imported(params) == "alpha beta gamma"
    params["artifact"]["sha256"] = "b" * 64
    assert run_environment(params)["changed"]


@pytest.fixture
def damaged(params: dict[str, Any], tmp_path: Path) -> Path:
    """An environment that is in use and lacks a file, while no index has the packages any more."""
    run_environment(params)
    dest = Path(params["dest"])
    next(dest.glob("lib/*/site-packages/beta/__init__.py")).unlink()
    (tmp_path / "site" / "beta-1.0-py3-none-any.whl").rename(tmp_path / "away.whl")
    return dest


def test_what_is_in_use_is_back_when_it_cant_be_replaced(
    damaged: Path, params: dict[str, Any], tmp_path: Path
) -> None:
    inode = damaged.stat().st_ino
    with pytest.raises(HostFailedError, match=r"beta==1\.0"):
        run_environment(params)
    assert damaged.stat().st_ino == inode
    assert next(damaged.glob("lib/*/site-packages/alpha/__init__.py")).exists()
    assert [path.name for path in damaged.parent.iterdir()] == ["one"]
    (tmp_path / "away.whl").rename(tmp_path / "site" / "beta-1.0-py3-none-any.whl")
    assert run_environment(params)["repaired"] == "beta/__init__.py"
    assert imported(params) == "alpha beta gamma"
    assert [path.name for path in damaged.parent.iterdir()] == ["one"]


def test_what_a_killed_run_put_aside_is_back(damaged: Path, params: dict[str, Any]) -> None:
    inode = damaged.stat().st_ino
    damaged.rename(f"{damaged}.aside")
    (damaged / "bin").mkdir(parents=True)
    (damaged / "pyvenv.cfg").touch()
    with pytest.raises(HostFailedError, match=r"beta==1\.0"):
        run_environment(params)
    assert damaged.stat().st_ino == inode
    assert [path.name for path in damaged.parent.iterdir()] == ["one"]


def test_what_was_put_aside_goes_when_the_new_one_was_ready(params: dict[str, Any]) -> None:
    run_environment(params)
    old = Path(params["dest"] + ".aside")
    (old / "lib").mkdir(parents=True)
    assert not run_environment(params)["changed"]
    assert not old.exists()


def test_a_list_of_files_that_was_edited_is_no_list(params: dict[str, Any]) -> None:
    run_environment(params)
    record = next(Path(params["dest"]).glob("lib/*/site-packages/beta-1.0.dist-info/RECORD"))
    whole = record.read_text()
    record.unlink()
    assert run_environment(params)["repaired"].endswith("beta-1.0.dist-info/RECORD")
    assert record.read_text() == whole
    (Path(params["dest"]) / "pyvenv.cfg").write_text("home = /tmp\n")
    assert run_environment(params)["repaired"] == "pyvenv.cfg"
    assert imported(params) == "alpha beta gamma"
    assert read_marker(params["dest"])["sha256"] == "a" * 64


def test_a_package_with_another_content_is_refused(params: dict[str, Any], tmp_path: Path) -> None:
    wheel(tmp_path / "site", "beta", "NAME = 'another'\n")
    with pytest.raises(HostFailedError, match="another sha256 than the lock file"):
        run_environment(params)
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_package_that_nobody_has_is_named(params: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "site" / "beta-1.0-py3-none-any.whl").unlink()
    with pytest.raises(HostFailedError, match=r"beta==1\.0") as caught:
        run_environment(params)
    assert "infra_llm_package_index" in caught.value.hint


def test_a_lock_file_that_is_not_the_catalogues_is_refused(params: dict[str, Any]) -> None:
    params["lock_sha256"] = "0" * 64
    with pytest.raises(BadInputError, match="not the one of the catalogue"):
        run_environment(params)


def test_a_folder_that_is_not_ours_stays(params: dict[str, Any]) -> None:
    folder = Path(params["dest"])
    folder.mkdir(parents=True)
    (folder / "photos").write_text("mine")
    with pytest.raises(BadInputError, match="did not make"):
        run_environment(params)
    assert (folder / "photos").read_text() == "mine"


def test_an_interpreter_that_is_gone(params: dict[str, Any]) -> None:
    params["python"] = "/nowhere/python3"
    with pytest.raises(BadInputError, match="/nowhere/python3"):
        run_environment(params)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("/usr/bin/python3: No module named venv", "python3-venv"),
        ("OSError: [Errno 28] No space left on device", "free some space"),
        ("Segmentation fault", "pip's own words"),
    ],
)
def test_what_pip_says_is_explained(said: str, words: str) -> None:
    assert words in explain(said)[1]


def test_pips_settings_are_variables_and_the_hosts_own_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://somewhere.test")
    monkeypatch.setenv("PYTHONPATH", "/tmp")
    indexes = ["https://user:secret@a.test/simple", "https://b.test/simple", "file:///nowhere"]
    found = pip_environment(Settings(index_urls=indexes), str(tmp_path), "/t")
    assert found["PIP_INDEX_URL"] == indexes[0]
    assert found["PIP_EXTRA_INDEX_URL"] == indexes[1]
    assert found["PIP_CONFIG_FILE"] == os.devnull
    assert found["PIP_FIND_LINKS"] == str(tmp_path)
    assert "PYTHONPATH" not in found
    assert pip_environment(Settings(), str(tmp_path), "/t")["PIP_NO_INDEX"] == "1"
