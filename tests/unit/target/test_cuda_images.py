"""Architectures out of a library, from files laid out as nvcc does.

Real libraries of nvcc: tests/e2e/test_cuda_wheels.py; of llama.cpp, compared with what NVIDIA's
cuobjdump says: make test-cuda.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.cuda_images import check_release, images_of, serves

MACHINE, PTX = 2, 1
ADA = {"name": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}


def fat_binary(*images: tuple[int, int]) -> bytes:
    """Each image (kind, architecture), with a payload that is nothing."""
    body = b""
    for kind, architecture in images:
        payload = b"\xab" * 24
        head = struct.pack("<HHIQ", kind, 0x101, 64, len(payload)) + b"\0" * 12
        body += (head + struct.pack("<I", architecture)).ljust(64, b"\0") + payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def library(*parts: bytes, section: bytes = b".nv_fatbin") -> bytes:
    """A 64-bit ELF file with one section of fat binaries and one of names."""
    content = b"".join(parts)
    names = b"\0" + section + b"\0.shstrtab\0"
    at = 64 + len(content)
    table = at + len(names)
    rows = [
        (0, 0, 0),
        (1, 64, len(content)),
        (len(section) + 2, at, len(names)),
    ]
    head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, len(rows), 2)
    sections = b"".join(
        struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)
        for name, offset, size in rows
    )
    return head + content + names + sections


def release(folder: Path, *parts: bytes, where: str = "libggml-cuda.so") -> str:
    path = folder / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(library(*parts))
    return str(folder)


def test_every_image_of_every_fat_binary_counts(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    first = fat_binary((MACHINE, 86), (MACHINE, 120))
    path.write_bytes(library(first, b"\0" * 8, fat_binary((PTX, 75)), fat_binary((MACHINE, 86))))
    assert images_of(str(path)) == {"machine": ["86", "120"], "ptx": ["75"]}


def test_a_library_without_cuda_has_none(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(library(b"text", section=b".text"))
    assert images_of(str(path)) == {"machine": [], "ptx": []}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an ELF file"),
        (b"#!/bin/sh\n" * 20, "not a 64-bit ELF file"),
        (library(b"\xff" * 64), "no fat binary at offset 0x40"),
        (library(fat_binary((7, 86))), "image of kind 7"),
        (library(fat_binary((MACHINE, 86)))[:300], "can't be read"),
    ],
)
def test_what_is_not_understood_is_said_not_guessed(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(content)
    with pytest.raises(HostFailedError, match=words):
        images_of(str(path))


@pytest.mark.parametrize(
    ("machine", "ptx", "capability", "served"),
    [
        (["86"], [], "8.6", True),
        (["86"], [], "8.9", True),
        (["89"], [], "8.6", False),
        (["80"], [], "9.0", False),
        (["120"], [], "12.0", True),
        # llama.cpp compiles 12.0 as 12.0a, which no other card runs.
        (["120"], [], "12.1", False),
        ([], ["75"], "12.1", True),
        ([], ["90"], "8.9", False),
        ([], [], "8.9", False),
    ],
)
def test_a_card_is_served(
    machine: list[str], ptx: list[str], capability: str, served: bool
) -> None:
    assert serves({"machine": machine, "ptx": ptx}, capability) is served


def test_a_release_for_other_cards_is_refused_in_words(tmp_path: Path) -> None:
    folder = release(tmp_path, fat_binary((MACHINE, 75), (MACHINE, 86)))
    with pytest.raises(HostFailedError) as caught:
        check_release(folder, [{"name": "NVIDIA H100", "compute_capability": "9.0"}, ADA])
    assert "no kernel image for NVIDIA H100 (9.0): the library holds code for 75, 86" in str(
        caught.value
    )


def test_a_release_for_the_cards_passes_wherever_its_library_is(tmp_path: Path) -> None:
    folder = release(tmp_path, fat_binary((MACHINE, 89)), where="bin/libggml-cuda.so.0")
    assert check_release(folder, [ADA], ["89"]) == {"machine": ["89"], "ptx": []}


def test_a_release_for_the_cpu_passes_but_a_cuda_build_without_cuda_does_not(
    tmp_path: Path,
) -> None:
    assert check_release(str(tmp_path), [ADA]) == {"machine": [], "ptx": []}
    with pytest.raises(HostFailedError, match="no CUDA library"):
        check_release(str(tmp_path), [], ["89"])


def test_a_compiler_that_did_otherwise_is_found_out(tmp_path: Path) -> None:
    folder = release(tmp_path, fat_binary((MACHINE, 86)))
    with pytest.raises(
        HostFailedError, match="built for 86, 89, but the library holds code for 86"
    ):
        check_release(folder, [], ["86", "89"])
