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


def model_path(model: Artifact, layout: Mapping[str, str]) -> str:
    """Where a model is on the host: its file or folder, of a GGUF file in parts the first."""
    if model.get("quantize"):
        return f"{layout['models']}/{model['quantize']['filename']}"
    path = f"{layout['models']}/{model['filename']}"
    first = min((str(file["filename"]) for file in model.get("files") or ()), default="")
    return f"{path}/{first}" if first.endswith(".gguf") else path


@dataclass(frozen=True)
class LaunchContext:
    """All that a launch file is made of."""

    plan: LaunchPlan
    model: Artifact
    wishes: Mapping[str, Any]
    layout: Mapping[str, str]
    more: Sequence[tuple[str, Artifact, Mapping[str, Any]]] = ()
    """Further models at the same endpoint: name, artifact, flags."""
    companions: Mapping[str, Artifact] = field(default_factory=dict)
    """What is loaded beside the model: "projector", "draft"."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """The way in which the engine is installed, of those that `choose` gave."""
    start_seconds: int = 600
    """How long the start may take until the first answer."""
    memory_max_mib: int | None = None
    """The limit of the service's memory, where there is one."""

    @property
    def model_path(self) -> str:
        """The model's file or folder."""
        return model_path(self.model, self.layout)

    @property
    def companion_paths(self) -> dict[str, str]:
        """Likewise of what is loaded beside it."""
        return {part: model_path(of, self.layout) for part, of in self.companions.items()}


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
    container: dict[str, str] = field(default_factory=dict)
    """{"engine", "name"} of the container that `program` runs; {} for a program of the host."""


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
class ServiceNeeds:
    """What the engine's service must be allowed beyond reading its release and model."""

    exec_memory: bool = False
    """Makes code while it runs (a just-in-time compiler): memory both writable and executable."""
    writable: tuple[str, ...] = ()
    """Folders it writes to, as names of core/layout.py; its home /var/lib/NAME/engine always is."""
    address_families: tuple[str, ...] = ("AF_INET", "AF_INET6", "AF_UNIX")
    margin_mib: int = 512
    """Memory beyond the plan's high bound before the limit acts (GPU hosts: 2048 at least)."""
    start_seconds: float = 0.0
    """Beyond the time that the load takes: compilation, say."""
    told_after_start: bool = False
    """It learns of its model by its API once it runs: started means healthy, not yet an answer."""


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
    reaches: Callable[[HostHardware, Method], HostHardware] = lambda host, _: host
    """The machine as what a method installs sees it: without the GPUs that it can't use."""
    health: str = "/health"
    """Path that answers 200 once it serves."""
    running: str = ""
    """Path that tells which model is loaded and where, for engines that load it themselves."""
    public_paths: tuple[str, ...] = ()
    """All that others than this host may ask for, where the engine also has what manages it; a
    path that ends in / stands for all below. Empty: everything."""
    model_role: str = ""
    """The role that hands the model to the running service, where that is a step of its own."""
    companions: bool = False
    """It loads image encoders and draft models beside the model."""
    model_copies: int = 0
    """How often the engine keeps the model again, beside the file that was fetched."""
    one_at_a_time: bool = False
    """It serves no two requests at once: the plan has one slot."""
    context_is_shared: bool = True
    """Whether its context flag counts the tokens of all parallel requests together."""
    metrics: str = "/metrics"
    """Path of its metrics in Prometheus' format; "" for one that has none."""
    libraries: tuple[str, ...] = ()
    """Shared libraries to look for on the host."""
    needs: ServiceNeeds = field(default_factory=ServiceNeeds)
