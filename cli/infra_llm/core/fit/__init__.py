"""The planner: hardware, a model and wishes in, a launch plan out."""

from infra_llm.core.fit.ladder import choose_quant
from infra_llm.core.fit.llama_cpp.arguments import llama_server_arguments
from infra_llm.core.fit.planner import plan_launch
from infra_llm.core.fit.wishes import FitWishes

__all__ = ["FitWishes", "choose_quant", "llama_server_arguments", "plan_launch"]
