"""The package comes out of the source, its libraries out of a shared build; the rest is locked."""

from __future__ import annotations

import json
import os

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

PLACES = {
    "bookworm": ("/opt/infra-llm/llama_cpp_python", "/var/lib/infra-llm/receipts", "3.11"),
    "trixie": ("/srv/engines/llama_cpp_python", "/srv/receipts", "3.13"),
}


@pytest.fixture
def places(host):
    return PLACES[host.backend.get_hostname()]


def test_an_ordinary_user_can_load_the_libraries(host, places):
    code = "import llama_cpp, llama_cpp.server; print(llama_cpp.LIBRARY)"
    with host.sudo("ops"):
        done = host.run("%s -I -c %s", f"{places[0]}/current/bin/python", code)
    assert done.stdout.strip() == "a build of another host", done.stderr


def test_nothing_else_is_in_it(host, places):
    packages = host.file(f"{places[0]}/current/lib/python{places[2]}/site-packages").listdir()
    names = {name.partition("-")[0] for name in packages} - {"__pycache__"}
    assert names == {"standin_server", "standin_kernels", "llama_cpp"}


def test_nothing_was_compiled_and_no_source_was_left(host, places):
    assert not host.exists("ninja")
    found = host.file(places[0]).listdir()
    assert sorted(found) == ["current", "releases"]
    assert sorted(host.file(f"{places[0]}/releases").listdir()) == [
        "standin-1.0",
        "standin-1.0.lock",
    ]


def test_only_root_may_write(host, places):
    assert host.check_output("find %s -not -user root -o -perm /022 -not -type l", places[0]) == ""


def test_the_receipt_lists_the_package_and_the_build(host, places):
    receipt = json.loads(host.file(f"{places[1]}/llama_cpp_python.json").content_string)
    paths = [file["path"] for file in receipt["files"]]
    assert any(path.endswith("llama_cpp/__init__.py") for path in paths)
    assert any(path.endswith("source-standin/libllama.so") for path in paths)
    assert any(path.endswith("/serve.py") for path in paths)
    assert "libgomp1" in receipt["packages_added"]
    assert host.package("libgomp1").is_installed
