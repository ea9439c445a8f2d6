"""Debian's own driver on guests: both flavours, the second run, and nothing left after removal.

Real packages, about 150 MB for each guest. bookworm's open modules are of an older version than its
libraries; there the pin takes all of them to that version, and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.conftest import ROOT
from tests.e2e.driver_lab import DriverLab

LIST_HOST = (ROOT / "molecule/llm_remove/list_host.sh").read_text()
COMMON = ["libcuda1", "nvidia-smi", "nvidia-persistenced"]
MODULES = {
    "proprietary": ["nvidia-kernel-dkms", "nvidia-kernel-support"],
    "open": ["nvidia-open-kernel-dkms", "nvidia-open-kernel-support"],
}
OTHER = {"open": "proprietary", "proprietary": "open"}
# What Debian's packages leave behind by its policy: a system user and group, and a log.
STAYS = {"users": ["nvpd", "nvpd"], "files": ["/var/log/alternatives.log"]}
HOSTS = {"b1": "bookworm", "t1": "trixie"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverLab]:
    hosts = ",".join(f"{host}:{suite}" for host, suite in HOSTS.items())
    made = DriverLab("driver-distribution", tmp_path_factory.mktemp("distribution"), hosts)
    for host in HOSTS:
        made.on(host, "bash -s /root/before", stdin=LIST_HOST.encode())
    yield made
    made.down()


def plan(modules: str, pin: str = "") -> dict[str, Any]:
    return {
        "source": "distro",
        "branch": "",
        "modules": modules,
        "packages": [MODULES[modules][0], *COMMON],
        "pin": pin,
        "pinned": ["nvidia-*", "libnvidia-*", "libcuda1", "firmware-nvidia-*"],
        "headers": ["linux-headers-amd64"],
        "conflicts": MODULES[OTHER[modules]],
    }


def apply(lab: DriverLab, modules: str, pins: dict[str, str]) -> None:
    components = ["contrib", "non-free", "non-free-firmware"]
    repositories = [{"name": "distribution", "kind": "apt", "components": components}]
    plans = {host: plan(modules, pins[host]) for host in HOSTS}
    given = {"driver_plans": plans, "driver_repositories": repositories}
    done = lab.play(**given)
    assert done.code == 0, done.text[-3000:]
    again = lab.play(**given)
    assert again.changed == dict.fromkeys(HOSTS, 0), again.text[-3000:]


def upstream(lab: DriverLab, host: str) -> tuple[str, str]:
    """Upstream version of the modules that are there, and of the library beside them."""
    versions = lab.versions(host)
    modules = next(versions[name] for name in versions if name.endswith("kernel-dkms"))
    return modules.partition("-")[0], versions["libnvidia-ml1"].partition("-")[0]


def test_both_flavours_there_and_back_with_one_version(lab: DriverLab) -> None:
    newest = dict.fromkeys(HOSTS, "")
    apply(lab, "proprietary", newest)
    first = {host: upstream(lab, host) for host in HOSTS}
    apply(lab, "open", {"b1": "535.261.03*", "t1": ""})
    for host in HOSTS:
        modules, library = upstream(lab, host)
        assert modules == library
        assert "nvidia-kernel-dkms" not in lab.versions(host)
    assert upstream(lab, "b1")[0] == "535.261.03"
    # Back, and on bookworm up again: what was pinned is taken to the newest.
    apply(lab, "proprietary", {"b1": first["b1"][0] + "*", "t1": ""})
    assert {host: upstream(lab, host) for host in HOSTS} == first


def test_removal_leaves_what_was_there_before(lab: DriverLab) -> None:
    done = lab.play(playbook="tests/e2e/remove.yml")
    assert done.code == 0, done.text[-3000:]
    for host in HOSTS:
        lab.on(host, "bash -s /root/after", stdin=LIST_HOST.encode())
        for kind in ("packages", "users", "units", "files"):
            difference = lab.on(host, f"diff /root/before/{kind} /root/after/{kind}", check=False)
            rows = [line for line in difference.splitlines() if line[0] in "<>"]
            assert rows == [f"> {name}" for name in STAYS.get(kind, [])], (host, kind)
