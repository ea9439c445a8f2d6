"""Write archives of the stand-in's image, as `docker save` does (docker image specification 1.2).

The root file system is a part of a Debian 12 host's; there is no registry to have an image from.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("vllm_program.py")
BASE = (
    "set -e; cd $(mktemp -d); apt-get -qq update >&2; apt-get -qq download libgomp1 >&2; "
    "dpkg-deb --extract libgomp1*.deb more; "
    "tar -C / -c --exclude=*/perl* --exclude=__pycache__ --exclude=*/gconv "
    "bin lib lib64 usr/lib64 usr/bin/dash usr/bin/sh usr/bin/cat usr/bin/id usr/bin/ls "
    "usr/bin/python3 usr/bin/python3.11 usr/lib/python3.11 usr/lib/x86_64-linux-gnu "
    "etc/passwd etc/group etc/ld.so.cache -C $PWD/more usr"
)
"""What a shell on a Debian 12 host runs to give the base as a tar."""


def write(
    folder: Path, base: Path, wheel: Path, model: Path, version: str, *, broken: bool = False
) -> dict[str, Any]:
    """The artifact of an archive in `folder`: base, llama.cpp of the wheel, model and program."""
    layer = folder / f"layer-{version}.tar"
    with tarfile.open(layer, "w") as bundle, zipfile.ZipFile(wheel) as library:
        _copy(base, bundle)
        for name in library.namelist():
            if name.startswith("xllamacpp/") and not name.endswith("/"):
                _add(bundle, f"opt/stand-in/{name}", library.read(name), 0o644)
        _add(bundle, "opt/stand-in/model.gguf", model.read_bytes(), 0o644)
        _add(bundle, "usr/bin/vllm", PROGRAM.read_bytes(), 0o755)
        if broken:
            _add(bundle, "opt/stand-in/broken", b"", 0o644)
    return _archive(folder, layer, version)


def _copy(base: Path, bundle: tarfile.TarFile) -> None:
    """Every path once: podman takes no layer that names one twice."""
    seen: set[str] = set()
    with tarfile.open(base) as source:
        for member in source:
            if member.name not in seen:
                seen.add(member.name)
                bundle.addfile(member, source.extractfile(member) if member.isreg() else None)


def _archive(folder: Path, layer: Path, version: str) -> dict[str, Any]:
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
        sort_keys=True,
    ).encode()
    name = hashlib.sha256(config).hexdigest()
    manifest = [
        {
            "Config": f"{name}.json",
            "RepoTags": [f"vllm-stand-in:{version}"],
            "Layers": [f"{digest}/layer.tar"],
        }
    ]
    path = folder / f"vllm-stand-in-{version}.tar"
    with tarfile.open(path, "w") as bundle:
        bundle.add(layer, f"{digest}/layer.tar", filter=_plain)
        _add(bundle, f"{name}.json", config, 0o644)
        _add(bundle, "manifest.json", json.dumps(manifest).encode(), 0o644)
    layer.unlink()
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "name": "stand-in for vLLM's image",
        "version": version,
        "filename": path.name,
        "sha256": sha256,
        "size": path.stat().st_size,
        "licence": "Apache-2.0",
        "places": [{"kind": "path", "path": "/srv/images"}],
    }


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _add(bundle: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    bundle.addfile(info, io.BytesIO(data))
