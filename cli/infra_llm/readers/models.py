"""A model by path or address into a ModelProfile; never reads weights."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile
from infra_llm.readers.gguf_file import SPLIT_NAME, merge_parts, read_gguf, read_gguf_prefix
from infra_llm.readers.safetensors import read_folder

TIMEOUT_SECONDS = 30
MOST_PARTS = 200
Fetch = Callable[[str, "int | None"], tuple[bytes, int]]


def read_models(place: str) -> list[ModelProfile]:
    """One model, or every GGUF file of a folder (the quants of one model).

    Raises BadInputError as `read_model` does.
    """
    path = Path(place).expanduser()
    if not place.startswith(("http://", "https://")) and path.is_dir():
        files = [
            file
            for file in sorted(path.glob("*.gguf"))
            if not (match := SPLIT_NAME.match(file.name)) or match["part"] == "00001"
        ]
        if len(files) > 1:
            return [read_gguf(file) for file in files]
    return [read_model(place)]


def read_model(place: str) -> ModelProfile:
    """Read a GGUF file or URL, or a folder or URL with config.json and safetensors.

    Raises BadInputError where nothing readable is there.
    """
    if place.startswith(("http://", "https://")):
        return read_remote(place)
    path = Path(place).expanduser()
    if not path.exists():
        raise BadInputError(
            "no such file or folder",
            where=place,
            hint="give a .gguf file, a folder with config.json, or an address of either",
        )
    if path.is_dir():
        parts = sorted(path.glob("*.gguf"))
        if parts and not (path / "config.json").exists():
            return read_gguf(parts[0])
        return read_folder(lambda name: _local(path / name), place)
    return read_gguf(path)


def read_remote(address: str, fetch: Fetch | None = None) -> ModelProfile:
    """Read a header over HTTP by range requests: a few MiB of a file of any size."""
    get = fetch or http_fetch
    name = address.split("?", 1)[0].rsplit("/", 1)[-1]
    if not name.endswith(".gguf"):
        base = address.rstrip("/")

        def one(file: str) -> bytes | None:
            try:
                return get(f"{base}/{file}", None)[0]
            except BadInputError:
                return None

        return read_folder(one, address)
    split = SPLIT_NAME.match(name)
    count = int(split["parts"]) if split else 1
    if count > MOST_PARTS:
        raise BadInputError(f"{count} parts", where=address)
    parts = []
    for number in range(1, count + 1):
        part = address
        if split:
            part = address.replace(name, f"{split['stem']}-{number:05}-of-{count:05}.gguf")
        total = get(part, 1)[1]
        parts.append(read_gguf_prefix(lambda size, at=part: get(at, size)[0], total))  # type: ignore[misc]
    return merge_parts(parts) if len(parts) > 1 else parts[0]


def http_fetch(address: str, first: int | None) -> tuple[bytes, int]:
    """The first bytes of a file and its full size (all of it where `first` is None)."""
    # Only http and https reach this: read_model looks at the scheme.
    request = urllib.request.Request(address)  # noqa: S310
    if first is not None:
        request.add_header("Range", f"bytes=0-{first - 1}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            data = answer.read() if first is None else answer.read(first)
            span = answer.headers.get("Content-Range", "")
            size = span.rpartition("/")[2]
            total = int(size) if size.isdigit() else int(answer.headers.get("Content-Length") or 0)
    except urllib.error.HTTPError as error:
        raise BadInputError(
            f"HTTP {error.code}", where=address, hint="check the address"
        ) from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"can't be read: {error}", where=address) from error
    return data, total or len(data)


def _local(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.suffix == ".json" else _prefix(path)
    except OSError:
        return None


def _prefix(path: Path) -> bytes:
    """A safetensors file's header with its 8-byte length."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        return start + file.read(min(length, 64 << 20))
