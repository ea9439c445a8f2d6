"""The types of the tensors in a GGUF file, read from its header.

Standard library, Python 3.8, for hosts; the controller's reader (readers/gguf_file.py) knows more.
Layout: docs/gguf.md of ggml-org/ggml.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Dict

from ..core.errors import HostFailedError

NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K",
    11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 30: "BF16",
}  # fmt: skip
"""enum ggml_type, as far as a quantized file may have them."""
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> bytes."""
_STRING, _ARRAY = 8, 9
_MOST = 1 << 24
"""More keys, tensors or dimensions than any model has: the file is damaged."""


def tensor_types(path: str) -> Dict[str, str]:
    """Tensor name -> ggml's name of its type, "type 99" for one that is not known here.

    Raises HostFailedError for what is no complete header of GGUF.
    """
    try:
        with open(path, "rb") as stream:
            return _read(stream)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise HostFailedError("not a whole GGUF file ({})".format(error), where=path) from error
    except OSError as error:
        raise HostFailedError(error.strerror or str(error), where=path) from error


def _read(stream: BinaryIO) -> Dict[str, str]:
    magic, version, tensors, keys = struct.unpack("<4sIQQ", stream.read(24))
    if magic != b"GGUF" or version < 2 or tensors > _MOST or keys > _MOST:
        raise ValueError("it does not begin like one")
    for _ in range(keys):
        _text(stream)
        _skip(stream, _number(stream, "<I"))
    found = {}
    for _ in range(tensors):
        name = _text(stream)
        stream.seek(8 * _small(_number(stream, "<I")), 1)
        kind = _number(stream, "<I")
        stream.seek(8, 1)
        found[name] = NAMES.get(kind, "type {}".format(kind))
    return found


def _skip(stream: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        stream.seek(_number(stream, "<Q"), 1)
    elif kind == _ARRAY:
        item, count = _number(stream, "<I"), _number(stream, "<Q")
        if item in _SCALARS:
            stream.seek(_SCALARS[item] * count, 1)
            return
        for _ in range(count):
            _skip(stream, item)
    elif kind in _SCALARS:
        stream.seek(_SCALARS[kind], 1)
    else:
        raise ValueError("a value of type {}".format(kind))


def _text(stream: BinaryIO) -> str:
    return stream.read(_small(_number(stream, "<Q"))).decode("utf-8")


def _number(stream: BinaryIO, layout: str) -> int:
    size = struct.calcsize(layout)
    return int(struct.unpack(layout, stream.read(size))[0])


def _small(number: int) -> int:
    if number > _MOST:
        raise ValueError("a length of {}".format(number))
    return number
