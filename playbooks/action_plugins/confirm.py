"""Confirm a plan by the engine itself before the service is touched; plan anew where it differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.core.errors import InfraLlmError
from infra_llm.readers.calibrations import load_calibrations
from infra_llm.readers.model_source import read_header
from infra_llm.runner.confirm import confirm
from infra_llm.runner.wishes import wishes_of_task


class ActionModule(ActionBase):
    """Asks the module engine_estimate, at most twice, and hands on what the host should be."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        host = str(task_vars["inventory_hostname"])
        run = task_vars.get("infra_llm_run") or {}
        try:
            wished = wishes_of_task(task_vars, self._templar.template, host)
            found = confirm(
                self._task.args["desired"],
                self._task.args["hardware"],
                lambda release, arguments: self._ask(release, arguments, task_vars),
                None if run.get("plan_file") else (wished, read_header, load_calibrations()),
            )
        except InfraLlmError as error:
            return {"failed": True, "msg": str(error), "exit_code": int(error.code)}
        document = found.to_dict()
        if run.get("results"):
            folder = Path(run["results"])
            (folder / f"{host}@confirm.json").write_text(json.dumps(document))
            decision = folder / f"{host}@decision.json"
            if decision.exists():
                kept = json.loads(decision.read_text()) | {"desired": found.desired}
                decision.write_text(json.dumps(kept))
        return {"changed": False, "desired": found.desired, **document}

    def _ask(self, release: str, arguments: list[str], task_vars: Any) -> dict[str, Any]:
        """The module's answer; a host that can't run it is one that can't be asked."""
        found: dict[str, Any] = self._execute_module(
            module_name="engine_estimate",
            module_args={"release": release, "arguments": arguments},
            task_vars=task_vars,
        )
        if "devices" not in found:
            return {"devices": [], "seconds": 0.0, "why": str(found.get("msg") or "no answer")}
        return found
