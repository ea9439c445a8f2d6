"""What a lab is: its hosts, its identity, its folders. No side effects."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
RUN_DIR = Path("/run/infra-llm-lab")
DATA_DIR = Path("/var/lib/infra-llm-lab")
SUITES = ("bookworm", "trixie", "sid", "rocky9", "rocky10", "ubuntu2204", "ubuntu2404")
USER = "ops"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


class LabError(Exception):
    """Something the user can mend; the message says what and the hint how."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NeedsRootError(LabError):
    """The back end works for root only."""


@dataclass(frozen=True)
class HostSpec:
    """A host as it is wished for."""

    name: str
    suite: str = "bookworm"
    gpus: str = ""
    """Machine name of the GPU stand-in (tests/standins), empty for none."""
    sudo: bool = True
    python: bool = True
    memory: str = ""
    """Limit such as 2G, empty for none."""
    containers: bool = False
    """Whether a container engine is to run in the host."""
    reboots: bool = False
    """Whether the host comes back when it reboots; without it a reboot is its end."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(
                f"host name {self.name!r} is not usable",
                "use a letter first, then letters, digits and '-', at most 32 in all",
            )
        if not re.fullmatch(r"[a-z]+[0-9]*", self.suite):
            raise LabError(f"suite {self.suite!r} is not usable", f"known: {', '.join(SUITES)}")
        if self.memory and not re.fullmatch(r"[1-9][0-9]*[KMG]", self.memory):
            raise LabError(f"memory limit {self.memory!r} is not usable", "write it as 512M or 2G")


def parse_hosts(text: str, gpus: str = "", **common: Any) -> list[HostSpec]:
    """Read ``node1,node2:trixie`` and the GPU sets that go with them, one for each host."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    sets = [part.strip() for part in gpus.split(",")] if gpus else []
    if len(sets) > len(names):
        raise LabError(f"{len(sets)} GPU sets for {len(names)} hosts", "name one set for each host")
    sets += [""] * (len(names) - len(sets))
    specs = []
    for part, machine in zip(names, sets, strict=True):
        name, _, suite = part.partition(":")
        chosen = {**common, **({"suite": suite} if suite else {})}
        specs.append(HostSpec(name=name, gpus="" if machine == "none" else machine, **chosen))
    return unique(specs)


def parse_platforms(platforms: object, **common: Any) -> list[HostSpec]:
    """Read molecule's ``platforms``: a list of mappings with the fields of HostSpec."""
    if not isinstance(platforms, list):
        raise LabError("the platforms are not a list", "see molecule/selftest/molecule.yml")
    known = {field.name for field in fields(HostSpec)}
    specs = []
    for entry in platforms:
        if not isinstance(entry, dict) or "name" not in entry:
            raise LabError(f"platform {entry!r} has no name")
        chosen = {key: value for key, value in entry.items() if key != "groups"}
        if unknown := sorted(set(chosen) - known):
            raise LabError(
                f"platform {entry['name']}: unknown field {', '.join(unknown)}",
                f"known: {', '.join(sorted(known))}, groups",
            )
        specs.append(HostSpec(**{**common, **chosen}))
    return unique(specs)


def unique(specs: Sequence[HostSpec]) -> list[HostSpec]:
    """Refuse two hosts of one name, and a lab without hosts."""
    names = [spec.name for spec in specs]
    if not names:
        raise LabError("no hosts named", "for example --hosts node1,node2")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LabError(f"host named twice: {', '.join(twice)}")
    return list(specs)


@dataclass(frozen=True)
class Lab:
    """A set of hosts that belongs to one checkout and one purpose."""

    name: str = "main"
    tree: Path = TREE

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", self.name):
            raise LabError(f"lab name {self.name!r} is not usable")

    @property
    def id(self) -> str:
        """Eight hex digits that no other checkout or lab has."""
        return hashlib.sha256(f"{self.tree.resolve()}|{self.name}".encode()).hexdigest()[:8]

    @property
    def state_dir(self) -> Path:
        """Key, known_hosts, console logs and the record of the running hosts."""
        return self.tree / ".lab" / self.name

    @property
    def key(self) -> Path:
        return self.state_dir / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.state_dir / "known_hosts"

    @property
    def state_file(self) -> Path:
        return self.state_dir / "hosts.json"

    def machine(self, host: str) -> str:
        """Name of a host on the machine that runs it, unlike any of another lab."""
        return f"{host}-{self.id}"


@dataclass(frozen=True)
class Host:
    """A host that exists: what was wished for and where it is."""

    spec: HostSpec
    backend: str
    machine: str
    base: str
    address: str = ""
    port: int = 22
    pid: int = 0
    start: int = 0
    """Start time of the process in clock ticks: a pid alone may belong to another by now."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Host:
        return cls(**{**data, "spec": HostSpec(**data["spec"])})
