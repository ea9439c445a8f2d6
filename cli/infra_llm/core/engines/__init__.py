"""The engines, by name. A new one is a module here, a memory model in core/fit, and a role."""

from __future__ import annotations

from infra_llm.core.engines.engine import (
    Engine,
    Launch,
    LaunchContext,
    ServiceNeeds,
    installed_first,
    is_installed,
)
from infra_llm.core.engines.llama_cpp import LLAMA_CPP
from infra_llm.core.engines.llama_cpp_python import LLAMA_CPP_PYTHON
from infra_llm.core.engines.ollama import OLLAMA
from infra_llm.core.engines.vllm import VLLM

ENGINES: dict[str, Engine] = {e.name: e for e in (LLAMA_CPP, OLLAMA, VLLM, LLAMA_CPP_PYTHON)}
ENGINE_ROLES: tuple[str, ...] = tuple(engine.role for engine in ENGINES.values())
MODEL_ROLES: dict[str, str] = {e.role: e.model_role for e in ENGINES.values() if e.model_role}
"""By the role that installs the engine."""

__all__ = [
    "ENGINES",
    "ENGINE_ROLES",
    "MODEL_ROLES",
    "Engine",
    "Launch",
    "LaunchContext",
    "ServiceNeeds",
    "installed_first",
    "is_installed",
]
