"""Read an inventory through ansible-inventory and check it before any host is contacted."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra_llm.core.errors import BadInputError
from infra_llm.core.variables import problems
from infra_llm.runner.environment import ansible_environment

_EXAMPLE = "an example: inventories/lab.ini"
_DECORATION = re.compile(
    r"^(\[(ERROR|WARNING)\]:\s*|Failed to parse inventory( with '\w+' plugin)?[:.]\s*)+"
)
_NOISE = ("usage:", "<<<", "Origin:", "Completely failed", "Standard error", "no root 'plugin' key")


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
        raise BadInputError("no such inventory", where=str(path), hint=_EXAMPLE)
    if path.is_file() and path.stat().st_size == 0:
        raise BadInputError("the inventory is empty", where=str(path), hint=_EXAMPLE)
    data = _ansible_inventory(path)
    every = _hosts(data)
    if not every:
        raise BadInputError("the inventory has no hosts", where=str(path), hint=_EXAMPLE)
    if not "".join(every).isprintable():
        raise BadInputError("this is no text file", where=str(path), hint=_EXAMPLE)
    chosen = _limited(path, data, every, limit)
    variables = {host: data.get("_meta", {}).get("hostvars", {}).get(host, {}) for host in chosen}
    _check_variables(path, variables)
    return Inventory(path, chosen, variables)


def _ansible_inventory(path: Path, limit: str | None = None) -> dict[str, Any]:
    command = ["ansible-inventory", "-i", str(path), "--list"]
    if limit:
        command += ["--limit", limit]
    done = subprocess.run(
        command,
        env=ansible_environment(),
        # Ansible refuses a standard input that does not block, which whoever called us may have.
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise BadInputError(_words(done.stderr), where=str(path), hint=_EXAMPLE)
    data: dict[str, Any] = json.loads(done.stdout)
    return data


def _words(stderr: str) -> str:
    """Ansible's complaint in a line or two, without its decoration and what it says twice."""
    found: dict[str, None] = {}
    for raw in stderr.splitlines():
        line = _DECORATION.sub("", raw.strip()).strip()
        line = re.sub(r"^Origin: .*:(\d+):\d+$", r"line \1", line)
        if line and not line.startswith(_NOISE):
            found[line] = None
    return "; ".join(list(found)[:4]) or "ansible-inventory could not read it"


def _hosts(data: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for name, group in data.items():
        if name != "_meta":
            found |= dict.fromkeys(group.get("hosts", []))
    return list(found)


def _limited(path: Path, data: dict[str, Any], every: list[str], limit: str | None) -> list[str]:
    if not limit:
        return every
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
        raise BadInputError(f"--limit {limit} leaves no host", where=str(path))
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
