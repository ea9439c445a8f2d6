"""Which container engine a host has, and which one it is to have.

Standard library, Python 3.8. Debian's packages are docker.io and podman; docker-ce (Docker's own
repository) and engines that came without a package are kept as they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Optional

from ..core.errors import HostFailedError, RefusedError
from .service import Run, run_command

DOCKER_CLI_SINCE = 13
"""Debian from which the client is a package of its own."""
APPARMOR = "sys/module/apparmor/parameters/enabled"
NOT_FOUND = 127
_LEFT = {
    "docker": ["var/lib/docker", "var/lib/containerd", "run/docker", "run/docker.sock",
               "run/containerd", "opt/containerd", "etc/docker/key.json", "etc/docker",
               "etc/cni/net.d", "etc/cni"],
    "podman": ["var/lib/containers", "run/containers", "etc/cni/net.d", "etc/cni"],
}  # fmt: skip
_NAMESPACES = "run/docker/netns"
"""Mounts of network namespaces, `default` after the first container in the host's network."""
_DAEMONS = {"docker": "dockerd", "podman": "podman"}
_UNITS = {"docker": "docker.service"}


@dataclass
class Engine:
    """One engine that a host has."""

    name: str
    path: str
    """Of dockerd or podman."""
    package: str = ""
    """The package that it belongs to: docker.io, docker-ce, podman; snap; "" for none."""
    version: str = ""
    unit_enabled: str = ""
    """systemctl is-enabled: enabled, disabled, masked, masked-runtime ...; "" for no service."""
    unit_active: bool = False


@dataclass
class Host:
    """What else decides, as `read_host` finds it."""

    family: str = "debian"
    """debian or redhat."""
    distribution: str = ""
    """ID of os-release."""
    release: float = 0.0
    """VERSION_ID of os-release as a number."""
    containerd: str = ""
    """The package that owns /usr/bin/containerd, "" for none."""
    apparmor: bool = False
    """Whether the kernel enforces AppArmor profiles."""


@dataclass
class Choice:
    """What is to be done to have the engine."""

    name: str
    packages: List[str] = field(default_factory=list)
    """Of the distribution; empty when the engine came from elsewhere."""
    engine: Optional[Engine] = None
    """The one that is there, None when it is to be installed."""
    why: str = ""

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)


def find(
    run: Run = run_command, which: Callable[[str], Optional[str]] = shutil.which
) -> List[Engine]:
    """The engines of this host, docker first. The `docker` command alone is none: podman-docker
    has it, too."""
    found = []
    for name, daemon in _DAEMONS.items():
        path = which(daemon)
        if path:
            found.append(_look(name, path, run))
    return found


def read_host(family: str, run: Run = run_command, root: str = "/") -> Host:
    """The facts of this host that `choose` needs."""
    with contextlib.suppress(OSError), open(
        os.path.join(root, "etc/os-release"), encoding="utf-8"
    ) as stream:
        release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', stream.read(), re.MULTILINE))
        number = re.match(r"\d+(\.\d+)?", release.get("VERSION_ID", ""))
        return Host(
            family,
            release.get("ID", ""),
            float(number.group()) if number else 0.0,
            _owner("/usr/bin/containerd", run) if shutil.which("containerd") else "",
            _apparmor(os.path.join(root, APPARMOR)),
        )
    return Host(family)


def packages(name: str, host: Host) -> List[str]:
    """The distribution's packages of an engine, [] where it has none."""
    if name == "podman":
        return ["podman"]
    if host.family != "debian":
        return []  # podman is what the RHEL family ships
    found = ["docker.io"]
    if host.distribution == "debian" and host.release >= DOCKER_CLI_SINCE:
        found.append("docker-cli")
    if host.apparmor:
        # Without apparmor_parser docker starts no container on such a kernel.
        found.append("apparmor")
    return found


def choose(wish: str, preferred: str, found: List[Engine], host: Host) -> Choice:
    """The engine for a wish (docker, podman or auto) on a host that has `found`.

    auto takes the engine that is there, docker before podman when both are, one whose service is
    masked last; where there is none, `preferred`. Raises RefusedError for an engine that can't
    serve, with the way out.
    """
    engine = _pick(wish, found)
    if engine:
        _check(engine)
        ours = packages(engine.name, host)
        own = engine.package in ours
        why = "{} is there ({})".format(engine.name, engine.package or engine.path)
        return Choice(engine.name, ours if own else [], engine, why)
    name = preferred if wish == "auto" else wish
    wanted = packages(name, host)
    if not wanted:
        raise RefusedError(
            "this distribution has no package of {}".format(name),
            where="container engine",
            hint="set infra_llm_container_engine to podman, or install docker-ce by hand: "
            "an engine that is there is kept",
        )
    if name == "docker" and host.containerd not in ("", "containerd"):
        raise RefusedError(
            "containerd is there as package {}, which docker.io's own would replace".format(
                host.containerd
            ),
            where="container engine",
            hint="install docker-ce from the same source: an engine that is there is kept; "
            "or set infra_llm_container_engine to podman",
        )
    what = "container engine" if wish == "auto" else name
    return Choice(name, wanted, why="no {} found".format(what))


