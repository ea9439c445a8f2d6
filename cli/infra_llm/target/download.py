"""One resumable, verified transfer of known content into a part file.

Standard library, Python 3.8. The content is pinned by sha256 and size, so a part may be
resumed from any place: a wrong prefix shows in the hash, and then it starts again from zero.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import IO, Any, Callable, Dict, Optional

from .transport import PlaceRefusedError, Response, Settings, TransferBrokenError, open_url

CHUNK = 1024 * 1024
_PROGRESS_THAT_COUNTS = 1024 * 1024
_SLOWEST_BYTES_PER_SECOND = 1024

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True)
class Source:
    """One address that serves content of a known size (bytes) and sha256."""

    url: str
    sha256: str
    size: int


@dataclass
class Transfer:
    bytes_downloaded: int = 0
    resumed: bool = False


class WrongContentError(Exception):
    """The place serves something else than the catalogue says."""


class PartFile:
    """`PATH`, the bytes so far, and `PATH.json`, where they came from. Locked while open."""

    def __init__(self, path: str, sha256: str) -> None:
        self.path = path
        self.record: Dict[str, Any] = _read_record(path + ".json")
        self._sha256 = sha256
        self.stream: IO[bytes] = open(path, "ab+")  # noqa: SIM115 - close() below
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.stream.close()
            raise PlaceRefusedError("another process is writing {}".format(path)) from error
        self.length = 0
        self._digest = hashlib.sha256()
        if self.record.get("sha256") == sha256:
            self._hash_what_is_there()
        else:
            self.restart()

    def _hash_what_is_there(self) -> None:
        self.stream.seek(0)
        for chunk in iter(lambda: self.stream.read(CHUNK), b""):
            self._digest.update(chunk)
            self.length += len(chunk)

    def restart(self) -> None:
        """Forget everything received so far."""
        self.stream.truncate(0)
        self.length = 0
        self._digest = hashlib.sha256()
        self.record = {}

    def belongs_to(self, url: str, response: Response) -> None:
        """Note where the coming bytes are from, and the validators to resume with."""
        self.record = {
            "sha256": self._sha256,
            "url": url,
            "etag": response.headers.get("etag", ""),
            "last_modified": response.headers.get("last-modified", ""),
        }
        # The address may hold a password.
        handle = os.open(self.path + ".json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(handle, 0o600)
            json.dump(self.record, stream)

    def append(self, data: bytes) -> None:
        self.stream.write(data)
        self._digest.update(data)
        self.length += len(data)

    def is_right(self) -> bool:
        return self._digest.hexdigest() == self._sha256

    def close(self) -> None:
        """Flush to disk and let go; the part stays."""
        try:
            self.stream.flush()
            os.fsync(self.stream.fileno())
        finally:
            self.stream.close()


def drop_part(path: str) -> None:
    """Remove a part file and its record, if they are there."""
    for name in (path, path + ".json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _read_record(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            data = json.load(stream)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def download(
    source: Source, path: str, settings: Settings, progress: Optional[Progress] = None
) -> Transfer:
    """Bring the content of `source` to the part file `path`, whole and verified.

    Raises PlaceRefusedError, WrongContentError (the part is dropped) or TransferBrokenError
    (the part stays for the next run).
    """
    transfer = Transfer()
    try:
        part = PartFile(path, source.sha256)
    except OSError as error:
        raise _disk_error(error, path) from error
    try:
        transfer.resumed = part.length > 0
        _fill(part, source, settings, transfer, progress)
    except OSError as error:
        raise _disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            part.close()
        if part.length == 0:
            drop_part(path)
    return transfer


def _fill(
    part: PartFile,
    source: Source,
    settings: Settings,
    transfer: Transfer,
    progress: Optional[Progress],
) -> None:
    failures = 0
    while True:
        before = part.length
        try:
            if part.length < source.size:
                _attempt(part, source, settings, transfer, progress)
            if part.is_right():
                return
            started_from_zero = before == 0
            part.restart()
            if started_from_zero:
                raise WrongContentError(
                    "sha256 differs from the catalogue's {}".format(source.sha256)
                )
            transfer.resumed = False
        except TransferBrokenError as error:
            failures = 0 if part.length - before >= _PROGRESS_THAT_COUNTS else failures + 1
            if failures >= settings.attempts:
                text = "{}, {} times; {} of {} bytes arrived"
                raise TransferBrokenError(
                    text.format(error, failures, part.length, source.size)
                ) from error
            time.sleep(settings.backoff_seconds * 2 ** max(0, failures - 1))


def _attempt(
    part: PartFile,
    source: Source,
    settings: Settings,
    transfer: Transfer,
    progress: Optional[Progress],
) -> None:
    headers = {}
    if part.length:
        headers["Range"] = "bytes={}-".format(part.length)
        validator = _validator(part.record)
        if validator and part.record.get("url") == source.url:
            headers["If-Range"] = validator
    with open_url(source.url, settings, headers) as response:
        _check_answer(part, source, response)
        part.belongs_to(source.url, response)
        _stream(part, source, response, settings, transfer, progress)
    if part.length < source.size:
        raise TransferBrokenError("the connection ended early")


def _validator(record: Dict[str, Any]) -> str:
    """What If-Range may carry: a strong entity tag or a date (RFC 9110, 13.1.5)."""
    etag = str(record.get("etag") or "")
    return etag if etag.startswith('"') else str(record.get("last_modified") or "")


def _check_answer(part: PartFile, source: Source, response: Response) -> None:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding not in ("", "identity"):
        raise PlaceRefusedError("the server sends the content as {}".format(encoding))
    total = response.total_size()
    if total is not None and total != source.size:
        part.restart()
        text = "it serves {} bytes, the catalogue says {}"
        raise WrongContentError(text.format(total, source.size))
    if response.status == 206:
        content_range = response.content_range()
        if content_range is None or content_range[0] != part.length:
            part.restart()
            raise TransferBrokenError("the server answered with another range than asked for")
    elif part.length and not _skip(part, response):
        part.restart()


def _skip(part: PartFile, response: Response) -> bool:
    """Go to where the part ends in a local file; True when that worked."""
    if response.url.startswith(("http://", "https://")):
        return False
    response.stream.seek(part.length)
    return True


def _stream(
    part: PartFile,
    source: Source,
    response: Response,
    settings: Settings,
    transfer: Transfer,
    progress: Optional[Progress],
) -> None:
    window_start, window_bytes = time.monotonic(), 0
    while True:
        data = response.read_some(CHUNK)
        if not data:
            return
        if part.length + len(data) > source.size:
            part.restart()
            raise WrongContentError(
                "it serves more than the catalogue's {} bytes".format(source.size)
            )
        part.append(data)
        transfer.bytes_downloaded += len(data)
        window_bytes += len(data)
        if progress is not None:
            progress(part.length, source.size)
        # A server that drips a byte now and then never meets the read time-out.
        elapsed = time.monotonic() - window_start
        if elapsed > settings.read_seconds:
            if window_bytes < elapsed * _SLOWEST_BYTES_PER_SECOND:
                raise TransferBrokenError("slower than 1 KiB/s")
            window_start, window_bytes = time.monotonic(), 0


def _disk_error(error: OSError, path: str) -> PlaceRefusedError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PlaceRefusedError("the disk of {} is full".format(os.path.dirname(path)))
    return PlaceRefusedError("{}: {}".format(error.filename or path, error.strerror or error))
