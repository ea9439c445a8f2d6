"""The model is whole, the receipt describes it, and nothing else was left."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import PurePosixPath

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

# The default model's sha256 is its publisher's, that of the stand-in is made here.
STAND_IN = b"a stand-in for a model\n" * 40000
EXPECTED = {
    "bookworm": (
        "/var/lib/infra-llm/models/SmolLM2-135M-Instruct.Q4_1.gguf",
        98362432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "/var/lib/infra-llm/receipts",
    ),
    "trixie": (
        "/srv/models/stand-in.gguf",
        len(STAND_IN),
        hashlib.sha256(STAND_IN).hexdigest(),
        "/srv/receipts",
    ),
}


@pytest.fixture
def expected(host):
    return EXPECTED[host.backend.get_hostname()]


def test_the_model_is_whole_and_anybody_may_read_it(host, expected):
    path, size, sha256, _ = expected
    model = host.file(path)
    assert (model.size, model.sha256sum) == (size, sha256)
    assert (model.user, model.group, model.mode) == ("root", "root", 0o644)


def test_neither_a_part_nor_a_refused_file_was_left(host, expected):
    path = PurePosixPath(expected[0])
    assert host.file(str(path.parent)).listdir() == [path.name]


def test_the_disk_without_room_is_still_empty(host):
    if host.backend.get_hostname() == "trixie":
        assert host.file("/srv/small").listdir() == []


def test_the_receipt_describes_the_model(host, expected):
    path, size, sha256, receipts = expected
    receipt = json.loads(host.file(f"{receipts}/model_store.json").content_string)
    (file,) = receipt["files"]
    assert (file["path"], file["size"], file["sha256"]) == (path, size, sha256)
    folders = [folder["path"] for folder in receipt["directories"]]
    assert folders == [str(PurePosixPath(path).parent)]
