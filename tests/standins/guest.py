"""A running test host gets the GPUs of a machine: the files, then the mounts over its /sys."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

from tests.lab.backend import Backend
from tests.lab.config import Host
from tests.standins.install import install

APPLY = "/etc/infra-llm-standin/apply"


def swap(backend: Backend, host: Host, machine: str) -> None:
    """Replace the GPU set of a living guest; "none" takes it away."""
    backend.execute(host, ["sh", "-c", f"test ! -x {APPLY} || {APPLY} remove"])
    if machine != "none":
        backend.put(host, pack(machine))
        backend.execute(host, [APPLY, "start"])


def pack(machine: str) -> bytes:
    """The set of a machine as a tar of files and symbolic links, owned by root."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        install(machine, root)
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in sorted(_inside(root)):
                # No folders: their mode in the guest is the guest's own.
                tar.add(path, str(path.relative_to(root)), recursive=False, filter=_of_root)
    return buffer.getvalue()


def _inside(folder: Path) -> list[Path]:
    """Files and links below a folder; links to folders are not followed."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            found += _inside(path)
        else:
            found.append(path)
    return found


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
