"""What belongs into a folder that was unpacked or built; kept in it, so that damage is found later.

Standard library, Python 3.8. The list is `{relative path: "0755 SHA256" or "-> TARGET"}`. Links
that lead out of the folder are left out: they belong to whoever set them.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Dict, Iterator

from .artifacts import file_sha256

LISTING = ".infra-llm-files.json"


def seal(folder: str) -> None:
    """Write down what is in `folder` now. Raises OSError."""
    found = {name: _what(folder, name) for name in _names(folder)}
    with open(os.path.join(folder, LISTING), "w", encoding="utf-8") as stream:
        json.dump(found, stream, indent=0, sort_keys=True)


def damage(folder: str) -> str:
    """The first thing that is not as it was when the folder was sealed, in words; "" for none.

    Every file is read. What does not belong is damage, too: an engine loads what lies beside it.
    """
    listing = read_listing(folder)
    if not listing:
        return "it has no list of its files"
    for name, wanted in sorted(listing.items()):
        try:
            found = _what(folder, name)
        except FileNotFoundError:
            return "{} is missing".format(name)
        except OSError as error:
            return "{} can't be read: {}".format(name, error.strerror)
        if found != wanted:
            return "{} was edited".format(name)
    strange = sorted(set(_names(folder)) - set(listing))
    return "{} does not belong there".format(strange[0]) if strange else ""


def read_listing(folder: str) -> Dict[str, str]:
    """What `seal` wrote down, {} where it did not or it can't be read."""
    try:
        with open(os.path.join(folder, LISTING), encoding="utf-8") as stream:
            data = json.load(stream)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _names(folder: str) -> Iterator[str]:
    """Files and links below, without the list and what Python compiles for itself."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for entry in (os.path.join(path, name) for name in folders + files):
            name = os.path.relpath(entry, folder)
            linked = os.path.islink(entry)
            if (linked and _leads_out(folder, entry)) or name == LISTING:
                continue
            if linked or not os.path.isdir(entry):
                yield name


def _leads_out(folder: str, link: str) -> bool:
    target = os.path.join(os.path.dirname(link), os.readlink(link))
    inside = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    return inside.split(os.sep)[0] == os.pardir


def _what(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return "-> {}".format(os.readlink(path))
    return "{:04o} {}".format(stat.S_IMODE(status.st_mode), file_sha256(path))
