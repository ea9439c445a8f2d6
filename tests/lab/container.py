"""Guests of docker or podman: for machines where a container engine runs.

Same root file system, same files, same sshd. Its port is published on loopback, because the
addresses of a rootless engine are not reachable from the machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.lab import guestfiles, rootfs
from tests.lab.config import Host, HostSpec, Lab, LabError
from tests.lab.system import ensure_tools, run, start_time

LABEL = "infra-llm-lab"


class Container:
    """Back end for an engine with docker's command line."""

    def __init__(self, engine: str) -> None:
        self.name = engine

    def prepare(self) -> None:
        """Check for what builds the root file system and makes keys."""
        ensure_tools(("mmdebstrap", "ssh-keygen"))

    def base(self, suite: str) -> str:
        """Image of a suite, imported from the cached root file system."""
        wanted = rootfs.recipe(suite)
        image = f"infra-llm-lab:{wanted.name}"
        if not run([self.name, "images", "--quiet", image]).strip():
            path = rootfs.archive(wanted)
            run([self.name, "import", str(path), image], timeout=600)
        return image

    def options(self, lab: Lab, spec: HostSpec) -> list[str]:
        """Options that let systemd be pid 1."""
        argv = ["--name", lab.machine(spec.name), "--hostname", spec.name]
        argv += ["--label", f"{LABEL}={lab.id}", "--publish", "127.0.0.1::22"]
        argv += ["--memory", spec.memory.lower()] if spec.memory else []
        if self.name == "podman":
            return [*argv, "--systemd=always", "--cap-add=NET_ADMIN,SYS_PTRACE,AUDIT_WRITE"]
        argv += ["--cap-add=SYS_ADMIN", "--cap-add=NET_ADMIN"]
        argv += ["--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
        argv += ["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"]
        return [*argv, "--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp"]

    def create(
        self, lab: Lab, spec: HostSpec, base: str, files: dict[str, guestfiles.File]
    ) -> Host:
        """Start a guest; it runs when this returns, its sshd perhaps not yet."""
        machine = lab.machine(spec.name)
        host = Host(spec, self.name, machine, base, address="127.0.0.1")
        self.destroy(lab, [spec.name])
        run([self.name, "create", *self.options(lab, spec), base, "/sbin/init"])
        self.put(host, guestfiles.as_tar(files))
        run([self.name, "start", machine])
        if not spec.python:
            self.execute(host, ["sh", "-c", "rm -f /usr/bin/python3*"])
        port = run([self.name, "port", machine, "22/tcp"]).splitlines()[0].rpartition(":")[2]
        pid = int(run([self.name, "inspect", "--format", "{{.State.Pid}}", machine]))
        return Host(spec, self.name, machine, base, "127.0.0.1", int(port), pid, start_time(pid))

    def put(self, host: Host, tar: bytes) -> None:
        """Unpack a tar in the root of a guest, running or not."""
        # Archive mode would give all to root; without it the owners are those in the tar.
        run([self.name, "cp", "--archive=false", "-", f"{host.machine}:/"], stdin=tar)

    def execute(self, host: Host, argv: Sequence[str]) -> str:
        """Run a command in a guest as root."""
        return run([self.name, "exec", host.machine, *argv])

    def alive(self, host: Host) -> bool:
        """Whether the container runs."""
        try:
            shown = run([self.name, "inspect", "--format", "{{.State.Running}}", host.machine])
        except LabError:
            return False
        return shown.strip() == "true"

    def destroy(self, lab: Lab, names: Sequence[str]) -> None:
        """Remove guests of a lab; what is gone already is no error."""
        for name in names:
            known = run([self.name, "ps", "-aq", "--filter", f"name=^{lab.machine(name)}$"]).split()
            if known:
                run([self.name, "rm", "--force", "--volumes", *known])

    def destroy_all(self) -> list[str]:
        """Remove the guests of all labs of this engine, and give their names."""
        shown = run([self.name, "ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Names}}"])
        if names := shown.split():
            run([self.name, "rm", "--force", "--volumes", *names])
        return names
