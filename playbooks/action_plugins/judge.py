"""Judge what was measured on a host and hand its new state to the module host_state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.core.errors import ExitCode
from infra_llm.core.verdict import judge
from infra_llm.runner.host import host_state

_ANSIBLES = ("changed", "failed", "invocation", "warnings", "deprecations", "exception")


class ActionModule(ActionBase):
    """Fails the host when the verdict is no; else writes HostState to it."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self._task.args
        host = str(task_vars["inventory_hostname"])
        results = (task_vars.get("infra_llm_run") or {}).get("results")
        desired = arguments["desired"]
        measured = {k: v for k, v in arguments["measured"].items() if k not in _ANSIBLES}
        verdict = judge(measured, desired)
        document = {"measured": measured, "verdict": verdict.to_dict()}
        if results:
            Path(results, f"{host}@verify.json").write_text(json.dumps(document))
        if not verdict.passed:
            return {
                "failed": True,
                "msg": "verification failed: " + "; ".join(verdict.failures),
                "exit_code": int(ExitCode.VERIFY_FAILED),
            }
        state = host_state(
            host, desired, arguments["hardware"], measured, verdict, arguments.get("previous")
        )
        result: dict[str, Any] = self._execute_module(
            module_name="host_state",
            module_args={"path": desired["layout"]["state"], "state": state},
            task_vars=task_vars,
        )
        return result
