"""Read the rules of the stack that travel with the package."""

from __future__ import annotations

from functools import cache

import yaml

from infra_llm.content import PACKAGE
from infra_llm.core.stack.rules import StackRules


@cache
def load_stack_rules() -> StackRules:
    """The rules of data/stack.yml. Raises BadInputError when the file can't be used."""
    path = PACKAGE / "data" / "stack.yml"
    return StackRules.from_data(yaml.safe_load(path.read_text()), str(path))
