"""Unpack a zip, wheel or tar into a folder: whole or not at all, and never outside of it.

Standard library, Python 3.8 (tarfile's own extraction filters came later).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from typing import IO, Any, Dict, Iterable, Iterator, Optional, Tuple

from ..core.errors import HostFailedError
from .artifacts import require_space, sync_folder
from .sealed import seal
from .transport import PlaceRefusedError
from .zstd import ZstdReader, is_zstd

MARKER = ".infra-llm-artifact.json"
"""In each unpacked folder: which artifact it is, {"name", "version", "filename", "sha256"}."""

_STREAM_CHUNK = 1 << 20
_Entry = Tuple[str, Any]
"""Path parts below the folder joined by "/", and the archive's own record."""


def read_marker(folder: str) -> Dict[str, Any]:
    """What was unpacked into `folder`, {} when nothing of ours was."""
    try:
        with open(os.path.join(folder, MARKER), encoding="utf-8") as stream:
            data = json.load(stream)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def unpack(archive: str, folder: str, artifact: Dict[str, Any], strip_components: int = 0) -> None:
    """Unpack `archive` so that `folder` holds exactly its content, the marker and a list of it.

    It is unpacked into a sibling folder, which then takes the name; what was there before is
    removed last. Raises HostFailedError (damaged or hostile archive, disk full); then `folder`
    is as it was.
    """
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".{}.".format(os.path.basename(folder)), dir=parent)
    try:
        _unpack_into(archive, temporary, strip_components)
        _finish(temporary)
        keys = ("name", "version", "filename", "sha256")
        with open(os.path.join(temporary, MARKER), "w", encoding="utf-8") as stream:
            json.dump({key: artifact.get(key) for key in keys}, stream, sort_keys=True)
        seal(temporary)
        _swap(temporary, os.path.abspath(folder))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise HostFailedError("can't unpack: {}".format(error), where=archive) from error
    except PlaceRefusedError as error:
        raise HostFailedError(str(error), where=archive, hint="free disk space there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place(source: str, folder: str) -> None:
    """Write down what `source` holds, and give it the name `folder`; what was there goes last.

    Both are on one file system. Raises HostFailedError; then `folder` is as it was.
    """
    try:
        seal(source)
        _swap(os.path.abspath(source), os.path.abspath(folder))
    except OSError as error:
        raise HostFailedError(
            "can't put it in place: {}".format(error.strerror), where=source
        ) from error


def _swap(temporary: str, folder: str) -> None:
    old: Optional[str] = None
    if os.path.lexists(folder):
        old = tempfile.mkdtemp(prefix=".old.", dir=os.path.dirname(folder))
        os.rename(folder, os.path.join(old, "folder"))
    try:
        os.rename(temporary, folder)
    except OSError:
        if old is not None:
            os.rename(os.path.join(old, "folder"), folder)
        raise
    finally:
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    sync_folder(os.path.dirname(folder))


def _unpack_into(archive: str, folder: str, strip: int) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            _unpack_zip(bundle, folder, strip)
    elif is_zstd(archive):
        with open(archive, "rb") as packed, tarfile.open(
            fileobj=ZstdReader(packed), mode="r|", bufsize=_STREAM_CHUNK
        ) as bundle:
            # A stream is read once: how much it will be is only known at its end.
            _unpack_tar(folder, _tar_entries(bundle, strip), strip, bundle, each=True)
    else:
        with tarfile.open(archive) as bundle:
            entries = list(_tar_entries(bundle.getmembers(), strip))
            require_space(folder, sum(info.size for _, info in entries if info.isreg()))
            _unpack_tar(folder, entries, strip, bundle)


def _finish(folder: str) -> None:
    """Make folders readable whatever the umask, and check the links once all are there."""
    for path, folders, files in os.walk(folder):
        os.chmod(path, 0o755)  # noqa: S103 - the engine runs as another user than root
        for name in folders + files:
            entry = os.path.join(path, name)
            if os.path.islink(entry) and not _is_below(os.path.realpath(entry), folder):
                raise HostFailedError("the archive links outside its folder: {!r}".format(name))


def _unpack_zip(bundle: zipfile.ZipFile, folder: str, strip: int) -> None:
    entries = [(_relative(info.filename, strip), info) for info in bundle.infolist()]
    require_space(folder, sum(info.file_size for _, info in entries))
    for relative, info in entries:
        if not relative:
            continue
        path = _inside(folder, relative)
        mode = info.external_attr >> 16
        if info.is_dir():
            os.makedirs(path, exist_ok=True)
        elif stat.S_ISLNK(mode):
            _link(folder, path, bundle.read(info).decode("utf-8", "surrogateescape"))
        else:
            with bundle.open(info) as stream:
                _write(path, stream, mode)


def _unpack_tar(
    folder: str,
    entries: Iterable[_Entry],
    strip: int,
    bundle: tarfile.TarFile,
    each: bool = False,
) -> None:
    """`each`: look for disk space before each file."""
    for relative, info in entries:
        path = _inside(folder, relative)
        if each and info.isreg():
            require_space(folder, info.size)
        if info.isdir():
            os.makedirs(path, exist_ok=True)
        elif info.issym():
            _link(folder, path, info.linkname)
        elif info.islnk():
            _make_parents(path)
            os.link(_inside(folder, _relative(info.linkname, strip)), path)
        else:
            stream = bundle.extractfile(info)
            if stream is not None:
                with stream:
                    _write(path, stream, info.mode)


def _tar_entries(members: Iterable[tarfile.TarInfo], strip: int) -> Iterator[_Entry]:
    for info in members:
        if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            raise HostFailedError("the archive holds a device or pipe: {}".format(info.name))
        relative = _relative(info.name, strip)
        if relative:
            yield relative, info


def _relative(name: str, strip: int) -> str:
    """The path of an entry below the folder, "" for one that is stripped away."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or (parts and ":" in parts[0]):
        raise HostFailedError("the archive reaches outside its folder: {!r}".format(name))
    return "/".join(parts[strip:])


def _inside(folder: str, relative: str) -> str:
    """The path to write, after making sure that no link on the way leads outside."""
    path = os.path.join(folder, relative)
    if not _is_below(os.path.realpath(os.path.dirname(path)), folder):
        raise HostFailedError("the archive reaches outside its folder: {!r}".format(relative))
    return path


def _is_below(path: str, folder: str) -> bool:
    root = os.path.realpath(folder)
    return path == root or path.startswith(root + os.sep)


def _link(folder: str, path: str, target: str) -> None:
    where = os.path.realpath(os.path.join(os.path.dirname(path), target))
    if os.path.isabs(target) or not _is_below(where, folder):
        raise HostFailedError("the archive links outside its folder: {!r}".format(target))
    _make_parents(path)
    _make_room(path)
    os.symlink(target, path)


def _write(path: str, stream: IO[bytes], mode: int) -> None:
    _make_parents(path)
    _make_room(path)
    with open(path, "wb") as out:
        shutil.copyfileobj(stream, out, 1024 * 1024)
    # No set-id bits; readable whatever the packer's umask was: the engine runs as another user.
    os.chmod(path, (mode & 0o755) | 0o644)


def _make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)


def _make_room(path: str) -> None:
    """An entry that comes twice replaces the first, and is never written through a link."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
