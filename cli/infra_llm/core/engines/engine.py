"""What sets one engine apart from another: how it is chosen, and what starts it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.catalogue import Artifact
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan

Pythons = Sequence[Mapping[str, str]]
"""Interpreters of the host, the newest first: {"path", "version"}."""


@dataclass(frozen=True)
class LaunchContext:
    """All that a launch file is made of."""

    plan: LaunchPlan
    model: Artifact
    wishes: Mapping[str, Any]
    layout: Mapping[str, str]

    @property
    def model_path(self) -> str:
        return f"{self.layout['models']}/{self.model['filename']}"


@dataclass(frozen=True)
class Launch:
    """The engine's own part of the launch file."""

    context_length: int
    """Tokens of one request."""
    arguments: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=list)
    """What is executed before `arguments`; empty where the launcher finds it in the release."""
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Configuration files beside the launch file: name -> content."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the engine is told after it started (Ollama's Modelfile)."""


Method = dict[str, Any]
"""One way to install an engine: {"method", "artifact", "release"}; one that builds has "build"."""


def is_installed(method: Method, installed: Mapping[str, Any]) -> bool:
    """Whether the audit's `installed` engine ({"release", "sha256"}) is what `method` gives.

    A build is more than its source: the release's name stands for options and distribution, too.
    """
    if method.get("build"):
        return bool(method["release"] == installed.get("release"))
    return bool(method["artifact"]["sha256"] == installed.get("sha256"))


def installed_first(methods: Sequence[Method], installed: Mapping[str, Any]) -> list[Method]:
    """What is installed and would do comes first, so that it stays while it is wished."""
    return sorted(methods, key=lambda method: not is_installed(method, installed))


@dataclass(frozen=True)
class Engine:
    name: str
    """As in infra_llm_engine."""
    role: str
    """The role that installs it; also its folder's name below /opt/infra-llm."""
    choose: Callable[[Mapping[str, Any], HostHardware, Mapping[str, Any], Pythons], dict[str, Any]]
    """(catalogue, hardware, wishes, pythons) -> {"methods", "os_family", ...} for the role.

    Raises BadInputError when no way is left."""
    launch: Callable[[LaunchContext], Launch]
    planner: str
    """The planner's name of it."""
    health: str = "/health"
    """Path that answers 200 once it serves."""
    libraries: tuple[str, ...] = ()
    """Shared libraries to look for on the host."""
