"""After a model was quantized on the host: what the host should be, by what the result is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.core.errors import InfraLlmError
from infra_llm.readers.calibrations import load_calibrations
from infra_llm.readers.model_source import read_header
from infra_llm.runner.quantize import desired_after
from infra_llm.runner.wishes import wishes_of_task


class ActionModule(ActionBase):
    """Hands on what the host should be; planned anew where the result is not as predicted."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments, host = self._task.args, str(task_vars["inventory_hostname"])
        run = task_vars.get("infra_llm_run") or {}
        try:
            wished = wishes_of_task(task_vars, self._templar.template, host)
            desired = desired_after(
                arguments["desired"],
                arguments["result"],
                arguments["hardware"],
                read_header,
                None if run.get("plan_file") else (wished, load_calibrations()),
            )
        except InfraLlmError as error:
            return {"failed": True, "msg": str(error), "exit_code": int(error.code)}
        decision = Path(run.get("results") or "", f"{host}@decision.json")
        if run.get("results") and decision.exists():
            kept = json.loads(decision.read_text()) | {"desired": desired}
            decision.write_text(json.dumps(kept))
        return {"changed": False, "desired": desired}
