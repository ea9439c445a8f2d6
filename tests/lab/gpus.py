"""Stand-ins for GPUs in a guest: files that tests/standins/install.py lays into its root."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.lab.backend import Backend
from tests.lab.config import TREE, Host, LabError
from tests.lab.system import run

INSTALLER = TREE / "tests" / "standins" / "install.py"


def install(backend: Backend, host: Host, machine: str) -> None:
    """Give a guest the GPU set of a machine; the set it had before is replaced, "none" takes it."""
    if not INSTALLER.exists():
        raise LabError(f"no GPU stand-ins in this tree ({INSTALLER.relative_to(TREE)})")
    with tempfile.TemporaryDirectory(prefix="infra-llm-gpus-") as name:
        root = Path(name)
        run([sys.executable, str(INSTALLER), "--machine", machine, "--root", str(root)])
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in sorted(root.rglob("*")):
                tar.add(path, str(path.relative_to(root)), recursive=False, filter=_of_root)
        backend.put(host, buffer.getvalue())


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry
