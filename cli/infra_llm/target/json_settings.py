"""Settings of ours in a JSON file that belongs to somebody else (docker's daemon.json).

Standard library, Python 3.8. A setting is named by its path with dots ("features.cdi"). What
others set is kept; what we set is written down in a record, so that removal takes out exactly
that, and gives the file back byte by byte when nobody changed it since.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..core.errors import BadInputError, HostFailedError, RefusedError
from .service import Run, run_command

Record = Dict[str, Any]
"""{"ours": {name: value}, "original": text before our first change, None for no file}."""


@dataclass
class Outcome:
    changed: bool
    before: str
    """Text of the file, "" for no file."""
    after: str
    record: Record
    kept: List[str]
    """Names of settings that somebody else had set to another value, and that stay."""


def parse(text: str, where: str) -> Dict[str, Any]:
    """The object in a JSON text; {} for an empty one.

    Raises BadInputError with line and column where it is broken: whatever wrote it meant
    something, and a guess would lose it.
    """
    if not text.strip():
        return {}
    try:
        data = json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        raise BadInputError(
            "broken JSON: {} (line {}, column {})".format(error.msg, error.lineno, error.colno),
            where=where, hint="mend it by hand; it was left as it is",
        ) from error  # fmt: skip
    except _TwinError as error:
        raise BadInputError(
            "the name {} is there twice".format(error), where=where,
            hint="mend it by hand; it was left as it is",
        ) from error  # fmt: skip
    if not isinstance(data, dict):
        raise BadInputError("not a JSON object", where=where,
                            hint="mend it by hand; it was left as it is")  # fmt: skip
    return data


def merge(
    path: str,
    settings: Dict[str, Any],
    record: Optional[Record] = None,
    keep: Sequence[str] = (),
    check_mode: bool = False,
    validate: Sequence[str] = (),
    run: Run = run_command,
) -> Outcome:
    """Have the settings in the file, and no more of ours than these.

    `record` is what the last call gave. A setting that somebody else set to another value stays
    when its name is in `keep`, else RefusedError. `validate` is a command that says whether the
    program takes the file; "%s" in it stands for the new one.
    """
    before = _read(path)
    data = parse(before or "", path)
    known = _normal(record)
    ours: Dict[str, Any] = {}
    kept = []
    original = known["original"] if known["ours"] and before is not None else before
    for name, old in known["ours"].items():
        if name not in settings and _same(_get(data, name), old):
            _delete(data, name, parse(original or "", path))
    for name, value in settings.items():
        now = _get(data, name, path)
        mine = name in known["ours"] and _same(now, known["ours"][name])
        if now is _ABSENT or mine:
            _set(data, name, value)
            ours[name] = value
        elif not _same(now, value) and name in keep:
            kept.append(name)
        elif not _same(now, value):
            raise RefusedError(
                "{} is set to {} by somebody else, and {} is needed".format(
                    name, json.dumps(now), json.dumps(value)),
                where=path, hint="take the setting out, then run again",
            )  # fmt: skip
    after = before if data == parse(before or "", path) else _format(data, before or "")
    if not ours:
        original = None
    outcome = Outcome(after != before, before or "", after or "",
                      {"ours": ours, "original": original}, kept)  # fmt: skip
    if outcome.changed and not check_mode:
        _replace(path, outcome.after, validate, run)
    return outcome


def withdraw(path: str, record: Optional[Record], check_mode: bool = False) -> Outcome:
    """Take our settings out; the file goes when it was made by us and holds nothing else."""
    known = _normal(record)
    before = _read(path)
    if before is None or not known["ours"]:
        return Outcome(False, before or "", before or "", _normal(None), [])
    data = parse(before, path)
    original = known["original"]
    for name, value in known["ours"].items():
        if _same(_get(data, name), value):
            _delete(data, name, parse(original or "", path))
    same = data == parse(original or "", path)
    after = original if same else _format(data, before)
    if not check_mode:
        if after is None:
            _unlink(path)
        elif after != before:
            _replace(path, after, (), run_command)
    return Outcome(after != before, before, after or "", _normal(None), [])


_ABSENT = object()


class _TwinError(Exception):
    pass


def _without_twins(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwinError(name)
        found[name] = value
    return found


def _normal(record: Optional[Record]) -> Record:
    return {"ours": dict((record or {}).get("ours") or {}),
            "original": (record or {}).get("original")}  # fmt: skip


def _get(data: Dict[str, Any], name: str, where: str = "") -> Any:
    found: Any = data
    for part in name.split("."):
        if not isinstance(found, dict):
            if where:
                raise BadInputError("{} is no object".format(name.rpartition(".")[0]), where=where,
                                    hint="mend it by hand; it was left as it is")  # fmt: skip
            return _ABSENT
        if part not in found:
            return _ABSENT
        found = found[part]
    return found


def _same(one: Any, other: Any) -> bool:
    """Equal in JSON, where 1 is not true."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _set(data: Dict[str, Any], name: str, value: Any) -> None:
    *folders, leaf = name.split(".")
    for part in folders:
        data = data.setdefault(part, {})
    data[leaf] = value


def _delete(data: Dict[str, Any], name: str, original: Any) -> None:
    """Delete a setting, and the objects around it that are empty then and not the original's."""
    part, _, rest = name.partition(".")
    if not rest:
        del data[part]
        return
    inner = original.get(part) if isinstance(original, dict) else None
    _delete(data[part], rest, inner)
    if not data[part] and inner is None:
        del data[part]


def _format(data: Dict[str, Any], like: str) -> str:
    """JSON with the indentation of the text that it replaces."""
    indent = re.search(r"^([ \t]+)\S", like, re.MULTILINE)
    return json.dumps(data, indent=indent.group(1) if indent else 4, ensure_ascii=False) + "\n"


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise HostFailedError("can't be read: {}".format(error), where=path) from error


def _replace(path: str, text: str, validate: Sequence[str], run: Run) -> None:
    # A link leads to where the file is kept; rights and owner stay.
    path = os.path.realpath(path)
    temporary = path + ".infra-llm-new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        _copy_rights(path, temporary)
        if validate:
            status, out, errors = run([temporary if word == "%s" else word for word in validate])
            if status:
                raise HostFailedError(
                    "{} does not take it: {}".format(validate[0], (errors or out).strip()[-500:]),
                    where=path, hint="it was left as it is",
                )  # fmt: skip
        os.replace(temporary, path)
    except OSError as error:
        raise HostFailedError("can't be written: {}".format(error), where=path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise HostFailedError("can't be removed: {}".format(error), where=path) from error


def _copy_rights(path: str, temporary: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        os.chmod(temporary, 0o644)
        return
    os.chmod(temporary, stat.S_IMODE(status.st_mode))
    os.chown(temporary, status.st_uid, status.st_gid)
