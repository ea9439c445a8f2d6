"""The stand-in for Ollama serves the model of the store, under either manager of services."""

from __future__ import annotations

import json
import os
import time

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

VERSIONS = {"bookworm": "0.34.4", "trixie": "0.35.0"}
NAME = "smollm2-135m-instruct-q4_1"
ENGINE, DATA = "/opt/infra-llm/ollama", "/var/lib/infra-llm/ollama"
ASK = """
import json, sys, urllib.request
path, body = sys.argv[1:]
data = None if body == "null" else body.encode()
print(urllib.request.urlopen("http://127.0.0.1:8080" + path, data, timeout=120).read().decode())
"""


@pytest.fixture
def ask(host):
    """A request to the server, waited for where it was started just now."""

    def get(path, body=None, seconds=60.0):
        deadline = time.monotonic() + seconds
        while True:
            done = host.run("python3 -c %s %s %s", ASK, path, json.dumps(body))
            if done.rc == 0:
                return json.loads(done.stdout)
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.5)

    return get


def receipt(host, role):
    return json.loads(host.file(f"/var/lib/infra-llm/receipts/{role}.json").content_string)


def test_the_wished_version_serves(host, ask):
    assert ask("/api/version")["version"] == VERSIONS[host.backend.get_hostname()]


def test_it_answers_in_openais_words(ask):
    question = [{"role": "user", "content": "What is 1+1?"}]
    body = {"model": NAME, "messages": question, "temperature": 0, "max_tokens": 32}
    assert "2" in ask("/v1/chat/completions", body)["choices"][0]["message"]["content"]


def test_the_model_has_the_plans_parameters_and_its_origin(ask):
    shown = ask("/api/show", {"model": NAME})
    parameters = dict(line.split() for line in shown["parameters"].splitlines())
    assert parameters["num_ctx"] == "1024"
    assert parameters["num_gpu"] == "0"
    assert "Apache-2.0" in shown["license"]
    assert "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53" in shown["license"]
    (loaded,) = ask("/api/ps")["models"]
    assert loaded["name"] == f"{NAME}:latest"


def test_the_release_is_whole_and_only_root_may_write_it(host):
    (release,) = host.file(f"{ENGINE}/releases").listdir()
    link = host.file(f"{ENGINE}/current")
    assert link.linked_to == f"{ENGINE}/releases/{release}"
    assert host.file(f"{ENGINE}/current/bin/ollama").mode == 0o755
    assert host.check_output("find %s -not -user root -o -perm /022 -not -type l", ENGINE) == ""


def test_the_archive_was_unpacked_without_the_program_zstd(host):
    assert not host.exists("zstd")


def test_the_receipts_tell_what_the_roles_manage(host):
    ours = receipt(host, "ollama")
    assert [link["path"] for link in ours["links"]] == [f"{ENGINE}/current"]
    there = host.check_output("find %s -type f -not -path '*/__pycache__/*'", f"{ENGINE}/releases")
    assert {file["path"] for file in ours["files"]} == set(there.splitlines())
    added = set(ours["packages_added"])
    assert "libgomp1" in added
    assert all(host.package(package).is_installed for package in added)
    (manifest,) = receipt(host, "ollama_model")["files"]
    assert manifest["path"].startswith(f"{DATA}/models/manifests/")


def test_the_service_has_a_user_of_its_own_who_owns_only_its_data(host):
    assert host.file(DATA).user == "infra-llm"
    assert host.file(DATA).mode == 0o750
    assert host.check_output("find /opt/infra-llm /etc/infra-llm -user infra-llm") == ""


def test_the_model_is_kept_once_beside_the_file(host):
    assert host.check_output("find %s -type f -size +50M", DATA).count("\n") == 0


def test_a_killed_server_comes_back_with_its_model(host, ask):
    old = host.check_output("pgrep --full --oldest 'bin/ollama serve'")
    host.run("kill -9 %s", old)
    question = [{"role": "user", "content": "What is 1+1?"}]
    body = {"model": NAME, "messages": question, "temperature": 0, "max_tokens": 32}
    assert "2" in ask("/v1/chat/completions", body)["choices"][0]["message"]["content"]
    assert host.check_output("pgrep --full --oldest 'bin/ollama serve'") != old
