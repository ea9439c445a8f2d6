"""API key and certificate of an endpoint, kept aside until a change of them is proven.

Runs on the target: standard library, Python 3.8. What is kept belongs to the state that the host
remembers, told by the hash of its state file. A run may be cut off at any point: the next one finds
either what it can go back to, or that another state was proven since.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import List

from ..core.errors import HostFailedError

FOLDER = "before"
NAMES = ("api-key", "tls/tls.crt", "tls/tls.key", "tls/ca.crt")
"""Below the folder of an instance's settings."""
_OF = "of"


def is_kept(etc: str) -> bool:
    """Whether something is kept aside: a run is at work, or was cut off."""
    return os.path.isdir(os.path.join(etc, FOLDER))


def keep(etc: str, state_file: str, check_mode: bool = False) -> bool:
    """Copy them aside; true when that is a change. Raises HostFailedError when it can't be done.

    Those that a run put aside which was cut off are given back first and stay aside: what lies in
    their place was never proven.
    """
    folder, of = os.path.join(etc, FOLDER), _state(state_file)
    try:
        if _is_of(folder, of):
            return _restore(etc, folder, check_mode)
        found = [name for name in NAMES if os.path.isfile(os.path.join(etc, name))]
        if not check_mode:
            shutil.rmtree(folder, ignore_errors=True)
            if found:
                _put_aside(etc, folder, found, of)
        return bool(found)
    except OSError as error:
        raise _failed("put aside", etc, error) from error


def give_back(etc: str, state_file: str, check_mode: bool = False) -> bool:
    """Put them back in their place; true when another key or certificate lay there, or none.

    Those of a state that another one came after stay out. Raises HostFailedError.
    """
    folder = os.path.join(etc, FOLDER)
    try:
        changed = _is_of(folder, _state(state_file)) and _restore(etc, folder, check_mode)
        if not check_mode and os.path.isdir(folder):
            shutil.rmtree(folder)
        return changed
    except OSError as error:
        raise _failed("given back", etc, error) from error


def forget(etc: str, state_file: str, check_mode: bool = False) -> bool:
    """Remove them once the host remembers another state; true when that is a change.

    After a failure they stay for as long as they were not given back. Raises HostFailedError.
    """
    folder = os.path.join(etc, FOLDER)
    try:
        if not os.path.isdir(folder) or _is_of(folder, _state(state_file)):
            return False
        if not check_mode:
            shutil.rmtree(folder)
        return True
    except OSError as error:
        raise _failed("removed", etc, error) from error


def _failed(what: str, etc: str, error: OSError) -> HostFailedError:
    return HostFailedError(
        "key and certificate can't be {}: {}".format(what, error.strerror),
        where=os.path.join(etc, FOLDER),
        hint="see that root can write there and that the disk has room, then run again",
    )


def _state(path: str) -> str:
    try:
        return hashlib.sha256(_read(path)).hexdigest()
    except FileNotFoundError:
        return ""


def _is_of(folder: str, of: str) -> bool:
    try:
        return _read(os.path.join(folder, _OF)).decode("ascii", "replace") == of
    except FileNotFoundError:
        return False


def _put_aside(etc: str, folder: str, names: List[str], of: str) -> None:
    """All of them or, when cut off, none: the folder gets its name at the end."""
    building = folder + ".new"
    shutil.rmtree(building, ignore_errors=True)
    for name in names:
        _write(os.path.join(building, name), _read(os.path.join(etc, name)))
    _write(os.path.join(building, _OF), of.encode("ascii"))
    os.rename(building, folder)


def _restore(etc: str, folder: str, check_mode: bool) -> bool:
    changed = False
    for name in NAMES:
        kept, place = os.path.join(folder, name), os.path.join(etc, name)
        if not os.path.isfile(kept):
            continue
        content = _read(kept)
        if not os.path.isfile(place) or _read(place) != content:
            changed = True
            if not check_mode:
                _write(place, content)
    return changed


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    """Whole or not at all, for root alone."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = path + ".new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
