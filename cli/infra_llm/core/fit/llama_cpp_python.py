"""llama-cpp-python: llama.cpp's plan, and the Python process around it.

Measured with 0.3.36 on Python 3.11 and a 135M model on 2026-11-22: 230 MiB resident where the
library's own parts are planned with 172.
"""

from __future__ import annotations

from infra_llm.core.fit.llama_cpp.explain import plan_of
from infra_llm.core.fit.llama_cpp.search import Search
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan, Reason

PYTHON_MIB, PYTHON_LOW_MIB, PYTHON_HIGH_MIB = 58.0, 30.0, 150.0
"""The interpreter, NumPy, the HTTP server and the scores of the last batch."""


def plan_llama_cpp_python(
    hardware: HostHardware, model: ModelProfile, wishes: FitWishes
) -> LaunchPlan:
    """llama.cpp's plan of one slot with more room on the host."""
    search = Search(hardware, model, wishes, {})
    plan = plan_of(search, search.best())
    host = plan.host
    host.overhead_mib += PYTHON_MIB
    host.total_mib += PYTHON_MIB
    host.low_mib += PYTHON_LOW_MIB
    host.high_mib += PYTHON_HIGH_MIB
    plan.engine = "llama-cpp-python"
    plan.fits = plan.fits and host.high_mib <= host.capacity_mib
    plan.why.append(Reason(f"{PYTHON_MIB:.0f} MiB for Python around the library", "measured"))
    return plan
