"""The files that make a host out of a root file system, as one tar for every back end."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.lab import machine
from tests.lab.config import USER, HostSpec, Lab
from tests.lab.leases import GATEWAY, NETWORK
from tests.lab.system import run


@dataclass(frozen=True)
class File:
    content: str
    mode: int = 0o644
    uid: int = 0


def make_key(lab: Lab) -> str:
    """Public key of the lab, made at first use."""
    if not lab.key.exists():
        lab.state_dir.mkdir(parents=True, exist_ok=True)
        comment = f"infra-llm-lab-{lab.id}"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(lab.key)])
    return lab.key.with_name(lab.key.name + ".pub").read_text()


def host_key() -> tuple[str, str]:
    """A new SSH host key, private and public."""
    folder = Path(tempfile.mkdtemp(prefix="infra-llm-key-"))
    try:
        path = folder / "key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)])
        return path.read_text(), path.with_name("key.pub").read_text()
    finally:
        shutil.rmtree(folder)


def common_files(spec: HostSpec, user_key: str, host_keys: tuple[str, str]) -> dict[str, File]:
    """Identity, login and package settings of a host: the same for every back end."""
    private, public = host_keys
    home = f"home/{USER}/.ssh"
    files = {
        "etc/machine-id": File(uuid.uuid4().hex + "\n", 0o444),
        "etc/ssh/ssh_host_ed25519_key": File(private, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": File(public),
        f"{home}/": File("", 0o700, 1000),
        f"{home}/authorized_keys": File(user_key, 0o600, 1000),
        "etc/pip.conf": File(machine.machine_pip_conf()),
    }
    if spec.sudo:
        files[f"etc/sudoers.d/{USER}"] = File(f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    return files


def network_files(spec: HostSpec, address: str, mtu: int) -> dict[str, File]:
    """Name and static address; a container engine sets these by itself."""
    unit = (
        f"[Match]\nName=host0\n\n[Link]\nMTUBytes={mtu}\n\n[Network]\n"
        f"Address={address}/{NETWORK.prefixlen}\nGateway={GATEWAY}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )
    return {
        "etc/hostname": File(spec.name + "\n"),
        "etc/hosts": File(f"127.0.0.1 localhost\n{address} {spec.name}\n::1 localhost\n"),
        "etc/resolv.conf": File(machine.resolv_conf()),
        "etc/systemd/network/10-host0.network": File(unit),
    }


def as_tar(files: dict[str, File]) -> bytes:
    """Pack files with owner and mode; a name that ends in a slash is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode, entry.uid, entry.gid = file.mode, file.uid, file.uid
            entry.mtime = int(time.time())
            data = file.content.encode()
            if name.endswith("/"):
                entry.type, data = tarfile.DIRTYPE, b""
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
