"""The real server: its own user, loopback only, launched as planned, back when it is killed."""

from __future__ import annotations

import json
import os
import time

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

EXPECTED = {
    "bookworm": {"port": 8080, "user": "infra-llm", "receipts": "/var/lib/infra-llm/receipts"},
    "trixie": {"port": 8181, "user": "llm-node", "receipts": "/srv/receipts"},
}
LAUNCHER = "/opt/infra-llm/bin/launch.py"
GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())
"""


@pytest.fixture
def name(host):
    return host.backend.get_hostname()


@pytest.fixture
def expected(name):
    return EXPECTED[name]


@pytest.fixture
def server(host, expected):
    """Asks the server, and waits for it where it was started just now."""

    def get(path, seconds=60.0):
        url = f"http://127.0.0.1:{expected['port']}{path}"
        deadline = time.monotonic() + seconds
        while True:
            done = host.run("python3 -c %s %s", GET, url)
            if done.rc == 0:
                return json.loads(done.stdout)
            assert time.monotonic() < deadline, f"{url} does not answer: {done.stderr}"
            time.sleep(0.5)

    return get


def pids(host):
    """The server's processes, not the shell that searches."""
    found = host.run(f"pgrep --full '^[^ ]*python3[^ ]* -I {LAUNCHER}'").stdout.split()
    return sorted(int(pid) for pid in found)


def test_it_is_healthy(server):
    assert server("/health") == {"status": "ok"}


def test_one_unprivileged_process_serves(host, server, expected):
    server("/health")
    (pid,) = pids(host)
    status = dict(
        line.split(":\t", 1)
        for line in host.file(f"/proc/{pid}/status").content_string.splitlines()
        if ":\t" in line
    )
    uid = host.user(expected["user"]).uid
    assert uid != 0
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(host.user(expected["user"]).gid)] * 4
    assert int(status["CapEff"], 16) == 0
    # A service has no business with the groups of root that started it.
    assert set(status["Groups"].split()) <= {str(host.user(expected["user"]).gid)}


def test_systemd_shuts_it_in(host, name, server):
    server("/health")
    if name == "bookworm":
        (pid,) = pids(host)
        assert "NoNewPrivs:\t1" in host.file(f"/proc/{pid}/status").content_string
        inside = f"nsenter -t {pid} -m"
        assert host.run(f"{inside} true").rc == 0
        assert host.run(f"{inside} touch /etc/forbidden").rc != 0
        assert host.run(f"{inside} ls /home/ops").rc != 0


def test_the_user_can_not_log_in(host, expected):
    user = host.user(expected["user"])
    assert user.shell == "/usr/sbin/nologin"
    assert not host.file(user.home).exists


def test_it_listens_on_loopback_only(host, server, expected):
    server("/health")
    listening = host.check_output("ss --no-header --tcp --listening --numeric").splitlines()
    addresses = [line.split()[3] for line in listening]
    port = f":{expected['port']}"
    assert [one for one in addresses if one.endswith(port)] == [f"127.0.0.1{port}"]


def test_it_serves_the_model_as_planned(host, name, server):
    launch = json.loads(host.file("/etc/infra-llm/launch.json").content_string)
    assert [model["id"] for model in server("/v1/models")["data"]] == [launch["alias"]]
    props = server("/props")
    assert props["total_slots"] == launch["flags"]["parallel"]
    if name == "trixie":
        assert props["total_slots"] == 2
        assert props["default_generation_settings"]["n_ctx"] == 1024
        assert launch["flags"]["cache_type_k"] == "q8_0"


def test_only_root_may_write_what_it_starts_from(host, name):
    manager = {"bookworm": "/etc/systemd/system/infra-llm.service",
               "trixie": "/etc/infra-llm/supervisord.conf"}  # fmt: skip
    for path in (LAUNCHER, "/etc/infra-llm/launch.json", manager[name]):
        file = host.file(path)
        assert (file.user, file.group) == ("root", "root")
        assert file.mode & 0o022 == 0


def test_the_manager_is_the_one_that_was_wished_for(host, name):
    unit = host.service("infra-llm")
    if name == "bookworm":
        assert unit.is_running
        assert unit.is_enabled
        assert not host.file("/etc/infra-llm/supervisord.conf").exists
    else:
        assert not host.file("/etc/systemd/system/infra-llm.service").exists
        assert host.file("/run/infra-llm/supervisor.sock").is_socket
        assert host.file("/run/infra-llm/supervisor.sock").mode & 0o077 == 0


def test_the_receipt_describes_files_user_and_service(host, name, expected):
    receipt = json.loads(host.file(f"{expected['receipts']}/llm_service.json").content_string)
    (unit,) = receipt["units"]
    manager = {"bookworm": "systemd", "trixie": "supervisor"}[name]
    assert (unit["name"], unit["manager"]) == ("infra-llm", manager)
    assert (unit["active"], unit["enabled"]) == (True, True)
    assert [user["name"] for user in receipt["users"]] == [expected["user"]]
    files = {file["path"] for file in receipt["files"]}
    assert {LAUNCHER, "/etc/infra-llm/launch.json"} <= files


def test_it_comes_back_when_it_is_killed(host, server):
    server("/health")
    (before,) = pids(host)
    assert host.run(f"kill -9 {before}").rc == 0
    deadline = time.monotonic() + 30
    while not (after := [pid for pid in pids(host) if pid != before]):
        assert time.monotonic() < deadline, "nobody started it again"
        time.sleep(0.5)
    assert server("/health") == {"status": "ok"}
    assert len(after) == 1
