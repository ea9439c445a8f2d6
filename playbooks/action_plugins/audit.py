"""Controller side of the audit: wishes in, one look at the host, what is due out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import InfraLlmError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.variables import INTERNAL, PREFIXES
from infra_llm.readers.calibrations import load_calibrations
from infra_llm.readers.measurements import keep_measured, load_measured
from infra_llm.readers.model_source import read_header
from infra_llm.readers.probe_payload import complete_hardware, pynvml_payload
from infra_llm.runner.host import after_stack, audit_arguments, decide_host
from infra_llm.runner.stack import host_stack
from infra_llm.runner.wishes import host_wishes, wishes_of_task
from infra_llm.target.probe.measure import figures


class ActionModule(ActionBase):
    """Runs the module host_audit once and decides what the host lacks."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._host = str(task_vars["inventory_hostname"])
        self._run = task_vars.get("infra_llm_run") or {}
        try:
            return self._audit(task_vars)
        except InfraLlmError as error:
            return {"failed": True, "msg": str(error), "exit_code": int(error.code)}

    def _audit(self, task_vars: Any) -> dict[str, Any]:
        before = self._task.args.get("before")
        if before:
            wished = wishes_of_task(task_vars, self._templar.template, self._host)
        else:
            wished = self._first_wishes(task_vars)
        arguments = {
            **audit_arguments(self._host, wished, self._run),
            "pynvml": pynvml_payload(),
            "measure": self._run.get("measure") or [],
            "measured": load_measured(self._host),
        }
        result = self._look(arguments, task_vars)
        if "audit" not in result:
            return result
        found = result["audit"]
        found["address"] = str(self._templar.template(task_vars.get("ansible_host") or self._host))
        found["hardware"] = complete_hardware(found["hardware"])
        if self._run.get("measure"):
            keep_measured(self._host, figures(from_dict(HostHardware, found["hardware"])))
        self._write("audit", found)
        if self._run.get("stack_only"):
            self._write("stack", self._stack(found["hardware"], wished))
            return {"changed": False}
        if self._task.args.get("probe_only"):
            return {"changed": False}
        decision = decide_host(
            self._host, found, wished, self._run, read_header, load_calibrations()
        ).to_dict()
        if before:
            decision = after_stack(before, decision)
        self._write("decision", decision)
        return {
            "changed": False,
            "lock_stale": wished["infra_llm_lock_stale_seconds"],
            "readable": found["readable"],
            **decision,
        }

    def _first_wishes(self, task_vars: Any) -> dict[str, Any]:
        """All that is named like ours is a wish yet, so that an unknown one is refused."""
        variables = {
            name: self._templar.template(value)
            for name, value in task_vars.items()
            if name.startswith(PREFIXES) and name not in INTERNAL
        }
        if self._run.get("stack_only"):
            variables |= self._run.get("stack_pins") or {}
        return host_wishes(variables, self._host)

    def _look(self, arguments: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        """The module's answer.

        A shell that finds no Python may end before the module was sent to it; Ansible takes the
        broken pipe for a host that can't be reached.
        """
        try:
            found: dict[str, Any] = self._execute_module(
                module_name="host_audit", module_args=arguments, task_vars=task_vars
            )
        except AnsibleConnectionFailure as error:
            if "Data could not be sent" not in str(error):
                raise
            if self._low_level_execute_command("command -v python3")["rc"] == 0:
                raise
            return {"failed": True, "msg": "python3: not found"}
        return found

    def _stack(self, found: dict[str, Any], wished: dict[str, Any]) -> dict[str, Any]:
        """The StackPlan of this host alone, as `infra-llm stack --inventory` wants it."""
        hardware = from_dict(HostHardware, found)
        if self._run.get("stack_secure_boot"):
            hardware.driver.secure_boot = True
        system, engines = self._run.get("stack_os"), self._run.get("stack_engines") or ()
        return host_stack(hardware, wished, self._host, system, engines).to_dict()

    def _write(self, name: str, document: dict[str, Any]) -> None:
        """Results go through files: ansible-runner empties large event payloads."""
        folder = self._run.get("results")
        if folder:
            Path(folder, f"{self._host}@{name}.json").write_text(json.dumps(document))
