"""The audit's action plugin: what it makes of a host that has no Python."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

PLUGIN = Path(__file__).parents[3] / "playbooks/action_plugins/audit.py"
CUT = "Data could not be sent to remote host 'node'. [Errno 32] Broken pipe"


def look(error: str, python: bool) -> dict[str, Any]:
    """`_look` on a host whose connection broke with `error`."""
    spec = importlib.util.spec_from_file_location("audit_plugin", PLUGIN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(**_: Any) -> dict[str, Any]:
        raise AnsibleConnectionFailure(error)

    asked = SimpleNamespace(
        _execute_module=execute,
        _low_level_execute_command=lambda _: {"rc": 0 if python else 127},
    )
    found: dict[str, Any] = module.ActionModule._look(asked, {}, {})
    return found


def test_no_python_is_not_a_host_that_is_out_of_reach() -> None:
    assert look(CUT, python=False) == {"failed": True, "msg": "python3: not found"}


@pytest.mark.parametrize(("error", "python"), [(CUT, True), ("Connection timed out", False)])
def test_a_host_that_is_out_of_reach_stays_one(error: str, python: bool) -> None:
    with pytest.raises(AnsibleConnectionFailure):
        look(error, python)
