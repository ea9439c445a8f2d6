"""up, down, status and swap: the same for every back end."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from tests.lab import backend as backends
from tests.lab import gpus, guestfiles, inventory
from tests.lab.backend import Backend
from tests.lab.config import USER, Host, HostSpec, Lab, LabError, NeedsRootError
from tests.lab.system import locked, read_json, run, say, wait_for, write_json

BOOT_SECONDS = 60
T = TypeVar("T")
U = TypeVar("U")


def load(lab: Lab) -> tuple[list[Host], dict[str, str]]:
    """Hosts of a lab as last recorded, and their public host keys."""
    data: dict[str, Any] = read_json(lab.state_file, {})
    return [Host.from_dict(item) for item in data.get("hosts", [])], data.get("host_keys", {})


def save(lab: Lab, hosts: Sequence[Host], keys: dict[str, str]) -> None:
    """Record the hosts and the known_hosts that go with them."""
    write_json(lab.state_file, {"hosts": [h.as_dict() for h in hosts], "host_keys": keys})
    lab.known_hosts.write_text(inventory.known_hosts_lines(hosts, keys))


def up(lab: Lab, specs: Sequence[HostSpec]) -> list[Host]:
    """Make the lab what ``specs`` say: keep the hosts that are so already, replace the others."""
    with locked(lab.state_dir / "lock", timeout=600):
        recorded, keys = load(lab)
        name = recorded[0].backend if recorded else backends.choose()
        backend = backends.make(name)
        fresh = [host for host in recorded if backend.alive(host) and _banner(host)]
        kept = {host.spec.name: host for host in fresh if host.spec in specs}
        missing = [spec for spec in specs if spec.name not in kept]
        stale = [host.spec.name for host in recorded if host.spec.name not in kept]
        if not missing and not stale:
            say(f"lab {lab.name} is up already: {', '.join(kept)}")
            return [kept[spec.name] for spec in specs]
        _require_root(backend)
        backend.prepare()
        if stale:
            backend.destroy(lab, stale)
        user_key = guestfiles.make_key(lab)
        # Before the first is made: were this run killed, down would know of them all.
        planned = [Host(spec, name, lab.machine(spec.name), base="") for spec in missing]
        save(lab, [*kept.values(), *planned], keys)
        bases = {suite: backend.base(suite) for suite in sorted({spec.suite for spec in missing})}

        def create(spec: HostSpec) -> Host:
            return _create(lab, backend, spec, bases[spec.suite], user_key, keys)

        try:
            made = _in_parallel(create, missing)
            by_name = {**kept, **{host.spec.name: host for host in made}}
            hosts = [by_name[spec.name] for spec in specs]
            save(lab, hosts, {name: keys[name] for name in by_name})
            _in_parallel(lambda host: _wait(lab, backend, host), made)
        except BaseException:
            # Half a lab is of no use, and nobody would know that it is there.
            backend.destroy(lab, [spec.name for spec in missing])
            save(lab, list(kept.values()), {name: keys[name] for name in kept})
            raise
        _give_to_caller(lab.state_dir.parent)
        return hosts


def _create(
    lab: Lab, backend: Backend, spec: HostSpec, base: str, user_key: str, keys: dict[str, str]
) -> Host:
    host_keys = guestfiles.host_key()
    keys[spec.name] = host_keys[1]
    return backend.create(lab, spec, base, guestfiles.common_files(spec, user_key, host_keys))


def _in_parallel(function: Callable[[T], U], items: Sequence[T]) -> list[U]:
    with ThreadPoolExecutor(max_workers=4) as pool:
        # All are waited for before the first error is raised, so that clean-up meets no stragglers.
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]


def _banner(host: Host) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host.address, host.port), 0.3) as line,
    ):
        line.settimeout(2)
        return line.recv(4) == b"SSH-"
    return False


def _login(lab: Lab, host: Host) -> bool:
    """Log in once: sshd answers before pam_nologin lets anyone but root in."""
    argv = ["ssh", *shlex.split(" ".join(inventory.ssh_options(lab.known_hosts)))]
    argv += ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-i", str(lab.key)]
    argv += ["-p", str(host.port), f"{USER}@{host.address}", "true"]
    try:
        run(argv, timeout=20)
    except LabError:
        return False
    return True


def _wait(lab: Lab, backend: Backend, host: Host) -> None:
    started = time.monotonic()
    ready = wait_for(
        lambda: (_banner(host) and _login(lab, host)) or not backend.alive(host), BOOT_SECONDS, 0.1
    )
    if not ready:
        raise LabError(f"nobody can log in to {host.spec.name} after {BOOT_SECONDS} s")
    if not backend.alive(host):
        log = lab.state_dir / f"{host.spec.name}.log"
        tail = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        raise LabError("\n".join([f"{host.spec.name} died while it booted", *tail]))
    if host.spec.gpus:
        gpus.install(backend, host, host.spec.gpus)
    say(f"{host.spec.name}: {host.spec.suite}, {host.address} port {host.port}, "
        f"{time.monotonic() - started:.1f} s")  # fmt: skip


def down(lab: Lab) -> list[str]:
    """Remove the lab's hosts and its state; nothing there is no error."""
    if not lab.state_dir.is_dir():
        return []
    with locked(lab.state_dir / "lock", timeout=600):
        hosts, _ = load(lab)
        names = [host.spec.name for host in hosts]
        for name in sorted({host.backend for host in hosts}):
            backend = backends.make(name)
            _require_root(backend)
            backend.destroy(lab, [host.spec.name for host in hosts if host.backend == name])
        lab.state_file.unlink(missing_ok=True)
        lab.known_hosts.unlink(missing_ok=True)
        for log in lab.state_dir.glob("*.log"):
            log.unlink()
    return names


def swap(lab: Lab, name: str, machine: str) -> None:
    """Change the GPU set of a host while it lives."""
    if not lab.state_dir.is_dir():
        raise LabError(f"there is no lab {lab.name}", "start it with up")
    with locked(lab.state_dir / "lock"):
        hosts, keys = load(lab)
        host = next((item for item in hosts if item.spec.name == name), None)
        if host is None:
            known = ", ".join(item.spec.name for item in hosts) or "none"
            raise LabError(f"no host {name} in lab {lab.name}", f"hosts: {known}")
        backend = backends.make(host.backend)
        _require_root(backend)
        gpus.install(backend, host, machine)
        chosen = replace(host.spec, gpus="" if machine == "none" else machine)
        save(lab, [replace(h, spec=chosen) if h is host else h for h in hosts], keys)


def status(lab: Lab) -> list[dict[str, Any]]:
    """Each recorded host, with whether its process lives and its sshd answers."""
    hosts, _ = load(lab)
    found = []
    for host in hosts:
        alive = backends.make(host.backend).alive(host)
        found.append({**host.as_dict(), "alive": alive, "ssh": alive and _banner(host)})
    return found


def _require_root(backend: Backend) -> None:
    if backend.name == "nspawn" and os.geteuid():
        raise NeedsRootError(
            "test hosts of systemd-nspawn need root",
            f"run it with sudo, or set {backends.VARIABLE} to docker or podman",
        )


def _give_to_caller(folder: Path) -> None:
    """Under sudo, leave key and inventory to the one who called: ssh runs as that user."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if user and group and not os.geteuid():
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, int(user), int(group), follow_symlinks=False)
