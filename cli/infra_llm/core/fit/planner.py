"""plan_launch: the one entrance for the command line and the playbook's filter."""

from __future__ import annotations

from infra_llm.core.errors import BadInputError
from infra_llm.core.fit.llama_cpp.explain import plan_of
from infra_llm.core.fit.llama_cpp.search import Search
from infra_llm.core.fit.wishes import FitWishes
from infra_llm.core.hardware import HostHardware
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan

ENGINES = ("llama.cpp",)


def plan_launch(
    hardware: HostHardware, model: ModelProfile, wishes: FitWishes, engine: str = "llama.cpp"
) -> LaunchPlan:
    """Find the best launch that fits, or the honest no (`fits` is False, the reasons in `why`).

    Deterministic: it uses what the hardware is, not what happens to be free at the moment.
    Raises BadInputError for wishes that can't be meant and for models whose memory is not known.
    """
    wishes.check()
    if engine not in ENGINES:
        raise BadInputError(f"unknown engine {engine!r}", hint=f"use one of {', '.join(ENGINES)}")
    search = Search(hardware, model, wishes)
    return plan_of(search, search.best())
