"""Controller side of the module verify_endpoint: sends pynvml along where GPUs are measured."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from infra_llm.readers.probe_payload import pynvml_payload


class ActionModule(ActionBase):
    """Adds the argument `pynvml`."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("gpus"):
            arguments["pynvml"] = pynvml_payload()
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result
