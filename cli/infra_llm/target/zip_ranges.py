"""The head of one file inside a remote zip (a wheel), without fetching the whole zip.

Standard library, Python 3.8. With range support: the central directory from the end, then only
the first blocks of the member. Without it: the zip is read from its start and the connection is
closed as soon as enough of the member was seen.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any, Dict

from .transport import PlaceRefusedError, Response, Settings, TransferBrokenError, open_url

_BLOCK = 512 * 1024


class NoRangesError(Exception):
    """The server ignores the Range header."""


class RangeFile(io.RawIOBase):
    """A seekable, read-only view of a remote file of known `size` (bytes), in cached blocks."""

    def __init__(self, url: str, size: int, settings: Settings) -> None:
        super().__init__()
        self._url, self._size, self._settings = url, size, settings
        self._position = 0
        self._blocks: Dict[int, bytes] = {}
        self.bytes_fetched = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        index, offset = divmod(self._position, _BLOCK)
        data = self._block(index)[offset : offset + wanted]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _block(self, index: int) -> bytes:
        if index not in self._blocks:
            start = index * _BLOCK
            end = min(start + _BLOCK, self._size)
            self._blocks[index] = self._fetch(start, end)
        return self._blocks[index]

    def _fetch(self, start: int, end: int) -> bytes:
        headers = {"Range": "bytes={}-{}".format(start, end - 1)}
        with open_url(self._url, self._settings, headers) as response:
            if response.status != 206:
                raise NoRangesError()
            if response.total_size() not in (None, self._size):
                text = "it serves {} bytes, the catalogue says {}"
                raise PlaceRefusedError(text.format(response.total_size(), self._size))
            data = read_at_most(response, end - start)
        if len(data) != end - start:
            raise TransferBrokenError("the connection ended early")
        self.bytes_fetched += len(data)
        return data


def read_at_most(response: Response, length: int) -> bytes:
    """Read up to `length` bytes of an answer, fewer at its end."""
    chunks = []
    while length > 0:
        data = response.read_some(min(length, 1 << 20))
        if not data:
            break
        chunks.append(data)
        length -= len(data)
    return b"".join(chunks)


def member_prefix(url: str, size: int, member: str, length: int, settings: Settings) -> bytes:
    """The first `length` bytes of `member` in the zip at `url` (`size` bytes as a whole).

    Raises PlaceRefusedError or TransferBrokenError.
    """
    try:
        remote: Any = RangeFile(url, size, settings)
        with zipfile.ZipFile(io.BufferedReader(remote)) as archive, archive.open(member) as stream:
            return stream.read(length)
    except NoRangesError:
        with open_url(url, settings) as response:
            return stream_member(response, member, length)
    except KeyError as error:
        raise PlaceRefusedError("the wheel holds no {}".format(member)) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise PlaceRefusedError("not a readable zip: {}".format(error)) from error


def stream_member(response: Response, member: str, length: int) -> bytes:
    """The first `length` bytes of `member`, read from the start of a zip without seeking.

    Local file headers follow each other (APPNOTE 4.3.7). A member written with a data
    descriptor tells no size, but a deflate stream knows its own end.
    """
    stream = _Pushback(response)
    while True:
        header = stream.take(30)
        if header[:4] != b"PK\x03\x04":
            raise PlaceRefusedError("the wheel holds no {}".format(member))
        flags, method = struct.unpack("<HH", header[6:10])
        packed, unpacked, name_length, extra_length = struct.unpack("<IIHH", header[18:30])
        name = stream.take(name_length).decode("utf-8", "replace")
        packed = _packed_size(packed, unpacked, stream.take(extra_length))
        wanted = name == member
        if method == zipfile.ZIP_DEFLATED:
            data = _inflate(stream, length if wanted else 0, stop=wanted)
        elif method == zipfile.ZIP_STORED and not flags & 8:
            data = stream.take(min(length, packed)) if wanted else stream.skip(packed)
        else:
            raise PlaceRefusedError("{} in the wheel can only be read with ranges".format(name))
        if wanted:
            return data
        if flags & 8:
            _skip_descriptor(stream)


def _packed_size(packed: int, unpacked: int, extra: bytes) -> int:
    """The compressed size, from the zip64 extra field where the header says so (4.5.3)."""
    while packed == 0xFFFFFFFF and len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == 1:
            start = 4 + (8 if unpacked == 0xFFFFFFFF else 0)
            return int(struct.unpack("<Q", extra[start : start + 8])[0])
        extra = extra[4 + size :]
    return packed


def _inflate(stream: _Pushback, length: int, stop: bool) -> bytes:
    """Inflate a member: its first `length` bytes; to its end unless `stop`."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    found = bytearray()
    while not inflater.eof and not (stop and len(found) >= length):
        data = stream.some()
        if not data:
            raise TransferBrokenError("the connection ended early")
        try:
            out = inflater.decompress(data)
        except zlib.error as error:
            raise PlaceRefusedError("not a readable zip: {}".format(error)) from error
        if len(found) < length:
            found += out
    stream.give_back(inflater.unused_data)
    return bytes(found[:length])


def _skip_descriptor(stream: _Pushback) -> None:
    """Skip a data descriptor (4.3.9): optional signature, CRC, two sizes of 4 or 8 bytes."""
    head = stream.take(4)
    stream.give_back(head)
    start = 4 if head == b"PK\x07\x08" else 0
    data = stream.take(start + 20 + 4)
    for end in (start + 12, start + 20):
        if data[end : end + 2] == b"PK":
            stream.give_back(data[end:])
            return
    raise PlaceRefusedError("not a readable zip: a data descriptor is damaged")


class _Pushback:
    """Bytes of an answer, with some given back."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._held = b""

    def some(self) -> bytes:
        data, self._held = self._held, b""
        return data or self._response.read_some(1 << 16)

    def give_back(self, data: bytes) -> None:
        self._held = data + self._held

    def take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.some()
            if not more:
                raise TransferBrokenError("the connection ended early")
            data += more
        self.give_back(data[length:])
        return data[:length]

    def skip(self, length: int) -> bytes:
        while length > 0:
            length -= len(self.take(min(length, 1 << 20)))
        return b""


def local_member_prefix(path: str, member: str, length: int) -> bytes:
    """The first `length` bytes of `member` in a zip on disk. Raises PlaceRefusedError."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            return stream.read(length)
    except KeyError as error:
        raise PlaceRefusedError("{} holds no {}".format(path, member)) from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PlaceRefusedError("{}: {}".format(path, error)) from error
