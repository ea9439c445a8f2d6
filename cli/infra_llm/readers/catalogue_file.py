"""Read the catalogue that travels with the package."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from infra_llm.content import PACKAGE
from infra_llm.core.catalogue import SCHEMA
from infra_llm.core.errors import BadInputError


@cache
def load_catalogue() -> dict[str, Any]:
    """The catalogue as plain data. Raises BadInputError when it is not of our schema."""
    path = PACKAGE / "data" / "catalogue.yml"
    data = yaml.safe_load(path.read_text())
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise BadInputError(f"schema must be {SCHEMA}", where=str(path))
    return data
