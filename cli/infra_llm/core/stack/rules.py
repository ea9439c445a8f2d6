"""The rules of the stack as data: generations, branches, releases, distributions, engines. Pure.

`StackRules.from_data` checks the document of data/stack.yml; reading it is the readers'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError
from infra_llm.core.stack.model import Rule

SCHEMA = "infra-llm/stack-rules/1"

Capability = tuple[int, int]
"""(8, 6) of "8.6"."""


def capability_of(text: str) -> Capability | None:
    """(8, 6) of "8.6"; None of anything else."""
    match = re.fullmatch(r"(\d{1,3})\.(\d{1,2})", text or "")
    return (int(match[1]), int(match[2])) if match else None


def version_of(text: str) -> Capability:
    """(12, 9) of "12.9", to compare by; raises ValueError for anything else."""
    found = capability_of(text)
    if found is None:
        raise ValueError(text)
    return found


@dataclass(frozen=True)
class Source:
    title: str
    url: str
    date: str
    """Of the document, or of reading it."""


@dataclass(frozen=True)
class RuleText:
    id: str
    text: str
    source: str


@dataclass(frozen=True)
class Generation:
    name: str
    capabilities: list[str]
    modules: list[str]
    """Flavours that serve it: open, proprietary."""
    first: int
    rule: str
    last: int | None = None


@dataclass(frozen=True)
class Branch:
    branch: int
    kind: str
    cuda: str
    modules: list[str]
    ends: str = ""
    ended: bool = False
    auto: bool = False


@dataclass(frozen=True)
class CudaRelease:
    version: str
    driver: int
    """The branch that it came with."""
    first: str
    last: str
    without: list[str] = field(default_factory=list)

    def compiles(self, capability: Capability) -> bool:
        """Whether it compiles for this compute capability."""
        inside = version_of(self.first) <= capability <= version_of(self.last)
        return inside and "{}.{}".format(*capability) not in self.without


@dataclass(frozen=True)
class Vendor:
    branch: int
    """The oldest in NVIDIA's repository for this distribution."""
    cuda: str
    rules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OwnDriver:
    branch: int
    packages: dict[str, list[str]]
    """By flavour; templates."""
    pins: dict[str, str] = field(default_factory=dict)
    """By flavour, where the newest libraries are not those of its modules."""
    apart: list[str] = field(default_factory=list)
    """Packages with versions of their own, which no pin may take to the driver's."""
    rules: dict[str, str] = field(default_factory=dict)
    """By flavour, what a person should know of its modules."""


@dataclass(frozen=True)
class Own:
    """What the distribution itself has."""

    rule: str
    components: list[str]
    drivers: list[OwnDriver]
    cuda: str
    toolkit: list[str]
    runtime: list[str]
    signed: bool = False
    """Prebuilt modules that load under Secure Boot."""
    fabric_manager: str = ""
    conflicts: dict[str, list[str]] = field(default_factory=dict)
    """By flavour and for "both", beside those of the family: names that carry a branch. {other} is
    any branch of three digits but the wanted one."""


@dataclass(frozen=True)
class Distribution:
    name: str
    label: str
    ids: list[str]
    version: str
    family: str
    suite: str
    kernels: str
    headers: list[str]
    vendor: Vendor
    own: Own | None = None
    first_kernel: str = ""
    glibc_241: bool = False
    streams: bool = False
    extra_repositories: list[str] = field(default_factory=list)
    components: list[str] = field(default_factory=list)

    def is_it(self, distribution: str, version: str) -> bool:
        """Whether os-release's ID and VERSION_ID name this one; EL has minor versions."""
        major = version.partition(".")[0] if self.family == "redhat" else version
        return distribution in self.ids and major == self.version


@dataclass(frozen=True)
class VendorPackages:
    open: list[str]
    proprietary: list[str]
    toolkit: list[str]
    runtime: list[str]
    fabric_manager: list[str]
    """Before and since package names carry no branch."""
    nvlink5: list[str]


@dataclass(frozen=True)
class DriverByCard:
    first: str
    last: str
    driver: int


