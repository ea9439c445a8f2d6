"""Which key a key file holds: OpenPGP fingerprints without gpg, which a small host lacks.

Standard library, Python 3.8. RFC 4880: packet headers 4.2, armour 6.2, fingerprints 12.2.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Iterator, List, Tuple

from ...core.errors import RefusedError

_PUBLIC_KEY = 6
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)\r?\n-----END PGP PUBLIC KEY BLOCK-----", re.S
)


def dearmour(data: bytes) -> bytes:
    """The binary form of a key file, armoured or not. Raises ValueError for damaged armour."""
    blocks = _ARMOUR.findall(data)
    return b"".join(_decoded(block) for block in blocks) if blocks else data


def fingerprints(binary: bytes) -> List[str]:
    """Fingerprints (40 hex digits, upper case) of the primary keys in a binary key file.

    Raises ValueError for what is no key file, or has keys of another version than 4.
    """
    found = []
    for tag, body in _packets(binary):
        if tag == _PUBLIC_KEY:
            if not body or body[0] != 4:
                raise ValueError("a key of version {}".format(body[0] if body else "?"))
            text = b"\x99" + len(body).to_bytes(2, "big") + body
            # The standard fixes SHA-1 here; it names the key, the signatures use other hashes.
            found.append(hashlib.sha1(text).hexdigest().upper())  # noqa: S324
    return found


def pinned_key(data: bytes, fingerprint: str, where: str) -> bytes:
    """The key in binary form if it is the pinned one and no other is with it.

    Raises RefusedError: whoever may change the key may change every package.
    """
    wanted = fingerprint.replace(" ", "").upper()
    if not wanted:
        raise RefusedError(
            "no key is pinned for this repository",
            where=where,
            hint="set key_fingerprint (40 hex digits) in infra_llm_repositories",
        )
    try:
        binary = dearmour(data)
        found = fingerprints(binary)
    except (ValueError, IndexError) as error:
        raise RefusedError("this is no OpenPGP key: {}".format(error), where=where) from error
    if found != [wanted]:
        raise RefusedError(
            "the repository's key is {}, pinned is {}".format(
                ", ".join(found) or "missing", wanted
            ),
            where=where,
            hint="if the vendor really changed its key, compare the new fingerprint with the "
            "vendor's own page and set key_fingerprint in infra_llm_repositories",
        )
    return binary


def _decoded(block: bytes) -> bytes:
    _, empty, text = block.replace(b"\r", b"").rpartition(b"\n\n")
    lines = (text if empty else block).splitlines()
    try:
        # The last line may be the checksum, "=" and four characters.
        body = b"".join(line for line in lines if not line.startswith(b"=") and b":" not in line)
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError("damaged armour: {}".format(error)) from error


def _packets(data: bytes) -> Iterator[Tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise ValueError("no packet at byte {}".format(at))
        if head & 0x40:
            tag, (size, used) = head & 0x3F, _new_length(data, at + 1)
        else:
            tag, used = (head >> 2) & 0x0F, 1 << (head & 3)
            if used == 8:
                raise ValueError("a packet without a length")
            size = int.from_bytes(data[at + 1 : at + 1 + used], "big")
        start = at + 1 + used
        if start + size > len(data):
            raise ValueError("cut short")
        yield tag, data[start : start + size]
        at = start + size


def _new_length(data: bytes, at: int) -> Tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), 5
    raise ValueError("a packet in parts")
