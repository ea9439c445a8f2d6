"""What is loaded beside a host's model: an image or audio encoder, a draft model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from infra_llm.core.catalogue import COMPANIONS, Artifact
from infra_llm.core.engines import Engine
from infra_llm.core.errors import BadInputError
from infra_llm.core.model import ModelProfile

HeaderReader = Callable[[Artifact, Mapping[str, Any]], ModelProfile]
"""Reads the header of a model; given the artifact and the site's download settings."""


def refuse_companions(engine: Engine, wishes: Mapping[str, Any]) -> None:
    """Raise BadInputError for an encoder or a draft model that the engine does not load."""
    wished = [variable for variable in COMPANIONS.values() if wishes[variable]]
    if wished and not engine.companions:
        raise BadInputError(
            f"{engine.name} is served without encoders and draft models here",
            where=", ".join(wished),
            hint="set infra_llm_engine: llama.cpp, or leave them empty",
        )
    if wished and wishes["infra_llm_more_models"]:
        raise BadInputError(
            "an endpoint of several models has no encoder and no draft model",
            where=", ".join(wished),
            hint="leave one of the two empty; infra_llm_instance makes a second service",
        )


def with_companions(
    model: Artifact,
    beside: Mapping[str, Artifact],
    site: Mapping[str, Any],
    read_header: HeaderReader,
) -> ModelProfile:
    """The model's header with those of what is loaded beside it."""
    header = read_header(model, site)
    parts: dict[str, Any] = {part: read_header(of, site) for part, of in beside.items()}
    return dataclasses.replace(header, **parts) if parts else header
