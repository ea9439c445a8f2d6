"""A model by path or address into a ModelProfile; never reads weights."""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import SPLIT_NAME, merge_parts, read_gguf, read_gguf_prefix
from infra_llm.readers.safetensors import FIRST_BYTES, MOST_HEADER, read_folder

TIMEOUT_SECONDS = 30
MOST_PARTS = 200
NOT_THERE = (403, 404, 410)
"""Answers for a file that an address does not have; some stores refuse (403) what they lack."""
GIVE = "give a .gguf file, a folder with config.json, or an address of either"
Fetch = Callable[[str, "int | None"], tuple[bytes, int]]
"""The first bytes of a file and its full size (0 where the server does not say); all of it where
no number is given. Raises NotThereError, BadInputError."""


class NotThereError(BadInputError):
    """The address has no such file."""


def read_models(place: str) -> list[ModelProfile]:
    """One model, or every GGUF file of a folder (the quants of one model).

    Raises BadInputError as `read_model` does.
    """
    if not _is_address(place):
        path = _existing(place)
        files = [
            file
            for file in (sorted(path.glob("*.gguf")) if path.is_dir() else ())
            if not (match := SPLIT_NAME.match(file.name)) or match["part"] == "00001"
        ]
        if len(files) > 1:
            return [read_gguf(file) for file in files]
    return [read_model(place)]


def read_model(place: str) -> ModelProfile:
    """Read a GGUF file or URL, or a folder or URL with config.json and safetensors.

    Raises BadInputError where nothing readable is there.
    """
    if _is_address(place):
        return read_remote(place)
    path = _existing(place)
    if path.is_dir():
        parts = sorted(path.glob("*.gguf"))
        if parts and not (path / "config.json").exists():
            return read_gguf(parts[0])
        return read_folder(lambda name: _local(path / name), place)
    return read_gguf(path)


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _existing(place: str) -> Path:
    """The path of a file or folder that is there. Raises BadInputError."""
    if not place.strip():
        raise BadInputError("the model's name is empty", hint=GIVE)
    try:
        path = Path(place).expanduser()
        if path.stat() and path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError:
        raise BadInputError("no such file or folder", where=place, hint=GIVE) from None
    except (OSError, RuntimeError, ValueError) as error:
        # A folder that may not be read, "~nobody", a name that no file can have.
        what = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"can't be read: {what}", where=place[:200], hint=GIVE) from error
    return path


def read_remote(address: str, fetch: Fetch | None = None) -> ModelProfile:
    """Read a header over HTTP by range requests: a few MiB of a file of any size."""
    get = fetch or http_fetch
    name = address.split("?", 1)[0].rsplit("/", 1)[-1]
    if not name.endswith(".gguf"):
        base = address.rstrip("/")
        return read_folder(lambda file: _remote(f"{base}/{file}", get), address)
    split = SPLIT_NAME.match(name)
    count = int(split["parts"]) if split else 1
    if count > MOST_PARTS:
        raise BadInputError(
            f"{count} parts", where=address, hint=f"models of at most {MOST_PARTS} parts are read"
        )
    parts = []
    for number in range(1, count + 1):
        part = address
        if split:
            part = address.replace(name, f"{split['stem']}-{number:05}-of-{count:05}.gguf")
        total = get(part, 1)[1]
        if not total:
            raise BadInputError(
                "the server does not say how large the file is",
                where=part,
                hint="download the file and give its path",
            )
        parts.append(read_gguf_prefix(lambda size, at=part: get(at, size)[0], total))  # type: ignore[misc]
    return merge_parts(parts) if len(parts) > 1 else parts[0]


def _remote(address: str, get: Fetch) -> tuple[bytes, int | None] | None:
    """A file of a folder: JSON whole, of safetensors the header."""
    try:
        if address.endswith(".json"):
            return get(address, None)[0], None
        start, total = get(address, FIRST_BYTES)
        length = 8 + int.from_bytes(start[:8], "little")
        if len(start) < length <= MOST_HEADER:
            start, total = get(address, length)
    except NotThereError:
        return None
    return start, total or None


def http_fetch(address: str, first: int | None) -> tuple[bytes, int]:
    """`Fetch` with urllib."""
    try:
        # Only http and https reach this: read_model looks at the scheme.
        request = urllib.request.Request(address)  # noqa: S310
        if first is not None:
            request.add_header("Range", f"bytes=0-{first - 1}")
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            data = answer.read() if first is None else answer.read(first)
            span = answer.headers.get("Content-Range", "").rpartition("/")[2]
            size = span or answer.headers.get("Content-Length", "")
            total = int(size) if size.isdecimal() else 0
    except urllib.error.HTTPError as error:
        kind = NotThereError if error.code in NOT_THERE else BadInputError
        raise kind(f"HTTP {error.code}", where=address, hint="check the address") from error
    except (OSError, ValueError, HTTPException) as error:
        raise BadInputError(
            f"can't be read: {getattr(error, 'reason', error)}",
            where=address,
            hint="check the address and the network, or download the model and give its path",
        ) from error
    return data, total


def _local(path: Path) -> tuple[bytes, int] | None:
    """A file of a folder: JSON whole, of safetensors the header, each with the file's size."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if path.suffix == ".json":
                return file.read(), size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            return start + file.read(min(length, MOST_HEADER)), size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(
            f"can't be read: {error.strerror or error}",
            where=str(path),
            hint="check the file and its permissions",
        ) from error
