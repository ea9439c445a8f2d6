"""StackPlan: what one machine needs of NVIDIA's software, or why nothing serves it. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = "infra-llm/stack-plan/1"


@dataclass
class Rule:
    """One rule that had a say in a plan; `source` names document or tracker, `date` when read."""

    id: str
    text: str
    source: str
    date: str = ""
    why: str = ""
    """What made it fire in this plan: the cards, a pin, what was found."""


@dataclass
class Repository:
    """A package repository, as the catalogue's `repositories` has it."""

    name: str
    """nvidia-cuda, nvidia-container-toolkit, distribution (components only) ..."""
    kind: str
    """apt or dnf."""
    url: str = ""
    suite: str = ""
    components: list[str] = field(default_factory=list)
    key_url: str = ""
    key_fingerprint: str = ""
    """40 hex digits; the key is refused if it is another. Empty: no key is taken, the site must
    give one (infra_llm_repositories)."""
    signed: list[str] = field(default_factory=list)
    """dnf: what the vendor signs, "packages", "index" or both. apt's indexes always are."""
    exclude: list[str] = field(default_factory=list)
    """Glob patterns of packages that must not come from here: NVIDIA's drivers where this
    repository serves CUDA only (apt: priority -1, dnf: excludepkgs)."""


@dataclass
class DriverPlan:
    """The kernel modules and libraries of the driver."""

    source: str
    """vendor (NVIDIA's repository), distro (the distribution's packages) or present (kept)."""
    branch: str
    """Major version: "580", "595"; for distro what the distribution has."""
    modules: str
    """open or proprietary."""
    packages: list[str] = field(default_factory=list)
    """To install, by name, without versions; the pin decides the version."""
    pin: str = ""
    """Version pattern that the driver's packages are pinned to, "580.*"; empty where the
    distribution's newest will do."""
    pinned: list[str] = field(default_factory=list)
    """Glob patterns of the package names that the pin, the hold and the exclusion cover."""
    hold: bool = True
    """False for signed modules, which the archive brings in step with its kernels: held ones would
    be missing after the next kernel."""
    excluded: list[str] = field(default_factory=list)
    """Glob patterns that unattended upgrades leave alone beside what is held."""
    headers: list[str] = field(default_factory=list)
    """Kernel header packages: of the running kernel, and the meta package of the next one."""
    conflicts: list[str] = field(default_factory=list)
    """Glob patterns of packages of the other flavour, source or branch, to go in the same run."""
    module_stream: str = ""
    """EL 9: the dnf module stream, "nvidia-driver:open-dkms"."""
    blacklist_nouveau: bool = True
    persistence: bool = True
    """Run nvidia-persistenced."""
    mok: bool = False
    """Secure Boot: modules built here must be signed with an enrolled machine owner key."""


@dataclass
class CudaPlan:
    kind: str
    """toolkit, runtime, wheels (from a package index) or none."""
    version: str = ""
    """As "12.9"; empty for none."""
    packages: list[str] = field(default_factory=list)
    source: str = ""
    """vendor, distro or wheels; empty for none."""
    root: str = ""
    """Folder that holds bin/nvcc: the vendor's by release, or where wheels are put; empty for the
    distribution's, which is in the path."""
    cudnn: str = ""
    """cuDNN's major version, or empty where no engine needs it."""


@dataclass
class ContainerPlan:
    """NVIDIA's container toolkit; None in a StackPlan where no engine runs in containers."""

    version: str
    """Whole or its beginning: "1.20"."""
    packages: list[str] = field(default_factory=list)
    cdi: str = "service"
    """service (nvidia-cdi-refresh keeps the file, toolkit 1.18 on) or generate (we do)."""


@dataclass
class RebootPlan:
    needed: bool = False
    why: list[str] = field(default_factory=list)


@dataclass
class StackPlan:
    os: str
    """debian12, debian13, ubuntu22.04, ubuntu24.04, rocky9, rocky10."""
    refused: bool = False
    reason: str = ""
    ways_out: list[str] = field(default_factory=list)
    driver: DriverPlan | None = None
    """None where there is no NVIDIA GPU, or the plan is refused."""
    cuda: CudaPlan = field(default_factory=lambda: CudaPlan("none"))
    container: ContainerPlan | None = None
    architectures: list[str] = field(default_factory=list)
    """Compute capabilities to compile for, without the dot: ["86", "89"]."""
    fabric_manager: bool = False
    mig: dict[str, list[str]] = field(default_factory=dict)
    """Wished layout: PCI address -> profiles; empty leaves the cards as they are."""
    repositories: list[Repository] = field(default_factory=list)
    reboot: RebootPlan = field(default_factory=RebootPlan)
    rules: list[Rule] = field(default_factory=list)
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
