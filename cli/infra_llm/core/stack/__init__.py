"""The NVIDIA stack of a machine: driver, CUDA, container toolkit, solved as one. Pure."""

from infra_llm.core.stack.model import StackPlan
from infra_llm.core.stack.request import StackWishes
from infra_llm.core.stack.rules import StackRules
from infra_llm.core.stack.solver import solve

__all__ = ["StackPlan", "StackRules", "StackWishes", "solve"]
