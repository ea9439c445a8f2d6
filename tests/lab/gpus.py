"""Stand-ins for GPUs in a guest: files that tests/standins/install.py makes for a machine."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.lab.backend import Backend
from tests.lab.config import TREE, Host, LabError
from tests.lab.system import run

INSTALLER = TREE / "tests" / "standins" / "install.py"
RECORD = "var/lib/infra-llm-standin/files.json"


def install(backend: Backend, host: Host, machine: str) -> None:
    """Give a running guest the GPU set of a machine in place of the one it has; "none" for none."""
    with tempfile.TemporaryDirectory(prefix="infra-llm-gpus-") as name:
        root = Path(name)
        if machine != "none":
            if not INSTALLER.exists():
                raise LabError(f"no GPU stand-ins in this tree ({INSTALLER.relative_to(TREE)})")
            argv = [sys.executable, str(INSTALLER), "--machine", machine, "--root", str(root)]
            run(argv, timeout=300)
        _remove(backend, host)
        if machine != "none":
            backend.put(host, pack(root))


def pack(root: Path) -> bytes:
    """The files of a set as a tar, with the list that a later swap removes them by."""
    files = [path for path in sorted(root.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [str(path.relative_to(root)) for path in files]
    record = json.dumps(names).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        # No folders: their mode in the guest, /tmp's for one, is the guest's own.
        for path, name in zip(files, names, strict=True):
            tar.add(path, name, recursive=False, filter=_of_root)
        entry = tarfile.TarInfo(RECORD)
        entry.size, entry.mode = len(record), 0o644
        tar.addfile(entry, io.BytesIO(record))
    return buffer.getvalue()


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry


def _remove(backend: Backend, host: Host) -> None:
    text = backend.execute(host, ["sh", "-c", f"cat /{RECORD} 2>/dev/null || echo '[]'"])
    names = json.loads(text)
    for start in range(0, len(names), 500):
        backend.execute(host, ["rm", "-f", "--", *(f"/{n}" for n in names[start : start + 500])])
    # Empty folders would still name GPUs that are gone.
    folders = sorted({str(p) for n in names for p in Path(n).parents if str(p) != "."}, key=len)
    if folders:
        backend.execute(
            host,
            ["rmdir", "--ignore-fail-on-non-empty", "--", *(f"/{f}" for f in reversed(folders))],
        )
        backend.execute(host, ["rm", "-f", f"/{RECORD}"])
