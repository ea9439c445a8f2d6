"""Plan sets are applied exactly or refused; what is damaged is never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import samples

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError, InfraLlmError, RefusedError
from infra_llm.core.plan import LaunchPlan
from infra_llm.runner import planning
from infra_llm.runner.host import (
    Decision,
)
from infra_llm.runner.plan_set import read_plan_set

Decide = Callable[..., Decision]


def plan_set(decision: Decision, name: str = "node") -> dict[str, Any]:
    document = {"schema": "infra-llm/plan-set/1", "hosts": {name: decision.to_dict()}}
    copied: dict[str, Any] = json.loads(json.dumps(document))
    return copied


@pytest.fixture
def apply(decide: Decide, tmp_path: Path) -> Callable[..., Decision]:
    """Decide with a given plan set (text or document)."""

    def apply(document: Any, audit: dict[str, Any] | None = None) -> Decision:
        path = tmp_path / "plan.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return decide(audit, samples.wishes(infra_llm_port=9000), {"plan_file": str(path)})

    return apply


def test_a_plan_is_applied_exactly(apply: Callable[..., Decision], decide: Decide) -> None:
    planned = decide(wishes=samples.wishes(infra_llm_context=2048))
    found = apply(plan_set(planned))
    assert found.desired == planned.desired
    assert found.due == samples.ROLES


def test_a_plan_for_other_hardware_is_refused(
    apply: Callable[..., Decision], decide: Decide
) -> None:
    document = plan_set(decide())
    machine = samples.hardware(fingerprint={"cpu": "EPYC 7763 x64", "memory": "64 GiB"})
    with pytest.raises(RefusedError) as caught:
        apply(document, samples.audit(hardware=machine.to_dict()))
    assert int(caught.value.code) == 7
    assert "cpu: planned Xeon Gold 6130 x16, found EPYC 7763 x64" in caught.value.what
    assert "memory" not in caught.value.what
    assert "infra-llm plan" in caught.value.hint


def test_a_plan_for_other_hosts_is_refused(apply: Callable[..., Decision], decide: Decide) -> None:
    with pytest.raises(BadInputError, match="no entry for this host"):
        apply(plan_set(decide(), "other"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "can't be read"),
        ("{", "can't be read"),
        ("[" * 100_000, "too deeply nested"),
        ('{"schema": NaN}', "NaN is no number of JSON"),
        ("\x00\x01", "can't be read"),
        ("[]", "not a plan"),
        ("null", "not a plan"),
        ("{}", "not a plan"),
        ('{"schema": "infra-llm/plan-set/2", "hosts": {}}', "not a plan"),
        ('{"schema": "infra-llm/launch-plan/1"}', "not a plan"),
        ('{"schema": "infra-llm/plan-set/1"}', "hosts"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": []}', "hosts"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": null}}', "hosts.a"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": []}}', "hosts.a"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": {"desired": 1}}}', "hosts.a.desired"),
        ('{"schema": "infra-llm/plan-set/1", "hosts": {"a": {"desired": {}}}}', "missing"),
    ],
)
def test_what_is_no_plan_set_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_plan_set(path)
    assert words in str(caught.value)
    assert str(path) in caught.value.where


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("plan.fits", False),
        ("plan.fits", "yes"),
        ("launch", {}),
        ("launch.port", "x"),
        ("launch.port", 0),
        ("launch.port", 65536),
        ("launch.port", True),
        ("launch.arguments", "--ctx-size 8192"),
        ("launch.arguments", [1]),
        ("launch.release", None),
        ("service", {}),
        ("service.user", 0),
        ("service.manager", "upstart"),
        ("verify", {}),
        ("verify.url", 8080),
        ("verify.url", "127.0.0.1:8080"),
        ("engine.methods", ["release"]),
        ("engine.methods", [{}]),
        ("layout", {}),
        ("layout.user", "root"),
        ("layout.opt", "/usr"),
        ("layout.service", "sshd"),
    ],
)
def test_nonsense_is_refused_with_its_place(
    place: str, value: Any, decide: Decide, tmp_path: Path
) -> None:
    document = plan_set(decide())
    part = document["hosts"]["node"]["desired"]
    *keys, last = place.split(".")
    for key in keys:
        part = part[key]
    part[last] = value
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BadInputError) as caught:
        read_plan_set(path)
    section = place.partition(".")[0]
    assert caught.value.where.startswith(f"{path}: hosts.node.desired.{section}")
    assert "infra-llm plan --inventory FILE -o PLAN" in caught.value.hint


@pytest.mark.parametrize("method", ["method", "release"])
def test_a_way_to_install_has_a_name_and_a_release(
    method: str, decide: Decide, tmp_path: Path
) -> None:
    document = plan_set(decide())
    del document["hosts"]["node"]["desired"]["engine"]["methods"][0][method]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(BadInputError, match=rf"methods\[0\]: {method} missing"):
        read_plan_set(path)


def test_the_plan_of_an_instance_is_one(decide: Decide, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_set(decide(wishes=samples.wishes(infra_llm_instance="b2")))))
    assert read_plan_set(path)["hosts"]["node"]["desired"]["layout"]["user"] == "infra-llm-b2"


def test_a_plan_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "no.json", tmp_path, tmp_path / "binary"):
        with pytest.raises(BadInputError, match="can't be read"):
            read_plan_set(path)


def broken(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every document that comes of `document` by losing one key or changing one value's type."""
    if isinstance(document, dict):
        for key in document:
            yield f"{path} without {key}", {k: v for k, v in document.items() if k != key}
            for what, value in broken(document[key], (*path, key)):
                yield what, {**document, key: value}
    wrong: Any = {"odd": "value"} if not isinstance(document, dict) else "odd"
    yield f"{path} of another type", wrong


def crashes(documents: Iterator[tuple[str, Any]], use: Callable[[Any], Any]) -> list[str]:
    found = []
    for what, document in documents:
        try:
            use(document)
        except InfraLlmError:
            continue
        except Exception as error:  # noqa: BLE001 - any other is what the test looks for
            found.append(f"{what}: {type(error).__name__} {error}")
    return found


def test_a_damaged_plan_set_is_refused_or_used_never_a_crash(
    apply: Callable[..., Decision], decide: Decide
) -> None:
    found = crashes(broken(plan_set(decide())), apply)
    assert not found, "\n".join(found)


def test_a_damaged_state_of_the_host_is_mended_never_a_crash(
    decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies on the host, and may be of another version or edited by hand."""
    first = decide()
    audit, plan = samples.applied(first), from_dict(LaunchPlan, first.desired["plan"])
    # The same, without the work.
    monkeypatch.setattr(planning, "choose_quant", lambda *_: (0, plan))

    def use(state: Any) -> None:
        found = decide(copy.deepcopy(audit | {"state": state}))
        assert found.desired["launch"]["port"] == 8080

    found = crashes(broken(audit["state"]), use)
    assert not found, "\n".join(found)
