"""The test hosts under ill treatment: killed guests, a killed tool, a folder that vanished.

Real guests; needs what ``python3 -m tests.lab up`` needs (root or sudo).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.lab import operations
from tests.lab.backend import make
from tests.lab.config import TREE, HostSpec, Lab, LabError
from tests.lab.guestfiles import File, as_tar
from tests.lab.nspawn import Nspawn, hierarchies, root_of
from tests.lab.system import is_alive, wait_for

pytestmark = pytest.mark.usefixtures("lab")


@pytest.fixture
def lab():
    lab = Lab("chaos")
    operations.down(lab)
    yield lab
    operations.down(lab)


SPECS = [HostSpec("node1"), HostSpec("node2")]


def left_behind(lab: Lab) -> list[str]:
    """What of the lab is still on the machine: processes, mounts, groups, folders, leases."""
    found = []
    for spec in SPECS:
        machine = lab.machine(spec.name)
        found += [str(path) for path in [root_of(machine).parent] if path.exists()]
        found += [str(g) for tree in hierarchies() for g in (tree / "infra-llm").glob(machine)]
        found += [line for line in Path("/proc/mounts").read_text().splitlines() if machine in line]
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += [str(entry)] if machine.encode() in entry.read_bytes() else []
            except OSError:
                continue
        leases = Path("/run/infra-llm-lab/leases.json")
        found += ["lease"] if leases.exists() and machine in leases.read_text() else []
    return found


def kill_guests(hosts) -> None:
    for host in hosts:
        os.kill(host.pid, signal.SIGKILL)
    assert wait_for(lambda: not any(is_alive(host.pid, host.start) for host in hosts), 10)


def test_down_leaves_nothing_and_may_be_repeated(lab):
    operations.up(lab, SPECS)
    assert operations.down(lab) == ["node1", "node2"]
    assert left_behind(lab) == []
    assert operations.down(lab) == []


def test_up_again_keeps_hosts_that_run(lab):
    first = operations.up(lab, SPECS)
    started = time.monotonic()
    assert operations.up(lab, SPECS) == first
    assert time.monotonic() - started < 1


def test_up_changes_only_what_is_wished_otherwise(lab):
    first = operations.up(lab, SPECS)
    second = operations.up(lab, [SPECS[0]])
    assert second == [first[0]]
    assert not make(first[1].backend).alive(first[1])


def test_up_replaces_a_guest_that_was_killed(lab):
    first = operations.up(lab, SPECS)
    kill_guests(first[:1])
    second = operations.up(lab, SPECS)
    assert second[0].pid != first[0].pid
    assert second[1] == first[1]
    assert all(host["ssh"] for host in operations.status(lab))


def test_down_after_all_guests_were_killed(lab):
    kill_guests(operations.up(lab, SPECS))
    operations.down(lab)
    assert left_behind(lab) == []


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.25, 0.3, 0.4, 0.8])
def test_a_tool_killed_in_mid_up_blocks_nothing(lab, seconds):
    argv = [sys.executable, "-m", "tests.lab", "up", "--name", lab.name]
    with subprocess.Popen(argv, cwd=TREE, stderr=subprocess.DEVNULL) as tool:
        time.sleep(seconds)
        tool.kill()
    assert len(operations.up(lab, SPECS)) == 2
    assert all(host["ssh"] for host in operations.status(lab))
    operations.down(lab)
    assert left_behind(lab) == []


def test_down_after_a_tool_killed_in_mid_up(lab):
    argv = [sys.executable, "-m", "tests.lab", "up", "--name", lab.name]
    with subprocess.Popen(argv, cwd=TREE, stderr=subprocess.DEVNULL) as tool:
        time.sleep(0.3)
        tool.kill()
    operations.down(lab)
    assert left_behind(lab) == []


def test_the_next_lab_removes_guests_whose_folder_is_gone(lab):
    operations.up(lab, SPECS)
    shutil.rmtree(lab.state_dir)
    Nspawn().prepare()
    assert left_behind(lab) == []


def test_a_cut_off_record_is_no_obstacle(lab):
    operations.up(lab, SPECS)
    text = lab.state_file.read_text()
    lab.state_file.write_text(text[: len(text) // 2])
    assert all(host.pid for host in operations.up(lab, SPECS))
    operations.down(lab)
    assert left_behind(lab) == []


def test_a_host_without_python_and_without_sudo(lab):
    spec = HostSpec("node1", python=False, sudo=False)
    (host,) = operations.up(lab, [spec])
    inside = make(host.backend)
    assert inside.execute(host, ["sh", "-c", "ls /usr/bin | grep -c ^python3 || true"]) == "0\n"
    assert inside.execute(host, ["sh", "-c", "ls /etc/sudoers.d"]) == "README\n"
    assert json.loads(lab.state_file.read_text())["hosts"][0]["spec"]["python"] is False


def test_files_reach_a_running_host_below_its_own_mounts(lab):
    (host,) = operations.up(lab, SPECS[:1])
    inside = make(host.backend)
    inside.put(host, as_tar({"run/selftest": File("there\n", 0o640, 1000)}))
    assert inside.execute(host, ["stat", "-c", "%a %U", "/run/selftest"]) == "640 ops\n"


def test_gpus_are_swapped_while_the_host_lives_and_none_takes_all_away(lab):
    (host,) = operations.up(lab, [HostSpec("node1", gpus="h100x8")])
    inside = make(host.backend)

    def cards() -> list[str]:
        return inside.execute(host, ["sh", "-c", "nvidia-smi -L || true"]).splitlines()

    assert len(cards()) == 8
    operations.swap(lab, "node1", "rtx3060")
    assert len(cards()) == 1
    assert "RTX 3060" in cards()[0]
    with pytest.raises(LabError, match="nonsense"):
        operations.swap(lab, "node1", "nonsense")
    assert len(cards()) == 1
    operations.swap(lab, "node1", "none")
    assert cards() == []
    found = ["find", "/", "-xdev", "-name", "*nvidia*", "-o", "-xdev", "-name", "*standin*"]
    left = [line for line in inside.execute(host, found).splitlines() if "/var/log" not in line]
    assert left in ([], ["/var/lib/infra-llm-standin"])
    assert operations.up(lab, [HostSpec("node1")])[0].pid == host.pid
