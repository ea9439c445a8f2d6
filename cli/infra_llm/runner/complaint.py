"""What Ansible says of an inventory that it can't read, in our words: what, where, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from infra_llm.core.errors import BadInputError

EXAMPLE = "an example: inventories/lab.ini"
_BLOCK = re.compile(r"^(?=\[(?:ERROR|WARNING)\]: |ERROR: )", re.MULTILINE)
_DECORATION = re.compile(
    r"^(\[?(ERROR|WARNING)\]?:\s*|Failed to parse inventory( with '\w+' plugin)?[:.]\s*"
    r"|Unexpected Exception, this is probably a bug:\s*)+"
)
_NOISE = ("usage:", "<<<", "Origin:", "Completely failed", "Standard error", "no root 'plugin' key")
_SETTING = re.compile(r"from 'env: (\w+)' has an invalid value: (.*)")
_NO_JSON = re.compile(r"Object of type '(?:_AnsibleTagged)?(\w+)' is not JSON serializable.*")
_PLACE = re.compile(r"Origin: .*:(\d+):\d+")
"""Nothing but an excerpt of the file comes after it."""
_YAML = (".yml", ".yaml", ".json")
_TWICE = "is given twice"
_ITSELF = "can't add group to itself"


def complaint(stderr: str, path: Path) -> BadInputError:
    """The error for an inventory of which ansible-inventory printed `stderr`."""
    setting = _SETTING.search(stderr)
    if setting:
        return BadInputError(
            setting[2].strip(), where=setting[1], hint="unset it in your environment, or mend it"
        )
    words = _words(stderr)
    if words == _ITSELF:
        words = f"a group is its own child{_own_child(path)}"
    elif words.startswith("YAML parsing failed") and "line " not in words:
        # Ansible names no file for variables beside the inventory.
        words = next(_broken_yaml(path), words)
    return BadInputError(words, where=str(path), hint=EXAMPLE)


def given_twice(path: Path) -> BadInputError | None:
    """The error for a key that a mapping of the inventory's YAML files has twice.

    A key beside a merge ("<<: *base") that has it, too, is none: there it is meant so.
    """
    for words in _broken_yaml(path):
        if _TWICE in words:
            return BadInputError(words, where=str(path), hint="keep one of the two")
    return None


def _words(stderr: str) -> str:
    """The complaint in a line or two, without its decoration and what it says twice."""
    blocks = [block for block in _BLOCK.split(stderr) if block.strip()]
    lines = [list(_lines(block)) for block in blocks]
    # The plugin for INI is asked last, about every file, and finds that YAML is no INI.
    others = [of for of, block in zip(lines, blocks, strict=True) if "'ini' plugin" not in block]
    found = dict.fromkeys(line for of in (others if any(others) else lines) for line in of)
    return "; ".join(list(found)[:4]) or "ansible-inventory could not read it"


def _lines(block: str) -> Iterator[str]:
    """What is said in one block, its traceback and the excerpt of the file left out."""
    before, _, _ = block.partition("\nTraceback (most recent call last)")
    for raw in before.splitlines():
        place = _PLACE.fullmatch(raw)
        if place:
            yield f"line {place[1]}"
            return
        line = _DECORATION.sub("", raw.strip()).strip()
        line = _NO_JSON.sub(
            r"a value is of the type \1 (!!binary, say), which no variable is", line
        )
        if line and not line.startswith(_NOISE):
            yield line


def _own_child(path: Path) -> str:
    """Which one, as ": NAME"; empty where the inventory is a folder or a program."""
    if path.suffix in _YAML:
        tree = yaml.load(path.read_bytes(), Loader=yaml.BaseLoader)  # noqa: S506 - texts only
        return next((f": {name}" for name in _own_children(tree)), "")
    group = ""
    for raw in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        line = raw.strip()
        head = re.fullmatch(r"\[(.+):children\]", line)
        if line.startswith("["):
            group = head[1] if head else ""
        elif group and line.split(" ")[0] == group:
            return f": {group}"
    return ""


def _own_children(groups: Any) -> Iterator[str]:
    """Groups of a YAML inventory that are among their own children."""
    for name, body in groups.items() if isinstance(groups, dict) else ():
        children = body.get("children") if isinstance(body, dict) else None
        if isinstance(children, dict) and name in children:
            yield name
        yield from _own_children(children)


def _broken_yaml(path: Path) -> Iterator[str]:
    """What is wrong with the files of YAML that belong to an inventory, each named."""
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("*")) if path.is_dir() else [path]
    for kind in ("group_vars", "host_vars"):
        files += sorted((folder / kind).rglob("*"))
    for file in files:
        inside = file.parent != folder and not file.suffix
        if (inside or file.suffix in _YAML) and file.is_file():
            wrong = _wrong_in(file)
            if wrong:
                yield wrong if file == path else f"{file.relative_to(folder)}: {wrong}"


def _wrong_in(file: Path) -> str:
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"{error.problem}, line {line}"
    except (yaml.YAMLError, OSError, ValueError):
        return ""
    return next(_twice(tree), "")


def _twice(node: yaml.Node | None) -> Iterator[str]:
    """Keys that one mapping has twice."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield f"{key.value} {_TWICE}, line {key.start_mark.line + 1}"
                seen.add(key.value)
            yield from _twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
