"""FitWishes: what the person wants of the launch, each None where the planner may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from infra_llm.core.errors import BadInputError

MOST = (1 << 31) - 1
"""Engines hold tokens and threads in 32 bits."""


@dataclass(frozen=True)
class FitWishes:
    """Wishes of a plan; a given value is pinned and only predicted, None is solved."""

    context: int | None = None
    """Tokens of all slots together, as the engine's own context flag counts them."""
    parallel: int | None = None
    """Slots (llama.cpp, Ollama) or sequences at once (vLLM)."""
    users: int = 1
    """People or programs that ask at the same time."""
    kv_type: str | None = None
    kv_type_v: str | None = None
    """Type of V where it differs from K's."""
    gpu_layers: int | None = None
    """As -ngl counts: the output layer is one."""
    cpu_moe_layers: int | None = None
    threads: int | None = None
    batch: int | None = None
    ubatch: int | None = None
    flash_attention: bool | None = None
    tensor_split: tuple[float, ...] | None = None
    minimum_decode: float | None = None
    """Tokens per second that one user must at least get."""
    engine_build: int | None = None
    """Build number of llama.cpp where it is not the pinned one: buffers depend on it."""
    projector_file: str | None = None
    """Where the model's `projector` was read from, for the launch's flags."""
    draft_file: str | None = None
    """Likewise its `draft`."""
    engine_flags: tuple[str, ...] = ()
    """As the engine spells them; pinned, and win over the fields above."""

    def check(self) -> None:
        """Raise BadInputError for a value that can't be meant."""
        for name in ("context", "parallel", "users", "threads", "batch", "ubatch"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST:
                raise BadInputError(f"{name} is {value}", hint=f"{name} must be from 1 to {MOST}")
        if self.gpu_layers is not None and self.gpu_layers < 0:
            raise BadInputError(f"gpu layers is {self.gpu_layers}", hint="give 0 or more")
        if self.minimum_decode is not None and not 0 <= self.minimum_decode < math.inf:
            raise BadInputError(
                f"the minimum speed is {self.minimum_decode}", hint="give tokens per second"
            )
