"""Make the wheels and the lock file of the stand-in, and its artifacts for an inventory.

The lock file names the real wheel xllamacpp, out of the package index, beside the stand-ins.
"""

from __future__ import annotations

import hashlib
import platform
import zipfile
from pathlib import Path
from typing import Any

from infra_llm.readers.catalogue_file import load_catalogue

SERVER = Path(__file__).with_name("api_server.py")
LOCK = "stand-in.lock"


def build(wheels: Path, lock_folder: Path, place: str) -> dict[str, Any]:
    """infra_llm_engine_artifacts of vLLM for a host without a GPU.

    The wheels go to `wheels`, which hosts find in their folder `place`; the lock file goes to
    `lock_folder`.
    """
    module = SERVER.read_text()
    packages = (
        "vllm/__init__.py",
        "vllm/entrypoints/__init__.py",
        "vllm/entrypoints/openai/__init__.py",
    )
    server = wheel(
        wheels, "vllm_stand_in", "1.0",
        {**dict.fromkeys(packages, ""), "vllm/entrypoints/openai/api_server.py": module},
    )  # fmt: skip
    torch = wheel(wheels, "torch", "2.13.0+cpu", {"torch/__init__.py": ""})
    real = load_catalogue()["engines"]["llama.cpp"]["wheel"][platform.machine()]
    rows = [
        ("torch", "2.13.0+cpu", sha256(torch)),
        ("vllm-stand-in", "1.0", sha256(server)),
        ("xllamacpp", real["places"][0]["version"], real["sha256"]),
    ]
    lock = lock_folder / LOCK
    lines = (
        f"{name}=={version} \\\n    --hash=sha256:{digest}\n" for name, version, digest in rows
    )
    lock.write_text("".join(lines))
    pythons = dict.fromkeys(("3.11", "3.13"), artifact(torch, place))
    return {"cpu": {platform.machine(): artifact(lock, place)}, "torch": pythons}


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel of these files."""
    info = f"{name}-{version}.dist-info"
    every = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},,{len(text.encode())}" for path, text in every.items()]
    every[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in every.items():
            archive.writestr(zipfile.ZipInfo(inner), text)
    return path


def artifact(path: Path, place: str) -> dict[str, Any]:
    return {
        "name": f"stand-in {path.name}",
        "version": "stand-in",
        "filename": path.name,
        "sha256": sha256(path),
        "size": path.stat().st_size,
        "licence": "MIT",
        "places": [{"kind": "path", "path": place}],
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