@dataclass(frozen=True)
class EngineNeeds:
    name: str
    capability: str
    cuda: dict[str, str]
    """By the way it is installed: toolkit, runtime or none."""
    rules: dict[str, str]
    minimum_cuda: str = ""
    release: str = ""
    driver: int = 0
    drivers: list[DriverByCard] = field(default_factory=list)
    driver_rule: str = ""

    def branch_for(self, capability: Capability) -> int:
        """The oldest branch that serves the engine on such a card; 0 for any."""
        found = [
            entry.driver
            for entry in self.drivers
            if version_of(entry.first) <= capability <= version_of(entry.last)
        ]
        return max([self.driver, *found])


@dataclass(frozen=True)
class MigCard:
    name: str
    instances: int
    branch: int


@dataclass(frozen=True)
class NvSwitch:
    boards: list[str]
    cards: int


@dataclass(frozen=True)
class OwnDriverMachine:
    name: str
    system: str


@dataclass(frozen=True)
class ContainerToolkit:
    version: str
    packages: list[str]


@dataclass(frozen=True)
class StackRules:
    """The document of data/stack.yml."""

    sources: dict[str, Source]
    rules: list[RuleText]
    generations: list[Generation]
    open_only: list[str]
    branches: list[Branch]
    cuda: list[CudaRelease]
    cuda_majors: dict[str, int]
    cuda_roots: dict[str, str]
    cuda_wheels: list[str]
    distributions: list[Distribution]
    vendor_packages: dict[str, VendorPackages]
    unversioned_from: int
    driver_globs: dict[str, list[str]]
    conflicts: dict[str, dict[str, dict[str, list[str]]]]
    engines: list[EngineNeeds]
    mig: list[MigCard]
    nvswitch: NvSwitch
    own_driver: list[OwnDriverMachine]
    vgpu: str
    containers: list[str]
    container_toolkit: ContainerToolkit
    schema: str = SCHEMA

    @classmethod
    def from_data(cls, data: Any, where: str) -> StackRules:
        """Raises BadInputError naming the place that can't be used."""
        rules = from_dict(cls, data, where)
        known = {rule.id for rule in rules.rules}
        used = [generation.rule for generation in rules.generations]
        used += [name for d in rules.distributions for name in d.vendor.rules]
        used += [d.own.rule for d in rules.distributions if d.own]
        used += [name for engine in rules.engines for name in engine.rules.values()]
        missing = sorted(set(used) - known) + sorted(
            {rule.source for rule in rules.rules} - set(rules.sources)
        )
        if missing:
            raise BadInputError(f"no such rule or source: {', '.join(missing)}", where=where)
        return rules

    def rule(self, name: str, why: str = "") -> Rule:
        """One rule as a plan quotes it; `why` is what made it fire."""
        text = next(rule for rule in self.rules if rule.id == name)
        source = self.sources[text.source]
        return Rule(text.id, text.text, f"{source.title} ({source.url})", source.date, why)

    def distribution(self, name: str) -> Distribution:
        """Raises BadInputError that lists the known ones."""
        for distribution in self.distributions:
            if distribution.name == name:
                return distribution
        known = ", ".join(distribution.name for distribution in self.distributions)
        raise BadInputError(f"no such distribution: {name!r}", where="--os", hint=f"known: {known}")

    def distribution_of(self, distribution: str, version: str) -> Distribution | None:
        """The one that os-release's ID and VERSION_ID name."""
        return next((d for d in self.distributions if d.is_it(distribution, version)), None)

    def generation(self, capability: Capability | None) -> Generation | None:
        text = "{}.{}".format(*capability) if capability else ""
        return next((g for g in self.generations if text in g.capabilities), None)

    def branch(self, number: int) -> Branch | None:
        return next((branch for branch in self.branches if branch.branch == number), None)

    def release(self, version: str) -> CudaRelease | None:
        return next((release for release in self.cuda if release.version == version), None)

    def engine(self, name: str) -> EngineNeeds:
        """Raises BadInputError that lists the known ones."""
        for engine in self.engines:
            if engine.name == name:
                return engine
        known = ", ".join(engine.name for engine in self.engines)
        raise BadInputError(f"no such engine: {name!r}", where="engine", hint=f"known: {known}")
