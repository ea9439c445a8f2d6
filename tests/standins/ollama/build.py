"""Make an archive with the layout of Ollama's release out of the stand-in, and its artifact.

    python -m tests.standins.ollama.build FOLDER [--version V] [--answer TEXT]

prints {x86_64: artifact} as infra_llm_engine_artifacts takes it, and writes it to FOLDER/V.json.
The llama.cpp inside is the wheel of the catalogue, fetched once and kept in FOLDER.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch
from tests.standins.zstd import compress

HERE = Path(__file__).parent


def build(folder: Path, version: str = "0.34.4", answer: str = "") -> dict[str, Any]:
    """The artifact of an archive in `folder`; `answer` is what it shall answer to everything."""
    machine = platform.machine()
    wheel = load_catalogue()["engines"]["llama.cpp"]["wheel"][machine]
    path = folder / wheel["filename"]
    fetch(wheel, str(path), Settings.from_dict({"index_urls": package_indexes()}))
    about = json.dumps({"version": version, "answer": answer}).encode()
    packed = compress(_tar(path, about))
    kind = hashlib.sha256(about).hexdigest()[:8]
    archive = folder / f"ollama-stand-in-{version}-{kind}.tar.zst"
    archive.write_bytes(packed)
    return {
        "name": "stand-in for Ollama",
        "version": version,
        "filename": archive.name,
        "sha256": hashlib.sha256(packed).hexdigest(),
        "size": len(packed),
        "licence": "MIT",
        "places": [{"kind": "path", "path": "/srv/artifacts"}],
    }


def _tar(wheel: Path, about: bytes) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as bundle, zipfile.ZipFile(wheel) as library:

        def add(name: str, data: bytes, mode: int = 0o644) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            bundle.addfile(info, io.BytesIO(data))

        add("./bin/ollama", (HERE / "ollama.py").read_bytes(), 0o755)
        for name in ("store.py", "runner.py", "server.py"):
            add(f"./lib/ollama/stand_in/{name}", (HERE / name).read_bytes())
        add("./lib/ollama/llama-server", (HERE / "llama_server.py").read_bytes(), 0o755)
        add("./lib/ollama/stand-in.json", about)
        for entry in library.infolist():
            if not entry.is_dir():
                add(f"./lib/ollama/python/{entry.filename}", library.read(entry))
    return whole.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", default="0.34.4")
    parser.add_argument("--answer", default="")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    artifact = build(given.folder, given.version, given.answer)
    text = json.dumps({platform.machine(): artifact})
    (given.folder / f"{given.version}.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
