"""Guests of systemd-nspawn: for machines without a container engine; needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.lab import guestfiles, leases, network, rootfs
from tests.lab.config import DATA_DIR, Host, HostSpec, Lab, LabError
from tests.lab.leases import Lease
from tests.lab.system import ensure_tools, is_alive, run, start_time, wait_for

TOOLS = ("systemd-nspawn", "mmdebstrap", "ip", "nft", "ssh-keygen")
CGROUPS = Path("/sys/fs/cgroup")
SLICE = "infra-llm"
ENGINE_DATA = ("/var/lib/docker", "/var/lib/containers")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Nspawn:
    """Back end: an overlay on the unpacked root file system, booted on a bridge."""

    name = "nspawn"

    def prepare(self) -> None:
        """Install what is missing and clean up after guests that died."""
        ensure_tools(TOOLS)
        with leases.table() as table:
            table.prune(_clean_lease)

    def base(self, suite: str) -> str:
        """Root file system of a suite, unpacked."""
        return str(rootfs.unpacked(rootfs.recipe(suite)))

    def create(
        self, lab: Lab, spec: HostSpec, base: str, files: dict[str, guestfiles.File]
    ) -> Host:
        """Boot a guest; it runs when this returns, its sshd perhaps not yet."""
        machine = lab.machine(spec.name)
        with leases.table() as table:
            table.release(machine)
            lease = table.allocate(machine, lab.state_dir)
            # With the lease, under one lock: another lab's last host takes the bridge with it.
            network.up(table)
        host = Host(spec, self.name, machine, base, address=lease.address)
        remove_remains(machine)
        root = mount_root(machine, base)
        own = {**files, **guestfiles.network_files(spec, lease.address, network.mtu())}
        self.put(host, guestfiles.as_tar(own))
        if not spec.python:
            for path in root.glob("usr/bin/python3*"):
                path.unlink()
        if spec.containers:
            for place in ENGINE_DATA:
                engine_data(machine, place).mkdir()
        pid = _boot(host, root, lab.state_dir / f"{spec.name}.log")
        host = replace(host, pid=pid, start=start_time(pid))
        with leases.table() as table:
            table.leases[lease.address] = replace(lease, pid=host.pid, start=host.start)
        return host

    def put(self, host: Host, tar: bytes) -> None:
        """Unpack a tar in the root of a guest, running or not."""
        # From inside a guest that runs, whose own /tmp, /run and /sys lie over the overlay.
        place, enter = (str(root_of(host.machine)), [])
        if self.alive(host):
            place, enter = "/", _enter(host)
        run([*enter, "tar", "-C", place, "--numeric-owner", "-xpf", "-"], stdin=tar)

    def execute(self, host: Host, argv: Sequence[str]) -> str:
        """Run a command in a guest as root."""
        return run([*_enter(host), *argv])

    def alive(self, host: Host) -> bool:
        """Whether the guest's process runs."""
        return is_alive(host.pid, host.start)

    def destroy(self, lab: Lab, names: Sequence[str]) -> None:
        """Stop and remove guests of a lab; what is gone already is no error."""
        with leases.table() as table:
            for name in names:
                remove_remains(lab.machine(name))
                table.release(lab.machine(name))
            table.prune(_clean_lease)
            if not table.leases:
                network.down(table)

    def destroy_all(self) -> list[str]:
        """Remove the guests of all labs on this machine, and give their names."""
        with leases.table() as table:
            machines = sorted(lease.machine for lease in table.leases.values())
            for lease in table.leases.values():
                _clean_lease(lease)
            table.leases.clear()
            network.down(table)
        return machines


def root_of(machine: str) -> Path:
    """Where the root of a guest is mounted on this machine."""
    return DATA_DIR / "hosts" / machine / "root"


def mount_root(machine: str, base: str) -> Path:
    """Mount a fresh overlay on the base, or copy it where overlays do not work."""
    folder = DATA_DIR / "hosts" / machine
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if run(["stat", "-f", "-c", "%T", str(folder)]).strip() == "overlayfs":
        # Inside a container: no overlay can lie on another one.
        run(["cp", "-a", "--reflink=auto", f"{base}/.", str(folder / "root")], timeout=300)
        return folder / "root"
    options = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    run(["mount", "-t", "overlay", f"infra-llm-{machine}", "-o", options, str(folder / "root")])
    return folder / "root"


def engine_data(machine: str, place: str) -> Path:
    """Folder of this machine that stands for ``place`` in a guest."""
    return DATA_DIR / "hosts" / machine / place.strip("/").replace("/", "-")


def hierarchies(root: Path = CGROUPS) -> list[Path]:
    """Cgroup trees that a guest needs a group in: hybrid machines have two, others one."""
    found = [
        root / name for name in ("systemd", "unified") if (root / name / "cgroup.procs").exists()
    ]
    if not found and (root / "cgroup.procs").exists():
        found = [root]
    return found


