"""LaunchPlan: the launch configuration of one engine on one host, with its figures and reasons.

Pure. Sizes are MiB, speeds tokens/s. The document is what `fit --json` prints and what a host's
state file keeps; `infra_llm.core.codec.from_dict` reads it back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = "infra-llm/launch-plan/1"
Source = Literal["header", "probe", "measured", "calibrated", "assumed"]


@dataclass
class DeviceMemory:
    """What one accelerator, or the host's RAM, holds under the plan (MiB)."""

    name: str
    weights_mib: float = 0.0
    kv_cache_mib: float = 0.0
    """Recurrent state included."""
    compute_mib: float = 0.0
    overhead_mib: float = 0.0
    """Driver context, or the engine's own process on the host."""
    compute_correction_mib: float = 0.0
    """The part of `compute_mib` that is a correction by earlier runs."""
    overhead_correction_mib: float = 0.0
    """Likewise of `overhead_mib`."""
    untouched_mib: float = 0.0
    """The part of the host's compute buffer that no prompt of the verification writes: it is in
    `high_mib` only."""
    total_mib: float = 0.0
    low_mib: float = 0.0
    high_mib: float = 0.0
    """The bound that capacity is checked against."""
    capacity_mib: float = 0.0


@dataclass
class EngineEstimate:
    """What the engine's own estimate (llama-fit-params) should print for one device (MiB).

    Its compute figure is larger than a server's: it reserves logits for a whole micro-batch.
    """

    name: str
    model_mib: float = 0.0
    context_mib: float = 0.0
    compute_mib: float = 0.0
    bound_mib: float = 0.0
    """How far the planner may be off."""


@dataclass
class TokensPerSecond:
    decode: float = 0.0
    """One user."""
    prefill: float = 0.0
    low: float = 0.0
    """Bounds of `decode`."""
    high: float = 0.0
    correction: float = 1.0
    """The factor by earlier runs that is in `decode`."""


@dataclass
class Reason:
    text: str
    source: str
    """header, probe, measured, calibrated or assumed."""


@dataclass
class PlannedModel:
    name: str = ""
    architecture: str = ""
    quant: str = ""
    sha256: str | None = None
    file_bytes: int = 0
    parameters: int = 0


@dataclass
class Alternative:
    """Another choice than the plan's, with what it would give."""

    change: str
    """In words: "context 16384", "512 MiB more VRAM"."""
    fits: bool = True
    flags: dict[str, Any] = field(default_factory=dict)
    """Only those that differ from the plan's."""
    context: int = 0
    decode: float = 0.0
    total_mib: float = 0.0
    note: str = ""


@dataclass
class LaunchPlan:
    engine: str
    fits: bool
    model: PlannedModel = field(default_factory=PlannedModel)
    flags: dict[str, Any] = field(default_factory=dict)
    """llama-server's long option names with '_' for '-', or vLLM's keys."""
    devices: list[DeviceMemory] = field(default_factory=list)
    host: DeviceMemory = field(default_factory=lambda: DeviceMemory("host"))
    tokens_per_second: TokensPerSecond = field(default_factory=TokensPerSecond)
    max_context: int = 0
    """Largest context (all slots together) that fits with the other flags unchanged."""
    max_parallel: int = 0
    """Most slots of the plan's context a slot that fit."""
    binding_constraint: str = ""
    alternatives: list[Alternative] = field(default_factory=list)
    why: list[Reason] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    engine_estimate: list[EngineEstimate] = field(default_factory=list)
    """For the confirmation on the host: a row a GPU, the host last; empty for other engines."""
    schema: str = SCHEMA

    def copy(self) -> LaunchPlan:
        """The same plan, free to be changed."""
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model),
            flags=dict(self.flags),
            devices=[dataclasses.replace(entry) for entry in self.devices],
            host=dataclasses.replace(self.host),
            tokens_per_second=dataclasses.replace(self.tokens_per_second),
            alternatives=list(self.alternatives),
            why=list(self.why),
            warnings=list(self.warnings),
            engine_estimate=[dataclasses.replace(entry) for entry in self.engine_estimate],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON as in the contract, `schema` first."""
        document = dataclasses.asdict(self)
        return {"schema": document.pop("schema"), **document}
