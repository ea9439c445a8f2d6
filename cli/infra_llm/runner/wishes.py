"""What an inventory wishes for one host, with the engine that `auto` means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from infra_llm.core.catalogue import model_candidates, model_format
from infra_llm.core.variables import AUTO, BY_NAME, wishes
from infra_llm.readers.catalogue_file import load_catalogue

ENGINE_OF = {"gguf": "llama.cpp", "safetensors": "vllm"}


def host_wishes(variables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`wishes`; an engine left to us is that of the model's format.

    It must be known before a host is looked at, so it can't depend on its hardware.
    Raises BadInputError.
    """
    wished = wishes(variables, where)
    if wished["infra_llm_engine"] == AUTO:
        name, own = wished["infra_llm_model"], wished["infra_llm_models"]
        first = model_candidates(load_catalogue(), own, name)[0]
        wished["infra_llm_engine"] = ENGINE_OF[model_format(first)]
    return wished


def wishes_of_task(
    task_vars: Mapping[str, Any], template: Callable[[Any], Any], where: str
) -> dict[str, Any]:
    """`host_wishes` of a task's variables, templates resolved, for the plugins after the audit.

    The plays' own variables begin alike and are left out: the audit has refused unknown ones.
    """
    own = {name: template(task_vars[name]) for name in BY_NAME if name in task_vars}
    return host_wishes(own, where)
