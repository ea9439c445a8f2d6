"""Read an inventory through ansible-inventory and check it before any host is contacted."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.variables import problems
from infra_llm.runner.complaint import EXAMPLE, complaint, given_twice
from infra_llm.runner.environment import ansible_environment

_SECONDS = 120
_LONGEST_NAME = 200
"""Bytes of a host's name: it is part of the name of files, which have 255."""


@dataclass
class Inventory:
    path: Path
    hosts: list[str] = field(default_factory=list)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_inventory(path: Path, limit: str | None = None) -> Inventory:
    """The hosts of an inventory (cut to `limit`) and their variables, templates not yet resolved.

    Raises BadInputError when the file is missing, empty or malformed, when the limit names
    nothing, or when one of our variables is unknown or wrong (all of them listed at once).
    """
    if not path.exists():
        raise BadInputError("no such inventory", where=str(path), hint=EXAMPLE)
    if path.is_file() and path.stat().st_size == 0:
        raise BadInputError("the inventory is empty", where=str(path), hint=EXAMPLE)
    data = _ansible_inventory(path)
    every = _hosts(data)
    if not every:
        raise BadInputError("the inventory has no hosts", where=str(path), hint=EXAMPLE)
    _check_names(path, every)
    chosen = _limited(path, data, every, limit)
    variables = {host: data.get("_meta", {}).get("hostvars", {}).get(host, {}) for host in chosen}
    _check_variables(path, variables)
    return Inventory(path, chosen, variables)


def _ansible_inventory(path: Path, limit: str | None = None) -> dict[str, Any]:
    command = ["ansible-inventory", "-i", str(path), "--list"]
    if limit:
        command += ["--limit", limit]
    done = _run(command, path, duplicates="error")
    if done.returncode != 0 and "duplicate mapping key" in done.stderr:
        twice = given_twice(path)
        if twice:
            raise twice
        done = _run(command, path, duplicates="ignore")
    if done.returncode != 0:
        raise complaint(done.stderr, path)
    try:
        data: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise BadInputError(
            f"ansible-inventory printed no JSON but {done.stdout[:100]!r}",
            where=str(path),
            hint=f"see what it does: {shlex.join(command)}",
        ) from None
    return data


def _run(command: list[str], path: Path, *, duplicates: str) -> subprocess.CompletedProcess[str]:
    """`duplicates` is what Ansible does with two keys of a name: by itself it takes the last."""
    try:
        return subprocess.run(
            command,
            env=ansible_environment() | {"ANSIBLE_DUPLICATE_YAML_DICT_KEY": duplicates},
            # Ansible refuses a standard input that does not block, which our caller may have.
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BadInputError(
            f"ansible-inventory has not read it in {_SECONDS} s",
            where=str(path),
            hint=f"see what it does: {shlex.join(command)}",
        ) from None


def _check_names(path: Path, hosts: list[str]) -> None:
    """What comes of a host lies in files that are named by it."""
    if not "".join(hosts).isprintable():
        raise BadInputError("this is no text file", where=str(path), hint=EXAMPLE)
    for host in hosts:
        if "/" in host or len(host.encode()) > _LONGEST_NAME:
            raise BadInputError(
                f"a host can't be named {host[:_LONGEST_NAME]!r}",
                where=str(path),
                hint=f"take a name without / of at most {_LONGEST_NAME} bytes, and give the "
                "address as ansible_host",
            )


def _hosts(data: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for name, group in data.items():
        if name != "_meta":
            found |= dict.fromkeys(group.get("hosts", []))
    return list(found)


def _limited(path: Path, data: dict[str, Any], every: list[str], limit: str | None) -> list[str]:
    if limit is None:
        return every
    if not re.sub(r"[\s,:!&]", "", limit):
        raise BadInputError(
            f"--limit {limit!r} names no host",
            where=str(path),
            hint="leave it out for every host, or name hosts and groups",
        )
    groups = {name for name in data if name != "_meta"}
    # An IPv6 address holds the colons that otherwise part the terms.
    terms = [part for part in limit.split(",") if part.strip() not in every]
    for term in re.split(r"[,:]", ",".join(terms)):
        word = term.lstrip("!&")
        if not re.search(r"[*?\[\]~@]", word) and word and word not in groups | {*every}:
            raise BadInputError(
                f"--limit names {word!r}, which is neither a host nor a group",
                where=str(path),
                hint=f"hosts: {', '.join(every[:10])}; groups: {', '.join(sorted(groups))}",
            )
    chosen = _hosts(_ansible_inventory(path, limit))
    if not chosen:
        raise BadInputError(
            f"--limit {limit} leaves no host",
            where=str(path),
            hint=f"hosts: {', '.join(every[:10])}; groups: {', '.join(sorted(groups))}",
        )
    return chosen


def _check_variables(path: Path, variables: dict[str, dict[str, Any]]) -> None:
    wrong: dict[str, list[str]] = {}
    for host, values in variables.items():
        for problem in problems(values, final=False):
            wrong.setdefault(problem, []).append(host)
    if wrong:
        lines = [f"{problem} ({', '.join(hosts)})" for problem, hosts in wrong.items()]
        raise BadInputError(
            "\n  ".join(lines),
            where=str(path),
            hint="the variables and what they accept: docs/variables.md",
        )
