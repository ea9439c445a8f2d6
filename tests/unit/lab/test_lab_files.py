from __future__ import annotations

import configparser
import io
import json
import shlex
import tarfile
from pathlib import Path

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from tests.lab import container, gpus, guestfiles, inventory, nspawn, rootfs, scenarios
from tests.lab.config import Host, HostSpec, Lab, LabError

ONE = Host(HostSpec("node1"), "nspawn", "node1-0", "/base", "10.231.0.10")
TWO = Host(HostSpec("node2"), "docker", "node2-0", "image", "127.0.0.1", 32768)
KEYS = {"node1": "ssh-ed25519 AAAAone comment\n", "node2": "ssh-ed25519 AAAAtwo\n"}


def test_ansible_reads_the_inventory(tmp_path):
    path = tmp_path / "lab.ini"
    path.write_text(inventory.render([ONE, TWO], Path("/x/key"), Path("/x/known_hosts")))
    manager = InventoryManager(loader=DataLoader(), sources=[str(path)])
    one, two = (manager.get_host(name) for name in ("node1", "node2"))
    assert (one.vars["ansible_host"], two.vars["ansible_port"]) == ("10.231.0.10", 32768)
    group = manager.groups["nodes"].vars
    assert group["ansible_user"] == "ops"
    options = shlex.split(group["ansible_ssh_common_args"])
    assert "StrictHostKeyChecking=yes" in options
    assert "UserKnownHostsFile=/x/known_hosts" in options


def test_known_hosts_names_the_port_where_it_is_not_22():
    planned = Host(HostSpec("node3"), "nspawn", "node3-0", "")
    assert inventory.known_hosts_lines([ONE, TWO, planned], KEYS).splitlines() == [
        "10.231.0.10 ssh-ed25519 AAAAone",
        "[127.0.0.1]:32768 ssh-ed25519 AAAAtwo",
    ]


def test_instance_config_is_what_molecule_asks_for():
    (entry,) = inventory.instance_config([TWO], Path("/x/key"))
    assert entry == {
        "instance": "node2",
        "address": "127.0.0.1",
        "user": "ops",
        "port": "32768",
        "identity_file": "/x/key",
    }


def test_host_survives_its_record():
    assert Host.from_dict(json.loads(json.dumps(TWO.as_dict()))) == TWO


def test_files_keep_owner_and_mode_in_the_tar():
    files = guestfiles.common_files(HostSpec("node1"), "ssh-ed25519 user\n", ("private", "public"))
    with tarfile.open(fileobj=io.BytesIO(guestfiles.as_tar(files))) as tar:
        entries = {entry.name: entry for entry in tar}
    key, login = entries["etc/ssh/ssh_host_ed25519_key"], entries["home/ops/.ssh/authorized_keys"]
    assert (key.mode, key.uid) == (0o600, 0)
    assert (login.mode, login.uid) == (0o600, 1000)
    assert entries["home/ops/.ssh"].isdir()
    assert entries["etc/sudoers.d/ops"].mode == 0o440


def test_a_host_without_sudo_gets_no_sudoers_file():
    files = guestfiles.common_files(HostSpec("node1", sudo=False), "key", ("private", "public"))
    assert not [name for name in files if "sudoers" in name]


def test_network_unit_is_valid_and_static():
    files = guestfiles.network_files(HostSpec("node1"), "10.231.0.10", 1400)
    unit = configparser.RawConfigParser()
    unit.read_string(files["etc/systemd/network/10-host0.network"].content)
    assert unit["Network"]["Address"] == "10.231.0.10/24"
    assert unit["Link"]["MTUBytes"] == "1400"


def test_the_recipe_s_name_changes_with_all_it_depends_on():
    base = {"suite": "bookworm", "sources": ("a",), "apt_settings": (), "certificates": ()}
    changes = [{}, {"suite": "sid"}, {"sources": ("b",)}, {"certificates": ("c",)}]
    changes += [{"apt_settings": ("d",)}, {"packages": ("e",)}, {"customize": "f"}]
    names = {rootfs.Recipe(**{**base, **change}).name for change in changes}
    assert len(names) == len(changes)


