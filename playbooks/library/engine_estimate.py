#!/usr/bin/python
"""Ansible module: what the installed engine says that a launch would take."""

from __future__ import annotations

DOCUMENTATION = r"""
module: engine_estimate
short_description: Ask llama-fit-params what a launch would take
description:
  - Runs llama-fit-params of an installed release with a server's flags. It lays the launch out
    without allocating it, in about a second.
  - A release that has no such program, or one that stops, is no failure; C(why) says so.
  - Changes nothing.
options:
  release:
    description: Folder of the release.
    type: path
    required: true
  arguments:
    description: The flags, C(--model) among them.
    type: list
    elements: str
    required: true
author: infra-llm
"""
EXAMPLES = r"""
- name: Ask the engine
  engine_estimate:
    release: /opt/infra-llm/llama_cpp/current
    arguments: [--model, /srv/model.gguf, --ctx-size, "8192", --fit-print, "on"]
"""
RETURN = r"""
devices:
  description: C(name), C(model_mib), C(context_mib) and C(compute_mib) of each GPU, the host last.
  returned: success
  type: list
  elements: dict
seconds:
  description: How long it took.
  returned: success
  type: float
why:
  description: What kept it from answering; empty when it did.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.target.engine_estimate import engine_estimate


def main():
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "arguments": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **engine_estimate(**module.params))


if __name__ == "__main__":
    main()
