"""Inventory and known_hosts of a lab: pure text out of hosts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.config import USER, Host


def ssh_options(known_hosts: Path) -> list[str]:
    """Options that keep host-key checking on, with the keys of this lab and no other."""
    return [
        f"-o UserKnownHostsFile={known_hosts}",
        "-o GlobalKnownHostsFile=/dev/null",
        "-o StrictHostKeyChecking=yes",
        "-o IdentitiesOnly=yes",
    ]


def render(hosts: Sequence[Host], key: Path, known_hosts: Path) -> str:
    """The inventory for Ansible and infra-llm, in INI form."""
    lines = ["# Written by python3 -m tests.lab up; removed by down.", "[nodes]"]
    for host in hosts:
        port = f" ansible_port={host.port}" if host.port != 22 else ""
        lines.append(f"{host.spec.name} ansible_host={host.address}{port}")
    arguments = " ".join(ssh_options(known_hosts))
    lines += [
        "",
        "[nodes:vars]",
        f"ansible_user={USER}",
        f"ansible_ssh_private_key_file={shlex.quote(str(key))}",
        f"ansible_ssh_common_args={shlex.quote(arguments)}",
    ]
    return "\n".join(lines) + "\n"


def known_hosts_lines(hosts: Sequence[Host], keys: Mapping[str, str]) -> str:
    """known_hosts out of the public host keys by host name; hosts without an address have none."""
    lines = []
    for host in hosts:
        if not host.address:
            continue
        place = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
        lines.append(f"{place} {' '.join(keys[host.spec.name].split()[:2])}\n")
    return "".join(lines)


def instance_config(hosts: Sequence[Host], key: Path) -> list[dict[str, str]]:
    """What molecule's default driver wants to know of each host."""
    return [
        {
            "instance": host.spec.name,
            "address": host.address,
            "user": USER,
            "port": str(host.port),
            "identity_file": str(key),
        }
        for host in hosts
    ]
