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

LAUNCHER = "/opt/infra-llm/bin/launch.py"


def test_it_is_healthy(server):
    assert server("/health") == {"status": "ok"}


def test_one_unprivileged_process_serves(host, server, expected, pids):
    server("/health")
    (pid,) = pids()
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


def test_systemd_shuts_it_in(host, name, server, pids):
    server("/health")
    if name == "bookworm":
        (pid,) = pids()
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


def test_nothing_of_the_other_manager_is_left(host, name):
    """Each ran under it before (prepare.yml)."""
    listed = host.check_output("systemctl list-units --all --plain --no-legend 'infra-llm*'")
    daemons = host.run("pgrep --full '[s]upervisor.supervisord'").stdout.split()
    before = host.file("/root/pid-before").content_string.split()
    assert before
    assert not any(host.file(f"/proc/{pid}").exists for pid in before)
    if name == "bookworm":
        assert daemons == []
        assert not host.file("/run/infra-llm/supervisor.sock").exists
        assert host.file("/var/log/infra-llm/engine.log").exists, "what it said is kept"
    else:
        assert len(daemons) == 1
        assert listed == ""
        wants = "/etc/systemd/system/multi-user.target.wants/infra-llm.service"
        assert host.run(f"test -L {wants}").rc != 0


def test_the_receipt_describes_files_user_and_service(host, name, expected):
    receipt = json.loads(host.file(f"{expected['receipts']}/llm_service.json").content_string)
    (unit,) = receipt["units"]
    manager = {"bookworm": "systemd", "trixie": "supervisor"}[name]
    assert (unit["name"], unit["manager"]) == ("infra-llm", manager)
    assert (unit["active"], unit["enabled"]) == (True, True)
    assert [user["name"] for user in receipt["users"]] == [expected["user"]]
    files = {file["path"] for file in receipt["files"]}
    assert {LAUNCHER, "/etc/infra-llm/launch.json"} <= files


def test_it_comes_back_when_it_is_killed(host, server, pids):
    server("/health")
    (before,) = pids()
    assert host.run(f"kill -9 {before}").rc == 0
    deadline = time.monotonic() + 30
    while not (after := [pid for pid in pids() if pid != before]):
        assert time.monotonic() < deadline, "nobody started it again"
        time.sleep(0.5)
    assert server("/health") == {"status": "ok"}
    assert len(after) == 1


ONLY_SYSTEMD = "supervisor keeps the service running, but shuts nothing in and waits for nothing"


@pytest.fixture
def systemd(host, name, server):
    """Only bookworm has a unit; on trixie the same is shown not to be there."""
    server("/health")
    if name == "trixie":
        assert not host.file("/etc/systemd/system/infra-llm.service").exists, ONLY_SYSTEMD
        return None

    def systemctl(words):
        # Starts by hand count against the limit, too.
        host.check_output("systemctl reset-failed infra-llm")
        return host.run(f"systemctl {words}")

    return systemctl


def exposure(host, unit):
    """The figure of systemd-analyze security, 0 (shut in) to 10."""
    last = host.check_output(f"systemd-analyze security --no-pager {unit}").splitlines()[-1]
    return float(last.split(": ")[1].split()[0])


def test_its_exposure_is_low(host, systemd):
    if systemd:
        assert exposure(host, "infra-llm.service") <= 2.0


def test_what_the_devices_of_gpus_cost(host, systemd):
    """The same unit as a host with NVIDIA cards gets it (core/service.py); docs/security.md."""
    if not systemd:
        return
    opened = "PrivateDevices=no\\nDevicePolicy=closed\\nDeviceAllow=char-nvidia* rw"
    host.check_output(
        f"sed -e 's/^PrivateDevices=yes/{opened}/' -e '/MemoryDenyWriteExecute/d' "
        "/etc/systemd/system/infra-llm.service >/etc/systemd/system/with-gpus.service "
        "&& systemctl daemon-reload"
    )
    cost = exposure(host, "with-gpus.service") - exposure(host, "infra-llm.service")
    assert 0 < cost < 0.5
    assert exposure(host, "with-gpus.service") <= 2.0
    host.check_output("rm /etc/systemd/system/with-gpus.service && systemctl daemon-reload")


