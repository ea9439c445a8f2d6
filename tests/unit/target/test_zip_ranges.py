from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target.artifacts import read_prefix
from infra_llm.target.transport import PlaceRefusedError, Settings
from infra_llm.target.zip_ranges import local_member_prefix, member_prefix

from .loopback import Loopback, Served, artifact, sha256, streamed_wheel, wheel

FIRST = random.Random(3).randbytes(700_000)
MODEL = b"GGUF" + random.Random(4).randbytes(2_000_000)
MEMBERS = {"a/empty": b"", "a/first": FIRST, "m/model.gguf": MODEL, "z/last": FIRST}
KINDS = {
    "deflated": wheel(MEMBERS),
    "stored": wheel(MEMBERS, zipfile.ZIP_STORED),
    "streamed": streamed_wheel(MEMBERS),
}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("length", [4, 100_000, 3_000_000])
def test_the_head_of_a_member(
    kind: str, ranges: bool, length: int, server: Loopback, settings: Settings
) -> None:
    content = KINDS[kind]
    server.files["/w.whl"] = Served(content, ranges=ranges)
    url = server.url + "/w.whl"
    found = member_prefix(url, len(content), "m/model.gguf", length, settings)
    assert found == MODEL[:length]


def test_ranges_fetch_only_the_blocks_needed(server: Loopback, settings: Settings) -> None:
    server.files["/w.whl"] = Served(KINDS["stored"])
    member_prefix(server.url + "/w.whl", len(KINDS["stored"]), "m/model.gguf", 1000, settings)
    assert server.bytes_sent <= 3 * 512 * 1024
    assert all(asked for asked in server.ranges_asked("/w.whl"))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_member_that_is_not_there(ranges: bool, server: Loopback, settings: Settings) -> None:
    server.files["/w.whl"] = Served(KINDS["deflated"], ranges=ranges)
    with pytest.raises(PlaceRefusedError, match="holds no m/none"):
        member_prefix(server.url + "/w.whl", len(KINDS["deflated"]), "m/none", 10, settings)


@pytest.mark.parametrize("ranges", [True, False])
def test_something_that_is_no_zip(ranges: bool, server: Loopback, settings: Settings) -> None:
    server.files["/w.whl"] = Served(b"<html>" * 1000, ranges=ranges)
    place = {"kind": "url", "url": server.url + "/w.whl", "member": "m", "size": 6000,
             "sha256": sha256(b"")}  # fmt: skip
    with pytest.raises(HostFailedError, match=r"not a readable zip|holds no m"):
        read_prefix(artifact(MODEL, place), settings, 10)


def test_a_zip_on_disk(tmp_path: Path) -> None:
    (tmp_path / "w.whl").write_bytes(KINDS["deflated"])
    assert local_member_prefix(str(tmp_path / "w.whl"), "m/model.gguf", 7) == MODEL[:7]
    with pytest.raises(PlaceRefusedError, match="holds no"):
        local_member_prefix(str(tmp_path / "w.whl"), "none", 7)
    (tmp_path / "bad.whl").write_bytes(b"no")
    with pytest.raises(PlaceRefusedError, match=r"bad\.whl"):
        local_member_prefix(str(tmp_path / "bad.whl"), "none", 7)
