"""Stand-ins for GPUs in a guest: files that tests/standins/install.py makes for a machine."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.backend import Backend
from tests.lab.config import TREE, Host, LabError
from tests.lab.system import ensure_tools, run

INSTALLER = TREE / "tests" / "standins" / "install.py"
# Mounts the tree of the stand-in over the guest's own /sys and /proc/driver.
UNIT = "infra-llm-standin.service"
RECORD = "var/lib/infra-llm-standin/files.json"


def install(backend: Backend, host: Host, machine: str) -> None:
    """Give a running guest the GPU set of a machine in place of the one it has; "none" for none."""
    with tempfile.TemporaryDirectory(prefix="infra-llm-gpus-") as name:
        root = Path(name)
        if machine != "none":
            if not INSTALLER.exists():
                raise LabError(f"no GPU stand-ins in this tree ({INSTALLER.relative_to(TREE)})")
            ensure_tools(("cc",))
            argv = [sys.executable, str(INSTALLER), "--machine", machine, "--root", str(root)]
            run(argv, timeout=300)
        _remove(backend, host)
        if machine != "none":
            backend.put(host, pack(root, _missing(backend, host, folders_of(root))))
            backend.execute(host, ["systemctl", "daemon-reload"])
            backend.execute(host, ["systemctl", "start", UNIT])


def folders_of(root: Path) -> list[str]:
    """Folders below the root; a link to a folder is a file."""
    found = (path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
    return [str(path.relative_to(root)) for path in found]


def pack(root: Path, new_folders: Sequence[str]) -> bytes:
    """The files of a set as a tar, with the record that a later swap removes them by."""
    files = [path for path in sorted(root.rglob("*")) if path.is_symlink() or not path.is_dir()]
    names = [str(path.relative_to(root)) for path in files]
    record = json.dumps({"files": names, "folders": sorted(new_folders)}).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        # Only the folders that the guest lacks: the mode of /tmp, for one, is its own.
        for name in [*sorted(new_folders), *names]:
            tar.add(root / name, name, recursive=False, filter=_of_root)
        entry = tarfile.TarInfo(RECORD)
        entry.size, entry.mode = len(record), 0o644
        tar.addfile(entry, io.BytesIO(record))
    return buffer.getvalue()


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    return entry


def _missing(backend: Backend, host: Host, folders: Sequence[str]) -> list[str]:
    script = 'for name; do [ -d "/$name" ] || echo "$name"; done'
    found = [backend.execute(host, ["sh", "-c", script, "sh", *part]) for part in _parts(folders)]
    return [line for text in found for line in text.splitlines()]


def _remove(backend: Backend, host: Host) -> None:
    text = backend.execute(host, ["sh", "-c", f"cat /{RECORD} 2>/dev/null || echo '{{}}'"])
    record = json.loads(text)
    if record:
        backend.execute(host, ["systemctl", "stop", UNIT])
    for part in _parts(record.get("files", [])):
        backend.execute(host, ["rm", "-f", "--", *(f"/{name}" for name in part)])
    # An empty folder in sysfs would still name a GPU. Children come first.
    for part in _parts(sorted(record.get("folders", []), reverse=True)):
        script = 'for name; do rmdir "/$name" 2>/dev/null || true; done'
        backend.execute(host, ["sh", "-c", script, "sh", *part])
    if record:
        backend.execute(host, ["rm", "-f", f"/{RECORD}"])
        backend.execute(host, ["systemctl", "daemon-reload"])


def _parts(names: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
