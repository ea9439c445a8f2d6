#!/usr/bin/python
"""Ansible module: start an engine's unit and wait until it answers, or take the unit away."""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_unit
short_description: Start an engine's unit and wait until it answers, or take the unit away
description:
  - Enables and starts a systemd unit whose ExecStartPost waits for the first completion.
  - Fails with the engine's last log lines when it ends or keeps silent; the unit is stopped then.
options:
  name:
    description: The unit's name without C(.service).
    type: str
    required: true
  state:
    description:
      - V(started) leaves a unit that runs; V(restarted) starts it anew.
      - V(absent) stops it, now and at boot, and removes its file from C(/etc/systemd/system).
    type: str
    choices: [started, restarted, absent]
    required: true
  seconds:
    description: How long the unit itself gives a start; needed for one.
    type: float
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""
EXAMPLES = r"""
- name: Start the service
  engine_unit:
    name: infra-llm
    state: started
    seconds: 64
"""
RETURN = r"""
out_of_memory:
  description: The engine's line that says that the memory was not there; empty for another reason.
  returned: failure
  type: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.unit_start import (
    has_unit,
    must_change,
    remove_unit,
    start_unit,
)


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "required": True,
                "choices": ["started", "restarted", "absent"],
            },
            "seconds": {"type": "float"},
        },
        required_if=[("state", "started", ["seconds"]), ("state", "restarted", ["seconds"])],
        supports_check_mode=True,
    )
    name, state = module.params["name"], module.params["state"]
    try:
        if state == "absent":
            module.exit_json(changed=has_unit(name) if module.check_mode else remove_unit(name))
        if module.check_mode:
            module.exit_json(changed=must_change(name, state))
        module.exit_json(changed=start_unit(name, state, module.params["seconds"]))
    except InfraLlmError as error:
        short = getattr(error, "out_of_memory", "")
        module.fail_json(msg=str(error), exit_code=int(error.code), out_of_memory=short)


if __name__ == "__main__":
    main()
