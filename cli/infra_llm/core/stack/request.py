"""What the solver is asked: a machine, its distribution, what the site wishes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.hardware import Gpu, HostHardware
from infra_llm.core.stack.model import Rule
from infra_llm.core.stack.rules import Capability, Distribution, Generation, StackRules

AUTO = "auto"


class RefusalError(Exception):
    """No stack serves the machine: why, and the ways out; the solver makes a plan of it."""

    def __init__(self, rule: str, reason: str, ways_out: list[str], why: str = "") -> None:
        self.rule, self.reason, self.ways_out, self.why = rule, reason, ways_out, why
        super().__init__(reason)


@dataclass(frozen=True)
class StackWishes:
    """The site's pins; None and "auto" leave it to the solver."""

    engines: tuple[str, ...] = ("llama.cpp",)
    way: str = ""
    """How llama.cpp is installed: source, release, wheel; empty for not decided."""
    source: str = AUTO
    branch: int | None = None
    modules: str = AUTO
    cuda_source: str = AUTO
    cuda_version: str | None = None
    container_engine: str = "none"
    secure_boot: str = AUTO
    mig: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def from_variables(
        cls, wishes: Mapping[str, Any], engines: tuple[str, ...] = ()
    ) -> StackWishes:
        """Out of an inventory's checked variables."""
        branch, version = wishes["infra_llm_driver_branch"], wishes["infra_llm_cuda_version"]
        way = wishes["llama_cpp_install_method"]
        return cls(
            engines=engines or (wishes["infra_llm_engine"],),
            way="" if way == AUTO else way,
            source=wishes["infra_llm_driver_source"],
            branch=None if branch == AUTO else int(branch),
            modules=wishes["infra_llm_driver_modules"],
            cuda_source=wishes["infra_llm_cuda_source"],
            cuda_version=None if version == AUTO else str(version),
            container_engine=wishes["infra_llm_container_engine"],
            secure_boot=wishes["infra_llm_secure_boot"],
            mig={str(card): list(p) for card, p in wishes["infra_llm_mig"].items()},
        )


@dataclass
class Trail:
    """The rules that fired, once each, in the order in which they did."""

    rules: StackRules
    fired: list[Rule] = field(default_factory=list)

    def fire(self, name: str, why: str = "") -> None:
        if name not in {rule.id for rule in self.fired}:
            self.fired.append(self.rules.rule(name, why))

    def add(self, attempt: Trail) -> None:
        """The rules of an attempt that came to something."""
        for rule in attempt.fired:
            self.fire(rule.id, rule.why)


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU with what the rules know of it."""

    gpu: Gpu
    capability: Capability
    generation: Generation
    modules: frozenset[str]
    """The flavours that serve this one."""

    @property
    def text(self) -> str:
        return f"{self.gpu.name} ({self.capability[0]}.{self.capability[1]})"


@dataclass(frozen=True)
class Request:
    host: HostHardware
    distribution: Distribution
    wishes: StackWishes
    rules: StackRules
    probed: bool
    """Kernel and driver of the host are those of this distribution; else a fresh one is assumed."""

    @property
    def kernel(self) -> str:
        return self.host.system.kernel if self.probed else ""

    @property
    def container(self) -> str:
        """What kind of container the host is, whose kernel is another's; else empty."""
        kind = self.host.system.virtualization if self.probed else ""
        return kind if kind in self.rules.containers else ""

    @property
    def machine(self) -> str:
        """x86_64 or aarch64."""
        return self.host.cpu.architecture or "x86_64"


def names(cards: list[Card]) -> str:
    """ "2 x NVIDIA GeForce RTX 3090 (8.6), Tesla V100 (7.0)"."""
    counted: dict[str, int] = {}
    for card in cards:
        counted[card.text] = counted.get(card.text, 0) + 1
    return ", ".join(f"{n} x {text}" if n > 1 else text for text, n in counted.items())
