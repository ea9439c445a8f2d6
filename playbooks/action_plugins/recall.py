"""What an interrupted run had decided for this host, out of a file of the run.

Not out of a variable: in it stands what the host told of itself, and variables of the command line
are evaluated as templates. What a plugin returns is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Returns the decision."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        folder, host = task_vars["infra_llm_run"]["results"], task_vars["inventory_hostname"]
        decision: dict[str, Any] = json.loads(Path(folder, f"{host}@decision.json").read_text())
        return {**decision, "changed": False}
