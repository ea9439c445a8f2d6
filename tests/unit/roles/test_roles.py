"""Every role says what it takes, and that is what it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra_llm.core.decide import ROLES

ROOT = Path(__file__).parents[3]
FOLDERS = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
NAMES = [path.name for path in FOLDERS]
OURS = re.compile(r"\b(?:{})_[a-z0-9_]+\b".format("|".join(NAMES)))
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


def options(role: Path) -> dict[str, Any]:
    found: dict[str, Any] = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]
    return dict(found.get("options", {}))


def test_the_roles_that_a_decision_names_exist() -> None:
    assert set(ROLES) <= set(NAMES)


@pytest.mark.parametrize("role", FOLDERS, ids=NAMES)
def test_the_specification_equals_the_defaults(role: Path) -> None:
    specified = {n: o["default"] for n, o in options(role).items() if "default" in o}
    assert specified == (load(role / "defaults" / "main.yml") or {})


@pytest.mark.parametrize("role", FOLDERS, ids=NAMES)
def test_every_option_is_named_after_its_role_described_and_typed(role: Path) -> None:
    for name, option in options(role).items():
        assert name.startswith(f"{role.name}_")
        assert option["description"]
        if "default" in option:
            assert isinstance(option["default"], TYPES[option["type"]]), name
            assert not option.get("required")
        if option["type"] == "list":
            assert "elements" in option, name


@pytest.mark.parametrize("role", FOLDERS, ids=NAMES)
def test_every_variable_that_a_role_uses_is_an_option_or_its_own(role: Path) -> None:
    """An option that is used but not specified fails only on the host; here it fails first."""
    sources = [p for kind in ("tasks", "handlers", "templates") for p in role.glob(f"{kind}/*")]
    text = "\n".join(path.read_text() for path in sources)
    made = set(re.findall(r"register: (\w+)", text))
    made |= set(re.findall(r"(?:loop_var|index_var): (\w+)", text))
    made |= set(re.findall(rf"^\s*({role.name}_\w+):", text, re.MULTILINE))
    made |= {name for path in role.glob("vars/*.yml") for name in load(path) or {}}
    used = {name for name in OURS.findall(text) if name.startswith(f"{role.name}_")}
    files = {path.stem for path in role.rglob("*") if path.is_file()}
    assert used - made - files - set(options(role)) == set()


@pytest.mark.parametrize("role", FOLDERS, ids=NAMES)
def test_every_option_is_used(role: Path) -> None:
    folders = ("tasks", "handlers", "templates", "vars")
    text = "\n".join(p.read_text() for name in folders for p in role.glob(f"{name}/*"))
    assert [name for name in options(role) if name not in text] == []


def _includes(data: Any) -> list[tuple[str, dict[str, Any]]]:
    """(role, variables) of every include_role in a playbook or task file."""
    found = []
    if isinstance(data, list):
        for item in data:
            found += _includes(item)
    elif isinstance(data, dict):
        include = data.get("ansible.builtin.include_role")
        if include:
            found.append((include["name"], data.get("vars") or {}))
        for key in ("tasks", "block", "rescue", "always"):
            found += _includes(data.get(key))
    return found


PLAYBOOK_FILES = sorted((ROOT / "playbooks").glob("*.yml")) + sorted(
    (ROOT / "playbooks" / "tasks").glob("*.yml")
)


@pytest.mark.parametrize("path", PLAYBOOK_FILES, ids=lambda p: p.stem)
def test_playbooks_give_roles_what_they_need_and_nothing_else(path: Path) -> None:
    for role, given in _includes(load(path)):
        specified = options(ROOT / "roles" / role)
        needed = {name for name, option in specified.items() if option.get("required")}
        assert needed <= set(given) <= set(specified), role


@pytest.mark.parametrize("path", PLAYBOOK_FILES, ids=lambda p: p.stem)
def test_playbooks_name_the_receipts_of_the_instance_that_they_work_on(path: Path) -> None:
    """A role's own default is the folder of the instance without a name."""
    for role, given in _includes(load(path)):
        option = f"{role}_receipts"
        if option in options(ROOT / "roles" / role):
            assert re.fullmatch(
                r"{{ \w+\.(layout\.)?(stack_)?receipts }}", given.get(option, "")
            ), role


def test_the_playbooks_use_every_role() -> None:
    used = {role for path in PLAYBOOK_FILES for role, _ in _includes(load(path))}
    assert used == set(NAMES)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "roles").glob("*/tasks/*.yml")) + PLAYBOOK_FILES,
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_no_task_hides_its_failure(path: Path) -> None:
    text = path.read_text()
    for word in ("ignore_errors", "failed_when: false", "ignore_unreachable"):
        assert word not in text
