"""The release is there whole, `current` points at it, its library loads, the receipt tells all."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

PLACES = {
    "bookworm": ("/opt/infra-llm/llama_cpp", "/var/lib/infra-llm/receipts"),
    "trixie": ("/srv/engines/llama.cpp", "/srv/receipts"),
}
PROVE_IT_LOADS = """
import os, subprocess, sys
release = sys.argv[1]
for name in ("llama-server", "bin/llama-server"):
    program = os.path.join(release, name)
    if os.path.exists(program):
        folder = os.path.dirname(os.path.realpath(program))
        environment = dict(os.environ, LD_LIBRARY_PATH=folder)
        sys.exit(subprocess.call([program, "--version"], env=environment))
sys.path.insert(0, release)
sys.dont_write_bytecode = True
import xllamacpp
xllamacpp.CommonParams()
"""


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def engine(name):
    return PLACES[name][0]


@pytest.fixture
def receipt(host, name):
    return json.loads(host.file(f"{PLACES[name][1]}/llama_cpp.json").content_string)


def test_current_points_at_the_one_release(host, engine):
    releases = host.file(f"{engine}/releases").listdir()
    assert len(releases) == 1, "an archive, a part or a second release was left"
    link = host.file(f"{engine}/current")
    assert link.is_symlink
    assert link.linked_to == f"{engine}/releases/{releases[0]}"


def test_a_release_that_nobody_serves_is_passed_over(host, engine):
    assert "release-of-nowhere" not in host.file(f"{engine}/releases").listdir()


def test_the_engine_loads(host, engine):
    with host.sudo("ops"):
        done = host.run("python3 -c %s %s", PROVE_IT_LOADS, f"{engine}/current")
    assert done.rc == 0, done.stderr


def test_only_root_may_write(host, engine):
    assert host.check_output("find %s -not -user root -o -perm /022 -not -type l", engine) == ""


def test_the_receipt_names_what_came_with_the_role(host, engine, receipt):
    added = set(receipt["packages_added"])
    assert "libgomp1" in added
    assert all(host.package(package).is_installed for package in added)
    assert [link["path"] for link in receipt["links"]] == [f"{engine}/current"]
    release = host.file(f"{engine}/current").linked_to
    there = host.check_output("find %s -type f -not -path '*/__pycache__/*'", release)
    assert {file["path"] for file in receipt["files"]} == set(there.splitlines())


def test_the_receipt_notes_packages_with_their_version(host, receipt):
    versions = {package["name"]: package["version"] for package in receipt["packages"]}
    query = "dpkg-query --show --showformat='${Version}' libgomp1"
    assert versions["libgomp1"] == host.check_output(query)


def test_everything_is_where_the_variables_say(host, name):
    for other, (engine, receipts) in PLACES.items():
        assert host.file(engine).exists is (other == name)
        assert host.file(receipts).exists is (other == name)
