"""After a start that ended out of memory: the next smaller plan, or the failure as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import InfraLlmError
from infra_llm.core.hardware import HostHardware
from infra_llm.readers.calibrations import load_calibrations
from infra_llm.readers.model_source import read_header
from infra_llm.runner.step_down import step_down
from infra_llm.runner.wishes import wishes_of_task


class ActionModule(ActionBase):
    """Hands on what the host should be instead, and how many steps that took."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments, host = self._task.args, str(task_vars["inventory_hostname"])
        run = task_vars.get("infra_llm_run") or {}
        failure = arguments["failure"]
        before = arguments.get("before") or {}
        try:
            wished = wishes_of_task(task_vars, self._templar.template, host)
            found = step_down(
                arguments["desired"],
                from_dict(HostHardware, dict(arguments["hardware"])),
                wished,
                failure,
                before.get("steps") or [],
                None if run.get("plan_file") else (read_header, load_calibrations()),
                before.get("wishes"),
            )
        except InfraLlmError as error:
            return {"failed": True, "msg": str(error), "exit_code": int(error.code)}
        if run.get("results"):
            folder = Path(run["results"])
            (folder / f"{host}@steps.json").write_text(json.dumps({"steps": found["steps"]}))
            decision = folder / f"{host}@decision.json"
            if decision.exists():
                kept = json.loads(decision.read_text()) | {"desired": found["desired"]}
                decision.write_text(json.dumps(kept))
        return {"changed": False, **found}
