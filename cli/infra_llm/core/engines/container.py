"""An engine in a container: where its image comes from, and the command that runs it. Pure.

The image is data of the site (infra_llm_engine_artifacts): an archive as `docker save` writes it,
or an image of a registry by its digest. The engine's service runs the container's client in the
foreground, so that one unit serves docker and every podman. podman is the service's user's own: the
unit shuts it in like every engine's, and the container adds its file system. A quadlet can't be
that: its system services run podman as root (podman-systemd.unit(5): User= is not supported), and
podman 4.3 of Debian 12 has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core import podman
from infra_llm.core.catalogue import engine_artifact
from infra_llm.core.engines.engine import Method
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import Gpu, HostHardware

ENGINES = ("docker", "podman")
IMAGE, USER, NOFILE, NPROC = "{image}", "{user}", "{nofile}", "{nproc}"
"""Known on the host only: the launcher (roles/llm_service/files/launch.py) puts them in."""
SHM_MIB = 1024
"""Of /dev/shm for each rank, where ranks and processes hand tensors to each other. NCCL's guide
asks for 1 GiB (troubleshooting, "Shared memory"); docker's own 64 MiB are too few for that."""


@dataclass(frozen=True)
class Container:
    """What of a container differs from one engine and host to the next."""

    engine: str
    """docker or podman."""
    name: str
    user: str
    """The service's user, whose number the processes have."""
    containers: str
    """podman: the instance's folder of stores."""
    run: str
    """podman: the service's runtime folder."""
    read_only: Sequence[str]
    """Files and folders that stand in it at the same path as on the host."""
    writable: Sequence[str]
    devices: Sequence[str] = ()
    """Names of the Container Device Interface, as nvidia.com/gpu=0."""
    ranks: int = 1
    memory_mib: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def command(container: Container, program: Sequence[str]) -> list[str]:
    """The client's command line; `program` is what runs inside, its first word the entry point."""
    mounts = [f"type=bind,src={path},dst={path},readonly" for path in container.read_only]
    mounts += [f"type=bind,src={path},dst={path}" for path in container.writable]
    # Nothing in the image knows the user's number, and torch asks for a name.
    environment = {**container.environment, "USER": container.user, "LOGNAME": container.user}
    options = [
        *("--rm", f"--name={container.name}", "--pull=never", "--network=host"),
        *("--read-only", "--tmpfs=/tmp:exec", "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", f"--ulimit=nofile={NOFILE}"),
        # Its output is the unit's, and so the journal's; a second copy would fill the disk.
        "--log-driver=none",
        *(f"--mount={mount}" for mount in mounts),
        *(f"--device={device}" for device in container.devices),
        *(f"--env={name}={value}" for name, value in sorted(environment.items())),
        *(_of_podman(container) if container.engine == "podman" else _of_docker(container)),
        f"--entrypoint={program[0]}",
    ]
    client = ["/usr/bin/docker"]
    if container.engine == "podman":
        client = podman.service_client(container.containers, container.run)
    return [*client, "run", *options, IMAGE, *program[1:]]


def _of_podman(container: Container) -> list[str]:
    return [
        # The user outside, whatever user the image names.
        "--user=0:0",
        # All but files is the unit's, which shuts it in: no other namespace is needed for that,
        # and the unit allows no other. Limits are its control group's.
        *("--pid=host", "--ipc=host", "--uts=host", "--cgroupns=host", "--pids-limit=0"),
        # With SELinux: files of the host keep their labels (NVIDIA's container toolkit guide asks
        # for the same).
        "--security-opt=label=disable",
        # podman's own default of processes may be more than a host allows.
        f"--ulimit=nproc={NPROC}",
        *("--replace", f"--pidfile={container.run}/{podman.PIDFILE}"),
    ]


def _of_docker(container: Container) -> list[str]:
    limit = [f"--memory={container.memory_mib}m"] if container.memory_mib else []
    return [f"--user={USER}", f"--shm-size={SHM_MIB * max(1, container.ranks)}m", *limit]


def method(
    catalogue: Mapping[str, Any],
    engine: str,
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    gpus: Sequence[Gpu],
) -> Method:
    """How `engine` comes to this host as an image.

    Raises BadInputError without a container engine of one name, an image, or systemd.
    """
    runtime = wishes["infra_llm_container_engine"]
    if runtime not in ENGINES:
        raise BadInputError(
            f"{engine} in a container needs docker or podman, not {runtime}",
            where="infra_llm_container_engine",
            hint="set infra_llm_container_engine: docker, or podman",
        )
    artifact = engine_artifact(catalogue, engine, "container", hardware.cpu.architecture)
    if artifact is None:
        raise BadInputError(
            f"the catalogue has no image of {engine} for {hardware.cpu.architecture}",
            where=f"infra_llm_engine_artifacts.{engine}.container",
            hint="give the site's own: an archive (filename, sha256, size) or a place of kind "
            "registry (image, digest); docs/engines.md shows both",
        )
    managers = (wishes["infra_llm_service_manager"], hardware.system.service_manager)
    if "supervisor" in managers or managers[1] != "systemd":
        raise BadInputError(
            "containers are run by systemd units only",
            where="infra_llm_service_manager",
            hint="leave out the container, or boot the host with systemd",
        )
    # An image belongs to the engine that holds it.
    identity = hashlib.sha256(f"{artifact['sha256']} {runtime}".encode()).hexdigest()
    version = str(artifact["version"] or "image").replace(" ", "-").replace("/", "-")
    return {
        "method": "container",
        "release": f"{runtime}-{version}-{identity[:8]}",
        # The archive, and as much again in the engine's store.
        "artifact": {"installed": artifact["size"], **artifact, "sha256": identity},
        "image": artifact,
        "runtime": runtime,
        "devices": [f"nvidia.com/gpu={gpu.index}" for gpu in gpus],
    }


def planned_devices(method: Method, ranks: int) -> list[str]:
    """The cards that the plan uses, as CDI names them."""
    devices: list[str] = method["devices"]
    return ["nvidia.com/gpu=all"] if 0 < len(devices) == ranks else devices[:ranks]