def test_cgroup_trees_of_hybrid_and_unified_machines(tmp_path):
    hybrid, unified = tmp_path / "hybrid", tmp_path / "unified"
    for folder in (hybrid / "systemd", hybrid / "unified", hybrid / "memory", unified):
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").touch()
    assert nspawn.hierarchies(hybrid) == [hybrid / "systemd", hybrid / "unified"]
    assert nspawn.hierarchies(unified) == [unified]
    assert nspawn.hierarchies(tmp_path / "none") == []


def test_nspawn_gives_the_guest_its_own_network():
    argv = nspawn.command(ONE, Path("/mnt"))
    assert "--network-bridge=infrallm0" in argv
    assert "--hostname=node1" in argv
    assert not [word for word in argv if word.startswith("--bind")]


def test_a_host_for_containers_gets_room_for_an_engine_outside_its_overlay():
    host = Host(HostSpec("node1", containers=True), "nspawn", "node1-0", "/base")
    argv = nspawn.command(host, Path("/mnt"))
    (bind,) = [word for word in argv if word.endswith(":/var/lib/docker")]
    assert "/hosts/node1-0/" in bind
    assert "--system-call-filter=keyctl" in argv


ENGINE = """\
#!/bin/sh
echo "$*" >> "$ENGINE_LOG"
case "$1" in
  port) echo 127.0.0.1:40022; echo '[::1]:40022' ;;
  inspect) echo "$PPID" ;;
  cp) cat > "$ENGINE_LOG.tar" ;;
esac
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A stand-in for docker's client that records its arguments."""
    path = tmp_path / "docker"
    path.write_text(ENGINE)
    path.chmod(0o755)
    monkeypatch.setenv("ENGINE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_a_container_is_filled_before_it_starts(engine):
    lab, spec = Lab(), HostSpec("node1", memory="2G")
    files = guestfiles.common_files(spec, "key", ("private", "public"))
    host = container.Container("docker").create(lab, spec, "image", files)
    assert (host.address, host.port) == ("127.0.0.1", 40022)
    verbs = [line.split()[0] for line in (engine / "log").read_text().splitlines()]
    assert verbs == ["ps", "create", "cp", "start", "port", "inspect"]
    create = (engine / "log").read_text().splitlines()[1]
    assert f"--name {lab.machine('node1')} --hostname node1" in create
    assert "--publish 127.0.0.1::22 --memory 2g" in create
    with tarfile.open(engine / "log.tar") as tar:
        assert "home/ops/.ssh/authorized_keys" in tar.getnames()


def test_the_pack_of_gpus_lists_its_files(tmp_path):
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/libnvidia-ml.so.1").write_text("x")
    (tmp_path / "tmp").mkdir(mode=0o700)
    (tmp_path / "usr/lib/link").symlink_to("libnvidia-ml.so.1")
    (tmp_path / "usr/current").symlink_to("lib")
    assert sorted(gpus.folders_of(tmp_path)) == ["tmp", "usr", "usr/lib"]
    with tarfile.open(fileobj=io.BytesIO(gpus.pack(tmp_path, ["usr/lib"]))) as tar:
        record = tar.extractfile(gpus.RECORD)
        assert record is not None
        assert json.load(record) == {
            "files": ["usr/current", "usr/lib/libnvidia-ml.so.1", "usr/lib/link"],
            "folders": ["usr/lib"],
        }
        assert [entry.name for entry in tar if entry.isdir()] == ["usr/lib"]


def test_scenarios_are_found_and_unknown_ones_refused(tmp_path):
    for name in ("beta", "alpha"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    (tmp_path / "molecule" / "shared").mkdir()
    assert scenarios.select([], tmp_path) == ["alpha", "beta"]
    assert scenarios.select(["beta"], tmp_path) == ["beta"]
    with pytest.raises(LabError, match="no scenario gamma"):
        scenarios.select(["gamma", "beta"], tmp_path)
