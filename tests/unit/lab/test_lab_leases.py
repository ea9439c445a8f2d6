from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.lab.config import LabError
from tests.lab.leases import GATEWAY, NETWORK, Lease, Table, load
from tests.lab.system import start_time


def test_no_address_is_given_twice_and_none_is_special(tmp_path):
    table = Table()
    given = [table.allocate(f"m{number}", tmp_path).address for number in range(245)]
    assert len(set(given)) == 245
    assert not {GATEWAY, str(NETWORK[0]), str(NETWORK[-1])} & set(given)
    with pytest.raises(LabError, match="no free address"):
        table.allocate("one-more", tmp_path)


def test_a_released_address_comes_back_last(tmp_path):
    table = Table()
    first = table.allocate("a", tmp_path).address
    table.release("a")
    later = [table.allocate(f"m{number}", tmp_path).address for number in range(245)]
    assert later.index(first) == 244


def test_prune_cleans_dead_guests_and_those_without_a_checkout(tmp_path):
    pid = os.getpid()
    start = start_time(pid)
    table = Table()
    for number, (name, folder, at) in enumerate(
        [
            ("alive", tmp_path, start),
            ("pid-reused", tmp_path, start - 1),
            ("folder-gone", tmp_path / "no", start),
        ]
    ):
        lease = Lease(f"10.0.0.{number}", name, str(folder), pid, at)
        table.leases[lease.address] = lease
    cleaned = []
    table.prune(lambda lease: cleaned.append(lease.machine))
    assert cleaned == ["pid-reused", "folder-gone"]
    assert [lease.machine for lease in table.leases.values()] == ["alive"]


def test_after_a_reboot_no_lease_holds_and_old_settings_are_void(tmp_path):
    pid = os.getpid()
    item = {"address": "10.0.0.9", "machine": "m", "state_dir": str(tmp_path)}
    item |= {"pid": pid, "start": start_time(pid)}
    data = {"boot": "one", "last": 12, "leases": [item], "settings": {"ip_forward": "0"}}
    assert load(data, "one").leases["10.0.0.9"].holds()
    rebooted = load(data, "two")
    assert not rebooted.leases["10.0.0.9"].holds()
    assert rebooted.settings == {}
    assert load(data, "one").settings == {"ip_forward": "0"}


def test_start_time_of_what_is_not_there():
    assert start_time(0) == 0
    assert start_time(2**22 + 1) == 0
    assert Path(f"/proc/{os.getpid()}").exists()
    assert start_time(os.getpid()) > 0
