"""Judge what was measured on a host and hand its new state to the module host_state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from infra_llm.core.errors import ExitCode, InfraLlmError
from infra_llm.core.verdict import Verdict, judge
from infra_llm.readers.calibrations import keep_calibrations
from infra_llm.runner.host import host_state, learned

_ANSIBLES = ("changed", "failed", "invocation", "warnings", "deprecations", "exception")


class ActionModule(ActionBase):
    """Fails the host when the verdict is no; else writes HostState to it, unless roles that would
    have been due did not run (`left_out`): the next run has to find them."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = self._task.args
        host = str(task_vars["inventory_hostname"])
        results = (task_vars.get("infra_llm_run") or {}).get("results")
        desired = arguments["desired"]
        measured = {k: v for k, v in arguments["measured"].items() if k not in _ANSIBLES}
        more = [
            {k: v for k, v in result.items() if k not in _ANSIBLES}
            for result in arguments.get("more") or []
        ]
        verdict = judge(measured, desired, arguments.get("previous"), more)
        if more:
            measured["more"] = more
        document = {"measured": measured, "verdict": verdict.to_dict()}
        if results:
            Path(results, f"{host}@verify.json").write_text(json.dumps(document))
        if not verdict.passed:
            return {
                "failed": True,
                "msg": "verification failed: " + "; ".join(verdict.failures),
                "exit_code": int(ExitCode.VERIFY_FAILED),
            }
        self._learn(desired, measured, task_vars)
        result: dict[str, Any] = {"changed": False}
        if not arguments.get("left_out"):
            result = self._remember(verdict, measured, task_vars)
        if results and not result.get("failed"):
            # From here on the host is through, should the run be interrupted.
            Path(results, f"{host}@remembered.json").write_text("{}")
        return result

    def _remember(
        self, verdict: Verdict, measured: dict[str, Any], task_vars: Any
    ) -> dict[str, Any]:
        arguments, desired = self._task.args, self._task.args["desired"]
        host = str(task_vars["inventory_hostname"])
        state = host_state(
            host, desired, arguments["hardware"], measured, verdict, arguments.get("previous")
        )
        written: dict[str, Any] = self._execute_module(
            module_name="host_state",
            module_args={"path": desired["layout"]["state"], "state": state},
            task_vars=task_vars,
        )
        return written

    def _learn(self, desired: dict[str, Any], measured: dict[str, Any], task_vars: Any) -> None:
        """Keep what the run teaches the planner; a host that passed never fails for that."""
        try:
            release = self._release(desired, task_vars)
            if release:
                hardware = self._task.args["hardware"]
                keep_calibrations(learned(desired, hardware, measured, release))
        except (OSError, InfraLlmError) as error:
            Display().warning(f"what the run measured could not be kept for plans: {error}")

    def _release(self, desired: dict[str, Any], task_vars: Any) -> str:
        """Name of the installed release; only a host with several ways is asked for it."""
        methods = desired["engine"]["methods"]
        if len(methods) == 1:
            return str(methods[0]["release"])
        found = self._execute_module(
            module_name="ansible.builtin.stat",
            module_args={"path": desired["launch"]["release"], "get_checksum": False},
            task_vars=task_vars,
        )
        return Path((found.get("stat") or {}).get("lnk_target") or "").name
