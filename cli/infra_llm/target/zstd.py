"""Read zstd-compressed files with the system's own library.

Standard library, Python 3.8: Python's own module came with 3.14, and the program zstd is not in
every minimal distribution. libzstd is: dpkg and rpm are linked with it.
Source: zstd.h of zstd 1.5, "Streaming decompression - HowTo"; the functions are of its stable part.
"""

from __future__ import annotations

import ctypes
import io
from typing import IO, Any, Optional

from ..core.errors import HostFailedError

LIBRARY = "libzstd.so.1"
_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer, which have the same fields."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("position", ctypes.c_size_t),
    )


def is_zstd(path: str) -> bool:
    """Whether a file begins with a zstd frame. Raises OSError."""
    with open(path, "rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def _library() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise HostFailedError(
            "{} is missing".format(LIBRARY), hint="install the package libzstd1 (libzstd on RHEL)"
        ) from error
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_freeDStream.argtypes = (ctypes.c_void_p,)
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    library.ZSTD_decompressStream.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Buffer),
        ctypes.POINTER(_Buffer),
    )
    library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
    library.ZSTD_getErrorName.argtypes = (ctypes.c_size_t,)
    library.ZSTD_getErrorName.restype = ctypes.c_char_p
    return library


class ZstdReader(io.RawIOBase):
    """The decompressed bytes of `source`, once from start to end.

    Raises HostFailedError without the library, EOFError for a file that is cut off and OSError
    for a damaged one.
    """

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__()
        self._source = source
        self._library = _library()
        self._stream: Optional[int] = self._library.ZSTD_createDStream()
        self._packed = ctypes.create_string_buffer(_CHUNK)
        self._input = _Buffer(ctypes.addressof(self._packed), 0, 0)
        self._unfinished = 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        """Fill `target`, a writable buffer, with at least one byte; 0 at the end."""
        view = memoryview(target).cast("B")
        if not len(view):
            return 0
        space = (ctypes.c_char * len(view)).from_buffer(view)
        output = _Buffer(ctypes.addressof(space), len(view), 0)
        while not output.position:
            ended = self._input.position == self._input.size and not self._refill()
            if ended and not self._unfinished:
                return 0
            # Also at the end of the input: more may be left inside the decoder.
            self._step(output)
            if ended and not output.position:
                raise EOFError("the zstd archive is cut off")
        return int(output.position)

    def _step(self, output: _Buffer) -> None:
        done = self._library.ZSTD_decompressStream(
            self._stream, ctypes.byref(output), ctypes.byref(self._input)
        )
        if self._library.ZSTD_isError(done):
            reason = self._library.ZSTD_getErrorName(done).decode("ascii", "replace")
            raise OSError("zstd: {}".format(reason))
        self._unfinished = done

    def _refill(self) -> bool:
        chunk = self._source.read(_CHUNK)
        ctypes.memmove(self._packed, chunk, len(chunk))
        self._input.size, self._input.position = len(chunk), 0
        return bool(chunk)

    def close(self) -> None:
        if self._stream:
            self._library.ZSTD_freeDStream(self._stream)
            self._stream = None
        super().close()
