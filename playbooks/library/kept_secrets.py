#!/usr/bin/python
"""Ansible module: keep an endpoint's key and certificate aside until a change is proven."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_secrets
short_description: Keep an endpoint's key and certificate aside until a change of them is proven
description:
  - Copies them into the folder C(before) beside them, for root alone, and gives them back after a
    failure. What is kept belongs to the state that the host remembers.
options:
  state:
    description:
      - V(kept) copies them aside. Where a run was cut off, its are given back and stay aside.
      - V(given_back) puts them in their place again and keeps nothing.
      - V(forgotten) removes what is kept once the host remembers another state.
    type: str
    choices: [kept, given_back, forgotten]
    required: true
  etc:
    description: Folder of the instance's settings.
    type: path
    required: true
  state_file:
    description: What the host remembers.
    type: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""
EXAMPLES = r"""
- name: Keep the key until the new one is proven
  kept_secrets:
    state: kept
    etc: /etc/infra-llm
    state_file: /var/lib/infra-llm/state.json
"""
RETURN = r"""
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import kept_secrets

ACTS = {
    "kept": kept_secrets.keep,
    "given_back": kept_secrets.give_back,
    "forgotten": kept_secrets.forget,
}


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "required": True, "choices": list(ACTS)},
            "etc": {"type": "path", "required": True},
            "state_file": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        changed = ACTS[given["state"]](given["etc"], given["state_file"], module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
