from __future__ import annotations

from pathlib import Path

import pytest
from tests.lab.config import HostSpec, Lab, LabError, parse_hosts, parse_platforms


def test_hosts_take_the_common_suite_unless_they_name_one():
    specs = parse_hosts("node1, node2:trixie", suite="bookworm")
    assert [(spec.name, spec.suite) for spec in specs] == [
        ("node1", "bookworm"),
        ("node2", "trixie"),
    ]


def test_gpu_sets_go_to_the_hosts_in_order():
    specs = parse_hosts("a,b,c", "rtx3060,none")
    assert [spec.gpus for spec in specs] == ["rtx3060", "", ""]


@pytest.mark.parametrize(
    ("hosts", "gpus", "says"),
    [
        ("", "", "no hosts"),
        ("node1,node1", "", "twice"),
        ("Node1", "", "'Node1' is not usable"),
        ("../etc", "", "not usable"),
        ("-rf", "", "not usable"),
        ("node1:../..", "", "suite"),
        ("node1", "rtx3060,h100x8", "2 GPU sets for 1 hosts"),
    ],
)
def test_unusable_hosts_are_refused(hosts, gpus, says):
    with pytest.raises(LabError, match=says):
        parse_hosts(hosts, gpus)


@pytest.mark.parametrize("memory", ["2", "2T", "0G", "-1G", "1.5G", "2G;reboot"])
def test_unusable_memory_limits_are_refused(memory):
    with pytest.raises(LabError, match="memory"):
        HostSpec("node1", memory=memory)


def test_platforms_of_molecule():
    specs = parse_platforms(
        [{"name": "a", "groups": ["gpu"], "sudo": False}, {"name": "b", "suite": "trixie"}],
        suite="bookworm",
    )
    assert specs == [HostSpec("a", "bookworm", sudo=False), HostSpec("b", "trixie")]


@pytest.mark.parametrize(
    ("platforms", "says"),
    [
        ({"name": "a"}, "not a list"),
        ([{"suite": "sid"}], "no name"),
        ([{"name": "a", "image": "x"}], "unknown field image"),
        ([], "no hosts"),
    ],
)
def test_unusable_platforms_are_refused(platforms, says):
    with pytest.raises(LabError, match=says):
        parse_platforms(platforms)


def test_labs_of_two_checkouts_or_purposes_share_nothing():
    labs = [Lab("main", Path("/one")), Lab("main", Path("/two")), Lab("other", Path("/one"))]
    assert len({lab.machine("node1") for lab in labs}) == 3
    assert len({lab.state_dir for lab in labs}) == 3


def test_the_machine_name_fits_into_a_host_name():
    assert len(Lab("main").machine("a" * 32)) <= 64
