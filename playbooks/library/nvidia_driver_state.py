#!/usr/bin/python
"""Ansible module: NVIDIA's driver on a host, in one look; builds and loads what is missing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvidia_driver_state
short_description: Look at NVIDIA's driver, or bring its modules in line with its packages
description:
  - V(read) looks and refuses what must not be touched, a driver of the .run installer or a machine
    under Secure Boot whose key nobody may enrol.
  - V(loaded) builds the modules for the running and the next kernel where DKMS has not, asks for
    the enrolment of the key that they are signed with where the plan says so, and loads what is
    installed; where that needs a reboot it says why, and does not reboot.
  - A container has no kernel of its own; there it says so and changes nothing.
options:
  state:
    description: What to do.
    type: str
    choices: [read, loaded]
    default: read
  plan:
    description: DriverPlan, as core.stack.model has it.
    type: dict
    default: {}
  remove_runfile:
    description: Whether a driver of the .run installer may be removed.
    type: bool
    default: false
  drain:
    description: Units to stop before modules are unloaded; those enabled are started again.
    type: list
    elements: str
    default: []
  fabric_manager:
    description: Whether Fabric Manager must be there in the driver's own version.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Look at the driver
  nvidia_driver_state:
    plan: "{{ plan }}"

- name: Load what is installed
  nvidia_driver_state:
    state: loaded
    plan: "{{ plan }}"
    drain: [infra-llm-llama-cpp.service]
"""

RETURN = r"""
driver:
  description: Versions of module and library, the module of each kernel, leftovers, Secure Boot.
  returned: success
  type: dict
reboot:
  description: Why a reboot is needed; empty if none is.
  returned: success
  type: list
  elements: str
notes:
  description: What was done, and what was not and why.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.nvidia import modules
from ansible.module_utils.target.nvidia.state import read_state


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", "loaded"], "default": "read"},
            "plan": {"type": "dict", "default": {}},
            "remove_runfile": {"type": "bool", "default": False},
            "drain": {"type": "list", "elements": "str", "default": []},
            "fabric_manager": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    ensured = modules.Ensured()
    try:
        if params["state"] == "read":
            modules.refuse(read_state(), params["plan"], params["remove_runfile"])
        else:
            ensured = modules.ensure(params["plan"], params["drain"], module.check_mode)
            if params["fabric_manager"] and not module.check_mode:
                modules.check_fabric_manager()
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(
        changed=ensured.changed,
        driver=modules.summary(read_state()),
        reboot=ensured.reboot,
        notes=ensured.notes,
    )


if __name__ == "__main__":
    main()
