"""Make the stand-in's source archive, as infra_llm_engine_artifacts takes it, and its library."""

from __future__ import annotations

import gzip
import hashlib
import io
import platform
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

HERE = Path(__file__).parent
SOURCES = ("CMakeLists.txt", "program.c", "images.c", "server.py")


def source(folder: Path, place: str, breaks: bool = False) -> dict[str, Any]:
    """Artifact of an archive in `folder`, to be found in the folder `place` of the host.

    `breaks`: it does not compile.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in SOURCES:
            data = (HERE / name).read_bytes()
            if breaks and name == "program.c":
                data += b"\n#error the test's own error\n"
            info = tarfile.TarInfo(f"stand-in/{name}")
            info.size, info.mode = len(data), 0o755 if name.endswith(".py") else 0o644
            archive.addfile(info, io.BytesIO(data))
    content = gzip.compress(packed.getvalue(), mtime=0)
    path = folder / f"gpu-engine{'-broken' if breaks else ''}.tar.gz"
    path.write_bytes(content)
    return {
        "name": "stand-in for llama.cpp's source",
        "version": "broken" if breaks else "stand-in",
        "filename": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "licence": "MIT",
        "places": [{"kind": "path", "path": place}],
    }


def library(folder: Path) -> bytes:
    """The wheel xllamacpp of the catalogue as a tar; the download is kept in `folder`."""
    wheel = load_catalogue()["engines"]["llama.cpp"]["wheel"][platform.machine()]
    path = folder / wheel["filename"]
    fetch(wheel, str(path), Settings.from_dict({"index_urls": package_indexes()}))
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as bundle, zipfile.ZipFile(path) as files:
        for entry in files.infolist():
            if not entry.is_dir():
                data = files.read(entry)
                info = tarfile.TarInfo(entry.filename)
                info.size, info.mode = len(data), 0o644
                bundle.addfile(info, io.BytesIO(data))
    return whole.getvalue()
