#!/usr/bin/python
"""Ansible module: the CDI specification of NVIDIA's GPUs, written anew when it is stale."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cdi_specification
short_description: Keep the CDI specification of NVIDIA's GPUs that of the driver
description:
  - Compares the driver's version and the GPUs (MIG instances, too) with the specification, and has
    it written anew when they differ. Nothing is done where no driver is loaded.
options:
  how:
    description:
      - V(service) starts nvidia-cdi-refresh (toolkit 1.18 on), V(generate) has nvidia-ctk write
        /etc/cdi/nvidia.yaml.
    type: str
    choices: [service, generate]
    default: service
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""
EXAMPLES = r"""
- name: Keep the CDI specification that of the driver
  cdi_specification:
    how: service
"""
RETURN = r"""
driver:
  description: Version of the loaded driver, empty where none is loaded.
  returned: success
  type: str
path:
  description: The specification that counts; empty where there is none.
  returned: success
  type: str
devices:
  description: Its devices.
  returned: success
  type: list
  elements: str
problems:
  description: What was wrong with it before, in words.
  returned: success
  type: list
  elements: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import cdi


def main():
    module = AnsibleModule(
        argument_spec={
            "how": {"type": "str", "default": "service", "choices": ["service", "generate"]}
        },
        supports_check_mode=True,
    )
    try:
        done = cdi.ensure(module.params["how"], module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    before, after = done["before"], done["after"]
    first = after["specifications"][0] if after["specifications"] else {}
    module.exit_json(
        changed=done["changed"],
        driver=after["driver"],
        path=first.get("path", ""),
        devices=first.get("devices", []),
        problems=before["problems"],
        diff={"before": _text(before), "after": _text(after)},
    )


def _text(state):
    return "".join(
        "{path}: driver {}; devices {}\n".format(
            " ".join(one["driver"]), " ".join(one["devices"]), path=one["path"]
        )
        for one in state["specifications"]
    )


if __name__ == "__main__":
    main()
