"""The engines, by name. A new one is a module here, a memory model in core/fit, and a role."""

from __future__ import annotations

from infra_llm.core.engines.engine import (
    Engine,
    Launch,
    LaunchContext,
    installed_first,
    is_installed,
)
from infra_llm.core.engines.llama_cpp import LLAMA_CPP

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LLAMA_CPP,)}
ENGINE_ROLES: tuple[str, ...] = tuple(engine.role for engine in ENGINES.values())

__all__ = [
    "ENGINES",
    "ENGINE_ROLES",
    "Engine",
    "Launch",
    "LaunchContext",
    "installed_first",
    "is_installed",
]
