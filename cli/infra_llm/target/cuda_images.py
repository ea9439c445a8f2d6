"""Which GPUs the CUDA code in a library runs on, read out of the library itself.

A card that no image serves fails at the first kernel with "no kernel image is available for
execution on the device" (ggml-org/llama.cpp#4215); so a build is looked at before it is used.

nvcc puts its fat binaries one after another into the ELF section .nv_fatbin. NVIDIA documents
cuobjdump, which lists them, but not their layout; this is the layout that several open readers
agree on (n-eiling/cuda-fatbin-decompression, jiegec/fatbinary), little-endian:

    fat binary   u32 magic 0xBA55ED50, u16 version 1, u16 header size, u64 size of the images
    image        u16 kind (1 PTX, 2 machine code), u16 version, u32 header size,
                 u64 padded size of the payload, u32 x 3, u32 architecture (89 is 8.9), ...

Payloads may be compressed, headers are not. Standard library, Python 3.8.
"""

from __future__ import annotations

import glob
import mmap
import os
import struct
from typing import Dict, Iterator, List, Mapping, Sequence, Set, Tuple

from ..core.errors import HostFailedError

LIBRARIES = ("libggml-cuda.so*", "bin/libggml-cuda.so*")
SECTIONS = (b".nv_fatbin", b"__nv_relfatbin")
"""The second holds what is linked on the device (relocatable device code)."""
_MAGIC = 0xBA55ED50
_ALIGNED = 8
_KINDS = {1: "ptx", 2: "machine"}
_EXACT_MAJOR = 12
"""llama.cpp compiles 12.x as 12.xa (ggml-cuda/CMakeLists.txt), which runs on that one only."""

Images = Dict[str, List[str]]
"""{"machine": architectures with machine code, "ptx": those with PTX}, each as "89"."""


def images_of(path: str) -> Images:
    """The architectures in a library; both lists empty where it holds no CUDA code.

    Raises HostFailedError where it is no 64-bit ELF file of little endian, or its layout is
    another than the one described above.
    """
    found: Dict[str, Set[int]] = {name: set() for name in _KINDS.values()}
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size < 64:
            raise HostFailedError("not an ELF file", where=path)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                for start, size in _sections(data, path):
                    for kind, architecture in _images(data, start, start + size):
                        found[kind].add(architecture)
            except (struct.error, IndexError, ValueError) as error:
                raise HostFailedError(
                    "its CUDA code can't be read ({})".format(error),
                    where=path,
                    hint="build it again; or report the compiler's version",
                ) from error
    return {name: [str(one) for one in sorted(found[name])] for name in found}


def _sections(data: mmap.mmap, path: str) -> Iterator[Tuple[int, int]]:
    """(offset, size) of the sections with fat binaries; ELF-64 as of its specification."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise HostFailedError("not a 64-bit ELF file of little endian", where=path)
    table = struct.unpack_from("<Q", data, 0x28)[0]
    entry, count, names_at = struct.unpack_from("<HHH", data, 0x3A)
    rows = []
    for number in range(count):
        name, _kind, _flags, _address, offset, size = struct.unpack_from(
            "<IIQQQQ", data, table + number * entry
        )
        rows.append((name, offset, size))
    names = rows[names_at][1] if rows else 0
    for name, offset, size in rows:
        end = data.find(b"\0", names + name)
        if data[names + name : end] in SECTIONS:
            yield offset, size


def _images(data: mmap.mmap, at: int, end: int) -> Iterator[Tuple[str, int]]:
    """(kind, architecture) of every image between two offsets."""
    while at + 16 <= end:
        magic, version, header, size = struct.unpack_from("<IHHQ", data, at)
        if magic == 0:  # padding
            at += _ALIGNED
            continue
        if magic != _MAGIC or version != 1 or header < 16 or at + header + size > end:
            raise ValueError("no fat binary at offset {:#x}".format(at))
        image, last = at + header, at + header + size
        while image + 32 <= last:
            kind, _version, own, payload = struct.unpack_from("<HHIQ", data, image)
            if kind not in _KINDS or own < 32:
                raise ValueError("image of kind {} at offset {:#x}".format(kind, image))
            yield _KINDS[kind], struct.unpack_from("<I", data, image + 28)[0]
            image += own + payload
        at = (last + _ALIGNED - 1) // _ALIGNED * _ALIGNED


def serves(images: Images, capability: str) -> bool:
    """Whether a GPU of a compute capability ("8.9") finds code that it runs.

    Machine code runs on its own major version from its minor version on, PTX is compiled by the
    driver for everything from its version on (CUDA C++ Programming Guide, 3.1.2 to 3.1.4).
    """
    major, minor = (int(part) for part in capability.split("."))
    for text in images["machine"]:
        of, from_minor = divmod(int(text), 10)
        fits = from_minor == minor if major == _EXACT_MAJOR else from_minor <= minor
        if of == major and fits:
            return True
    return any(divmod(int(text), 10) <= (major, minor) for text in images["ptx"])


def check_release(
    folder: str,
    cards: Sequence[Mapping[str, str]],
    architectures: Sequence[str] = (),
) -> Images:
    """Look at the CUDA library of a release of llama.cpp; a release without one has no images.

    Parameters
    ----------
    cards: the host's, each {"name", "compute_capability"}.
    architectures: those that the build was to have, as "89".

    Raises HostFailedError where a card or an architecture is not served.

    """
    paths = sorted(p for name in LIBRARIES for p in glob.glob(os.path.join(folder, name)))
    if not paths:
        if architectures:
            raise HostFailedError("the build has no CUDA library (libggml-cuda.so)", where=folder)
        return {name: [] for name in _KINDS.values()}
    images = images_of(paths[0])
    held = ", ".join([*images["machine"], *("{} as PTX".format(a) for a in images["ptx"])])
    missing = [one for one in architectures if one not in images["machine"]]
    if missing:
        raise HostFailedError(
            "built for {}, but the library holds code for {}".format(
                ", ".join(architectures), held or "none"
            ),
            where=paths[0],
            hint="see whether CUDAFLAGS or NVCC_APPEND_FLAGS are set on the host",
        )
    unserved = [card for card in cards if not serves(images, card["compute_capability"])]
    if unserved:
        named = sorted({"{name} ({compute_capability})".format(**card) for card in unserved})
        raise HostFailedError(
            "no kernel image for {}: the library holds code for {}".format(
                ", ".join(named), held or "none"
            ),
            where=paths[0],
            hint="remove this release's folder and run infra-llm provision: it is built again",
        )
    return images
