"""Plans of a fleet in a file: `infra-llm plan -o` writes it, `provision PLAN` applies it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra_llm.core import decide
from infra_llm.core.codec import parse_json
from infra_llm.core.errors import BadInputError

PLAN_SET_SCHEMA = "infra-llm/plan-set/1"


def read_plan_set(path: Path) -> dict[str, Any]:
    """A plan that `infra-llm plan -o` wrote. Raises BadInputError when it is no such file."""
    hint = "make one: infra-llm plan --inventory FILE -o PLAN"
    try:
        document = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"the plan can't be read: {error}",
            where=str(path),
            hint=hint,
        ) from error
    try:
        _check(document, path)
    except BadInputError as error:
        error.hint = error.hint or hint
        raise
    return dict(document)


def _check(document: Any, path: Path) -> None:
    if not isinstance(document, dict) or document.get("schema") != PLAN_SET_SCHEMA:
        raise BadInputError(f"not a plan of schema {PLAN_SET_SCHEMA}", where=str(path))
    if not isinstance(document.get("hosts"), dict):
        raise BadInputError("hosts must be an object", where=str(path))
    for host, entry in document["hosts"].items():
        if not isinstance(entry, dict):
            raise BadInputError("must be an object", where=f"{path}: hosts.{host}")
        place = f"{path}: hosts.{host}.desired"
        decide.check_plan(decide.read_desired(entry.get("desired"), place), place)


def given_plan(run: Mapping[str, Any], host: str) -> dict[str, Any] | None:
    """This host's entry in the plan that the run was given; None without such a plan."""
    if not run.get("plan_file"):
        return None
    document = read_plan_set(Path(run["plan_file"]))
    if host not in document["hosts"]:
        raise BadInputError("the plan has no entry for this host", where=host)
    entry: dict[str, Any] = document["hosts"][host]
    return entry
