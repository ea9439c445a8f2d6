"""The audit's action plugin: a host that has no Python, and variables that are no wishes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

from infra_llm.core.errors import BadInputError

PLUGIN = Path(__file__).parents[3] / "playbooks/action_plugins/audit.py"
CUT = "Data could not be sent to remote host 'node'. [Errno 32] Broken pipe"


def action_module() -> Any:
    """The plugin's class."""
    spec = importlib.util.spec_from_file_location("audit_plugin", PLUGIN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ActionModule


def look(error: str, python: bool) -> dict[str, Any]:
    """`_look` on a host whose connection broke with `error`."""

    def execute(**_: Any) -> dict[str, Any]:
        raise AnsibleConnectionFailure(error)

    asked = SimpleNamespace(
        _execute_module=execute,
        _low_level_execute_command=lambda _: {"rc": 0 if python else 127},
    )
    found: dict[str, Any] = action_module()._look(asked, {}, {})
    return found


def test_no_python_is_not_a_host_that_is_out_of_reach() -> None:
    assert look(CUT, python=False) == {"failed": True, "msg": "python3: not found"}


@pytest.mark.parametrize(("error", "python"), [(CUT, True), ("Connection timed out", False)])
def test_a_host_that_is_out_of_reach_stays_one(error: str, python: bool) -> None:
    with pytest.raises(AnsibleConnectionFailure):
        look(error, python)


@pytest.mark.parametrize("before", [None, {"due": []}])
def test_what_a_play_registers_is_unknown_at_the_first_look_only(
    before: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = action_module()
    asked = SimpleNamespace(
        _host="node",
        _run={},
        _task=SimpleNamespace(args={"before": before} if before else {}),
        _templar=SimpleNamespace(template=lambda value: value),
        _look=lambda arguments, _: {"asked": arguments},
    )
    asked._first_wishes = lambda task_vars: module._first_wishes(asked, task_vars)
    given = {"infra_llm_port": 9001, "infra_llm_stack_locked": {"lock": {}}}
    if not before:
        with pytest.raises(BadInputError, match="unknown variable infra_llm_stack_locked"):
            module._audit(asked, given)
        return
    assert module._audit(asked, given)["asked"]["port"] == 9001