def command(host: Host, root: Path) -> list[str]:
    """The command line of systemd-nspawn for a guest."""
    argv = ["systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={host.machine}"]
    argv += [f"--hostname={host.spec.name}", f"--network-bridge={network.BRIDGE}"]
    argv += ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]
    if host.spec.containers:
        # An engine's own overlays cannot lie on the guest's, and it asks for these calls.
        for place in ENGINE_DATA:
            argv.append(f"--bind={engine_data(host.machine, place)}:{place}")
        argv += [f"--system-call-filter={call}" for call in ("add_key", "keyctl", "bpf")]
    # No scope of the machine's systemd, which may not even run: our own groups tell which processes
    # belong to a guest, and hold them when nspawn itself is killed.
    return [*argv, "--register=no", "--keep-unit", "--boot"]


def _boot(host: Host, root: Path, log: Path) -> int:
    groups = [tree / SLICE / host.machine for tree in hierarchies()]
    if host.spec.memory:
        groups.append(_memory_group(host))
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
    # The shell moves itself, so that nspawn is in its groups from its first moment.
    enter = (
        'for group in "$@"; do [ "$group" = -- ] && break; echo $$ > "$group/cgroup.procs"; done'
    )
    leave = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    start = command(host, root)
    if host.spec.reboots:
        start = ["setpriv", "--pdeathsig", "KILL", *start]
    argv = ["sh", "-ec", f"{enter}\n{leave}", "sh", *map(str, groups), "--", *start]
    if host.spec.reboots:
        # nspawn ends with 133 when its guest rebooted; it dies with the shell that restarts it.
        again = 'while :; do "$@"; [ $? = 133 ] || exit; done'
        argv = ["sh", "-c", again, "sh", *argv]
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    return process.pid


def _memory_group(host: Host) -> Path:
    group = CGROUPS / "memory" / SLICE / host.machine
    limit = int(host.spec.memory[:-1]) * _UNITS[host.spec.memory[-1]]
    try:
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        raise LabError(
            f"this machine cannot limit memory: {error}", "leave --memory out"
        ) from error
    return group


def _enter(host: Host) -> list[str]:
    init = _children(host.pid)
    if init and host.spec.reboots:
        init = _children(int(init[0]))
    if not init:
        raise LabError(f"{host.spec.name} does not run", "run up again")
    return ["nsenter", "-t", init[0], "-m", "-u", "-i", "-n", "-p", "--"]


def _children(pid: int) -> list[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return children.read_text().split() if children.exists() else []


def _clean_lease(lease: Lease) -> None:
    remove_remains(lease.machine)


def _members(machine: str) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if b"systemd-nspawn" in words and f"--machine={machine}".encode() in words:
                yield int(entry.parent.name)
    for tree in [*hierarchies(), CGROUPS / "memory"]:
        for procs in (tree / SLICE / machine).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from map(int, procs.read_text().split())


def remove_remains(machine: str) -> None:
    """Kill a guest and take its mount, groups and folders away, whatever state it is in.

    A clean shutdown would save nothing: its disk is thrown away.
    """

    def gone() -> bool:
        members = {pid for pid in _members(machine) if start_time(pid)}
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
        return not members

    if not wait_for(gone, 20):
        raise LabError(f"processes of {machine} do not die", "look at them with ps; run down again")
    folder = DATA_DIR / "hosts" / machine
    while (folder / "root").is_mount():
        run(["umount", "--lazy", str(folder / "root")])
    for tree in [*hierarchies(), CGROUPS / "memory"]:
        _remove_group(tree / SLICE / machine)
    shutil.rmtree(folder, ignore_errors=True)
    # Something that a container engine left may keep the guest's network alive, and its name taken.
    link = f"vb-{machine}"
    if (Path("/sys/class/net") / link).exists():
        with contextlib.suppress(LabError):  # it may go by itself meanwhile
            run(["ip", "link", "delete", link])
    for leftover in (
        Path("/run/systemd/nspawn/propagate"),
        Path("/run/systemd/nspawn/unix-export"),
    ):
        with contextlib.suppress(OSError):
            shutil.rmtree(leftover / machine)


def _remove_group(group: Path) -> None:
    if not group.is_dir():
        return
    for folder, _, _ in os.walk(group, topdown=False):
        # A killed process leaves its group a moment after it left the list.
        if not wait_for(lambda folder=folder: _rmdir(folder), 5):  # type: ignore[misc]
            raise LabError(f"the group {folder} is still in use", "run down again")


def _rmdir(folder: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        try:
            Path(folder).rmdir()
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            return False
    return True