def containers(name: str, run: Run = run_command) -> List[str]:
    """Ids of all containers, those that do not run among them; [] when the engine is gone."""
    status, out, errors = run([name, "ps", "--all", "--quiet", "--no-trunc"])
    if status == 0:
        return out.split()
    if status == NOT_FOUND:
        return []
    raise HostFailedError(
        "{} can't say whether it has containers: {}".format(name, errors.strip()[-300:]),
        where="container engine",
        hint="start it (systemctl start {}), then run again".format(_UNITS.get(name, name)),
    )


def leftovers(name: str, data_root: str = "", root: str = "/") -> List[str]:
    """What an engine's packages leave behind when they are purged, as far as it is there."""
    paths = [os.path.join(root, path) for path in _LEFT[name]]
    return [path for path in [*paths, data_root] if path and os.path.lexists(path)]


def clean(name: str, data_root: str = "", run: Run = run_command, root: str = "/") -> List[str]:
    """Remove the leftovers, docker's bridge, and its group when nobody is in it.

    Gives what is gone. A folder that is a mount point is emptied and stays; so does one of
    /etc that holds something of the administrator's.
    """
    gone = leftovers(name, data_root, root)
    namespaces = os.path.join(root, _NAMESPACES)
    for entry in os.listdir(namespaces) if name in _UNITS and os.path.isdir(namespaces) else ():
        # Each is a mount that docker leaves when it ends; one that is none makes umount complain.
        run(["umount", os.path.join(namespaces, entry)])
    for path in gone:
        try:
            _empty(path, keep=path.startswith(os.path.join(root, "etc")))
        except OSError as error:
            raise HostFailedError(
                "can't be removed: {}".format(error.strerror), where=error.filename or path
            ) from error
    if name == "docker":
        gone += _clean_docker(run)
    return gone


def _empty(path: str, keep: bool) -> None:
    """Remove a file, or a folder with all in it; with `keep` a folder goes only when empty."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    for entry in [] if keep else os.listdir(path):
        inner = os.path.join(path, entry)
        if os.path.isdir(inner) and not os.path.islink(inner):
            shutil.rmtree(inner)
        else:
            os.unlink(inner)
    with contextlib.suppress(OSError):  # a mount point, or not empty
        os.rmdir(path)


def _clean_docker(run: Run) -> List[str]:
    gone = []
    if (
        os.path.exists("/sys/class/net/docker0")
        and run(["ip", "link", "delete", "docker0"])[0] == 0
    ):
        gone.append("network docker0")
    status, out, _ = run(["getent", "group", "docker"])
    if status == 0 and out.strip().endswith(":") and run(["groupdel", "docker"])[0] == 0:
        gone.append("group docker")
    return gone


def version_numbers(version: str) -> List[int]:
    """[26, 1, 5] of "26.1.5+dfsg1"."""
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _apparmor(path: str) -> bool:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
        return stream.read().strip() == "Y"
    return False


def _pick(wish: str, found: List[Engine]) -> Optional[Engine]:
    able = [engine for engine in found if wish in ("auto", engine.name)]
    usable = [engine for engine in able if not engine.unit_enabled.startswith("masked")]
    return next(iter(usable or able), None)


def _check(engine: Engine) -> None:
    if engine.package == "snap":
        raise RefusedError(
            "{} is a snap, whose confinement keeps the GPU's libraries out".format(engine.name),
            where=engine.path,
            hint="remove the snap (snap remove docker) and run again, or set "
            "infra_llm_container_engine to podman",
        )
    if engine.unit_enabled.startswith("masked"):
        unit = _UNITS[engine.name]
        raise RefusedError(
            "{} is masked: somebody decided that it must not run".format(unit),
            where="container engine",
            hint="systemctl unmask {}, or set infra_llm_container_engine to podman".format(unit),
        )


def _look(name: str, path: str, run: Run) -> Engine:
    engine = Engine(name, path, _owner(path, run))
    _, out, _ = run([path, "--version"])
    match = re.search(r"version (\d[^\s,]*)", out)
    engine.version = match.group(1) if match else ""
    unit = _UNITS.get(name)
    if unit:
        engine.unit_enabled = run(["systemctl", "is-enabled", unit])[1].strip() or "not-found"
        engine.unit_active = run(["systemctl", "is-active", unit])[1].strip() == "active"
    return engine


def _owner(path: str, run: Run) -> str:
    if "/snap/" in path or os.path.realpath(path).startswith("/snap/"):
        return "snap"
    for argv in (["dpkg-query", "--search", path], ["rpm", "--query", "--file", path]):
        status, out, _ = run(argv)
        if status == 0 and out.strip():
            # "docker.io: /usr/sbin/dockerd"; rpm gives name-version-release.arch alone.
            return out.splitlines()[0].partition(":")[0].partition(",")[0].strip()
    return ""
