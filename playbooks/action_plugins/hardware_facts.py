"""Controller side of the module hardware_facts: sends pynvml along, completes GPUs by the table."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.readers.probe_payload import complete_hardware, pynvml_payload


class ActionModule(ActionBase):
    """Adds the argument `pynvml`; what the driver could not tell comes from the GPU table."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = {"pynvml": pynvml_payload(), **self._task.args}
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        if "hardware" in result:
            result["hardware"] = complete_hardware(result["hardware"])
        return result
