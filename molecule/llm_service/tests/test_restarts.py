"""The modules that start the service bring it back from every state that an engine leaves it in."""

from __future__ import annotations

import json
import os
import time

import pytest
import testinfra.utils.ansible_runner

testinfra_hosts = testinfra.utils.ansible_runner.AnsibleRunner(
    os.environ["MOLECULE_INVENTORY_FILE"]
).get_hosts("all")

LAUNCH_FILE = "/etc/infra-llm/launch.json"
CONFIG = "/etc/infra-llm/supervisord.conf"
CRASHES = ["/bin/sh", "-c", "exit 3"]
LIVES_A_WHILE = ["/bin/sh", "-c", "sleep 1.3; exit 3"]
DEAF = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]


@pytest.fixture
def engine(host):
    """Puts another program in the engine's place; without one the plan's again."""
    host.check_output(f"cp -p {LAUNCH_FILE} /root/launch.json")

    def put(program=None, ready=None):
        if not program:
            host.check_output(f"cp -p /root/launch.json {LAUNCH_FILE}")
            return
        launch = json.loads(host.file("/root/launch.json").content_string)
        launch.update(program=program, arguments=[])
        launch["ready"].update(ready or {})
        host.check_output(f"printf %s %s > {LAUNCH_FILE}", "%s", json.dumps(launch))

    yield put
    host.check_output(f"mv /root/launch.json {LAUNCH_FILE}")


@pytest.fixture
def service(host, name):
    """Runs the module of this host's manager: its result."""

    def run(state):
        if name == "bookworm":
            return host.ansible(
                "engine_unit", f"name=infra-llm state={state} seconds=60", check=False, become=True
            )
        library = host.check_output("echo /opt/infra-llm/supervisor/*")
        words = (
            f"name=infra-llm state={state} config=/etc/infra-llm/supervisord.conf "
            f"socket=/run/infra-llm/supervisor.sock library={library} python=/usr/bin/python3"
        )
        return host.ansible("supervised_service", words, check=False, become=True)

    return run


@pytest.fixture
def control(host):
    """supervisorctl."""
    library = host.check_output("echo /opt/infra-llm/supervisor/*")

    def run(words):
        return host.run(
            f"env PYTHONPATH={library} python3 -m supervisor.supervisorctl -c {CONFIG} {words}"
        ).stdout

    return run


def wait_for(word, ask, seconds=30):
    deadline = time.monotonic() + seconds
    while word not in (said := ask()):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("program", "state"),
    [(CRASHES, "restarted"), (CRASHES, "started"), (LIVES_A_WHILE, "restarted")],
)
def test_supervisor_from_a_crashing_engine(host, name, server, service, control, program, state):
    """supervisord goes on with the crashing program until it is told to read its file again."""
    if name == "bookworm":
        assert not host.file(CONFIG).exists
        return
    server("/health")
    command = f"command={program[0]} -c \\x22{program[2]}\\x22"
    host.check_output(
        f"cp -p {CONFIG} /root/supervisord.conf && sed -i -e 's|^command=.*|{command}|' "
        f"-e 's/^startretries=.*/startretries=1000/' {CONFIG}"
    )
    control("update")
    host.check_output(f"mv /root/supervisord.conf {CONFIG}")
    wait_for("BACKOFF" if program is CRASHES else "STARTING", lambda: control("status infra-llm"))
    assert service(state)["changed"] is True
    assert server("/health") == {"status": "ok"}


def test_supervisor_from_no_group(host, name, server, service, control):
    """A run that was cut off between the removal of the group and its return."""
    if name == "bookworm":
        assert not host.file(CONFIG).exists
        return
    for state in ("started", "restarted"):
        server("/health")
        control("stop infra-llm")
        control("remove infra-llm")
        assert "no such process" in control("status infra-llm")
        assert service(state)["changed"] is True
        assert server("/health") == {"status": "ok"}


def test_an_engine_that_is_deaf_to_term_is_replaced(host, name, server, engine, service, control):
    server("/health")
    engine(DEAF, {"seconds": 600})
    if name == "bookworm":
        # ready.py waits for it still, as for an engine that loads.
        host.check_output("systemctl restart --no-block infra-llm")
        show = "systemctl show infra-llm -p SubState"
        wait_for("start-post", lambda: host.check_output(show))
    else:
        control("restart infra-llm")
        wait_for("RUNNING", lambda: control("status infra-llm"))
    engine()
    started = time.monotonic()
    assert service("restarted")["changed"] is True
    assert time.monotonic() - started > 19, "it ended at TERM: this proves nothing"
    assert server("/health") == {"status": "ok"}


def test_systemd_from_an_engine_that_is_tried_again(host, name, server, engine, service):
    if name == "trixie":
        assert not host.file("/etc/systemd/system/infra-llm.service").exists
        return
    server("/health")
    waits = "/run/systemd/system/infra-llm.service.d"
    host.check_output(
        f"mkdir -p {waits} && printf '[Service]\\nRestartSec=600\\n' >{waits}/waits.conf "
        "&& systemctl daemon-reload"
    )
    engine(CRASHES)
    assert host.run("systemctl restart infra-llm").rc != 0
    show = "systemctl show infra-llm -p SubState"
    wait_for("SubState=auto-restart", lambda: host.check_output(show))
    engine()
    host.check_output(f"rm -r {waits}")
    assert service("started")["changed"] is True
    assert server("/health") == {"status": "ok"}


def test_systemd_from_the_end_of_its_tries(host, name, server, engine, service):
    if name == "trixie":
        assert not host.file("/etc/systemd/system/infra-llm.service").exists
        return
    server("/health")
    engine(CRASHES)
    for _ in range(9):
        host.run("systemctl restart infra-llm")
    show = "systemctl show infra-llm -p SubState"
    wait_for("SubState=failed", lambda: host.check_output(show))
    engine()
    assert host.run("systemctl start infra-llm").rc != 0, (
        "the limit holds: else this proves nothing"
    )
    assert service("started")["changed"] is True
    assert server("/health") == {"status": "ok"}
