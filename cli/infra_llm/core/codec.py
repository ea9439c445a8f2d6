"""JSON documents back into dataclasses, with errors that name the place.

Controller only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from functools import cache
from typing import Any, TypeVar

from infra_llm.core.errors import BadInputError

T = TypeVar("T")
_MOST = 2**63
"""No count or size of ours comes near; a longer number is no float any more, or not printed."""


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def parse_json(text: str) -> Any:
    """A JSON text as data. Raises ValueError for what is none, NaN and Infinity too."""
    try:
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("too deeply nested") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """Build `cls` from JSON data; unknown keys are ignored (documents may gain fields).

    Raises BadInputError naming the dotted path of the first value of a wrong type.
    """
    place = where or cls.__name__
    if not isinstance(data, dict):
        raise BadInputError(f"expected an object, found {type(data).__name__}", where=place)
    schema = next((f.default for f in dataclasses.fields(cls) if f.name == "schema"), None)  # type: ignore[arg-type]
    if schema is not None and data.get("schema", schema) != schema:
        raise BadInputError(
            f"schema is {data.get('schema')!r}, this version reads {schema!r}",
            where=place,
            hint="make the document again with this version of infra-llm",
        )
    values = {
        f.name: _value(_hints(typing.cast(Any, cls))[f.name], data[f.name], f"{place}.{f.name}")
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name in data
    }
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in values and _is_needed(f)]  # type: ignore[arg-type]
    if missing:
        raise BadInputError(f"{', '.join(missing)} missing", where=place)
    return cls(**values)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), data, where)
    if origin in (list, tuple):
        if not isinstance(data, list | tuple):
            raise BadInputError(f"expected a list, found {type(data).__name__}", where=where)
        items = [_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(data)]
        return items if origin is list else tuple(items)
    if origin is dict:
        if not isinstance(data, dict):
            raise BadInputError(f"expected an object, found {type(data).__name__}", where=where)
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, data, where)
    return _scalar(hint, data, where)


def _scalar(hint: Any, data: Any, where: str) -> Any:
    if isinstance(data, int) and not -_MOST < data < _MOST:
        raise BadInputError("the number is too large", where=where)
    if isinstance(data, float) and not math.isfinite(data):
        raise BadInputError(f"must be a finite number, found {data}", where=where)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        raise BadInputError(f"expected {hint.__name__}, found {data!r}", where=where)
    return data
