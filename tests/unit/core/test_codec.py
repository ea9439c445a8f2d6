"""Documents come back as they were; what can't be read is named by its dotted path."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests import samples

from infra_llm.core.codec import from_dict, parse_json
from infra_llm.core.decide import Desired
from infra_llm.core.errors import BadInputError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan


@dataclass
class Part:
    name: str
    size: float = 0.0
    count: int | None = None
    tags: tuple[str, ...] = ()


@dataclass
class Whole:
    part: Part
    parts: list[Part] = field(default_factory=list)
    by_name: dict[str, Part] = field(default_factory=dict)
    enabled: bool = False
    anything: Any = None


def test_hardware_survives_json() -> None:
    machine = samples.hardware(gpus=[samples.nvidia()])
    assert from_dict(HostHardware, json.loads(json.dumps(machine.to_dict()))) == machine


def test_a_plan_survives_json() -> None:
    plan = from_dict(LaunchPlan, samples.desired()["plan"])
    assert from_dict(LaunchPlan, json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.host.weights_mib == 100.0
    assert plan.why[0].source == "header"


def test_every_kind_of_field_is_read() -> None:
    found = from_dict(
        Whole,
        {
            "part": {"name": "a", "size": 1, "count": None, "tags": ["x"]},
            "parts": [{"name": "b"}],
            "by_name": {"c": {"name": "c"}},
            "enabled": True,
            "anything": [1, {"deep": None}],
            "a field of a later version": 1,
        },
    )
    assert found == Whole(
        Part("a", 1.0, None, ("x",)), [Part("b")], {"c": Part("c")}, True, [1, {"deep": None}]
    )
    assert isinstance(found.part.size, float)


@pytest.mark.parametrize(
    ("data", "place", "words"),
    [
        ([], "Whole", "expected an object, found list"),
        (None, "Whole", "expected an object, found NoneType"),
        ({"part": "x"}, "Whole.part", "expected an object, found str"),
        ({"part": {"name": 1}}, "Whole.part.name", "expected str, found 1"),
        ({"part": {"name": None}}, "Whole.part.name", "expected str, found None"),
        ({"part": {"name": "a", "size": "1"}}, "Whole.part.size", "expected float, found '1'"),
        ({"part": {"name": "a", "size": True}}, "Whole.part.size", "expected float, found True"),
        ({"part": {"name": "a", "count": True}}, "Whole.part.count", "expected int, found True"),
        ({"part": {"name": "a", "count": 1.5}}, "Whole.part.count", "expected int, found 1.5"),
        ({"part": {"name": "a", "size": 10**400}}, "Whole.part.size", "the number is too large"),
        ({"part": {"name": "a", "count": 10**400}}, "Whole.part.count", "the number is too large"),
        ({"part": {"name": "a", "size": float("nan")}}, "Whole.part.size", "a finite number"),
        ({"part": {"name": "a", "size": float("-inf")}}, "Whole.part.size", "a finite number"),
        ({"part": {"name": "a", "tags": "x"}}, "Whole.part.tags", "expected a list, found str"),
        ({"part": {"name": "a", "tags": [1]}}, "Whole.part.tags[0]", "expected str, found 1"),
        ({"part": {"name": "a"}, "parts": {}}, "Whole.parts", "expected a list, found dict"),
        (
            {"part": {"name": "a"}, "parts": [{"name": "b"}, {"name": []}]},
            "Whole.parts[1].name",
            "expected str, found []",
        ),
        (
            {"part": {"name": "a"}, "by_name": {"c": {"name": 3}}},
            "Whole.by_name.c.name",
            "expected str, found 3",
        ),
        ({"part": {"name": "a"}, "by_name": []}, "Whole.by_name", "expected an object"),
        ({"part": {"name": "a"}, "enabled": 1}, "Whole.enabled", "expected bool, found 1"),
        ({"part": {}}, "Whole.part", "name missing"),
        ({}, "Whole", "part missing"),
    ],
)
def test_what_is_wrong_is_named_by_its_dotted_path(data: Any, place: str, words: str) -> None:
    with pytest.raises(BadInputError) as caught:
        from_dict(Whole, data)
    assert caught.value.where == place
    assert words in caught.value.what


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[-Infinity]", "1e999", "[" * 100_000, "9" * 5000, "\ufeff{}"]
)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_read_as_python_reads_it() -> None:
    text = '{"a": [1, 1.5, -2e3, true, null, "x"]}'
    assert parse_json(text) == {"a": [1, 1.5, -2000.0, True, None, "x"]}


def test_the_given_place_stands_in_front() -> None:
    with pytest.raises(BadInputError, match=r"plan\.json: hosts\.a\.part\.name: expected str"):
        from_dict(Whole, {"part": {"name": 1}}, "plan.json: hosts.a")


def test_all_missing_fields_are_named_at_once() -> None:
    with pytest.raises(BadInputError) as caught:
        from_dict(Desired, {"plan": {}, "launch": {}, "model": {}, "engine": {}, "service": {}})
    assert caught.value.what == "inputs, verify, site missing"


def test_a_document_of_another_version_is_refused_with_what_to_do() -> None:
    document = samples.hardware().to_dict() | {"schema": "infra-llm/host-hardware/9"}
    with pytest.raises(BadInputError) as caught:
        from_dict(HostHardware, document)
    assert "infra-llm/host-hardware/9" in caught.value.what
    assert "infra-llm/host-hardware/1" in caught.value.what
    assert caught.value.hint
