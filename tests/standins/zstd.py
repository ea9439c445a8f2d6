"""Pack with the system's libzstd: what a test needs to make an archive of upstream's kind."""

from __future__ import annotations

import ctypes

_LEVEL = 1


def compress(data: bytes) -> bytes:
    """One zstd frame (zstd.h, ZSTD_compress)."""
    library = ctypes.CDLL("libzstd.so.1")
    for name in ("ZSTD_compressBound", "ZSTD_compress"):
        getattr(library, name).restype = ctypes.c_size_t
    library.ZSTD_compressBound.argtypes = (ctypes.c_size_t,)
    library.ZSTD_compress.argtypes = (
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    )  # fmt: skip
    room = library.ZSTD_compressBound(len(data))
    packed = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(packed, room, data, len(data), _LEVEL)
    if size > room:
        raise ValueError(f"ZSTD_compress failed on {len(data)} bytes")
    return packed.raw[:size]