def test_memory_is_limited_above_what_it_uses(host, systemd, pids):
    if systemd:
        (pid,) = pids()
        status = host.file(f"/proc/{pid}/status").content_string
        used = int(status.split("VmRSS:")[1].split()[0]) * 1024
        limit = int(systemd("show infra-llm -p MemoryMax --value").stdout)
        assert used < limit < 4 * 1024**3


def test_started_means_answered(host, systemd, expected):
    if systemd:
        assert systemd("restart infra-llm").rc == 0
        post = (
            "import sys, json, urllib.request as u; print(json.load(u.urlopen(u.Request("
            'sys.argv[1], b\'{"prompt": "1+1=", "max_tokens": 1}\', '
            "{'Content-Type': 'application/json'})))['usage']['completion_tokens'])"
        )
        url = f"http://127.0.0.1:{expected['port']}/v1/completions"
        assert host.check_output("python3 -c %s %s", post, url) == "1"


def test_an_engine_that_hangs_fails_to_start(host, systemd):
    if not systemd:
        return
    launch = json.loads(host.file("/etc/infra-llm/launch.json").content_string)
    launch["ready"]["seconds"] = 3
    launch.update(program=["/bin/sleep"], arguments=["1000"])
    host.check_output("cp /etc/infra-llm/launch.json /root/launch.json")
    host.check_output("printf %s %s > /etc/infra-llm/launch.json", "%s", json.dumps(launch))
    try:
        started = time.monotonic()
        done = systemd("restart infra-llm")
        assert done.rc != 0
        assert time.monotonic() - started < 20
        log = host.check_output("journalctl -u infra-llm -n 30 --no-pager -o cat")
        assert "the engine did not answer within 3 s" in log
    finally:
        host.check_output("mv /root/launch.json /etc/infra-llm/launch.json")
        assert systemd("restart infra-llm").rc == 0


def test_it_does_not_start_on_other_hardware(host, systemd, server, pids):
    path = "/etc/infra-llm/hardware.json"
    planned = json.loads(host.file(path).content_string)
    assert planned["memory"] and planned["cpu"]
    host.check_output(f"cp {path} /root/hardware.json")
    other = json.dumps({**planned, "memory": "1 GiB"})
    host.check_output(f"printf %s %s > {path}", "%s", other)
    try:
        if systemd:
            assert systemd("restart infra-llm").rc != 0
            time.sleep(5)
            shown = "systemctl show infra-llm -p ActiveState,NRestarts,ExecMainStatus"
            said = host.check_output(shown)
            assert set(said.split()) == {"ActiveState=failed", "NRestarts=0", "ExecMainStatus=78"}
            log = host.check_output("journalctl -u infra-llm -n 20 --no-pager -o cat")
        else:
            (pid,) = pids()
            host.check_output(f"kill {pid}")
            time.sleep(8)
            assert pids() == []
            log = host.check_output("tail -n 5 /var/log/infra-llm/engine.log")
        assert "hardware changed: run infra-llm provision (memory 1 GiB -> " in log
    finally:
        host.check_output(f"mv /root/hardware.json {path}")
        back = "systemctl reset-failed infra-llm; systemctl restart infra-llm"
        if not systemd:
            python = host.check_output("ls /opt/infra-llm/supervisor")
            back = (
                f"env PYTHONPATH=/opt/infra-llm/supervisor/{python} python3 -m "
                "supervisor.supervisorctl -c /etc/infra-llm/supervisord.conf start infra-llm"
            )
        host.check_output(back)
        assert server("/health") == {"status": "ok"}


def test_the_look_at_the_hardware_is_quick(host):
    code = (
        "import sys, time; sys.path.insert(0, '/opt/infra-llm/bin'); start = time.perf_counter(); "
        "import identity; identity.identity(); print(time.perf_counter() - start)"
    )
    assert float(host.check_output("python3 -IB -c %s", code)) < 0.3
