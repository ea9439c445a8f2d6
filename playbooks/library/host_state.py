#!/usr/bin/python
"""Write what a host remembers of its last good run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Write HostState to the host
description:
  - Writes the document atomically. Measured figures and dates are written every time but do not
    count as a change; a change is another plan, other hardware or another verdict.
options:
  path:
    description: The state file.
    type: path
    required: true
  state:
    description: The document infra-llm/host-state/1.
    type: dict
    required: true
author: infra-llm
"""
EXAMPLES = r"""
- name: Remember
  host_state:
    path: /var/lib/infra-llm/state.json
    state: "{{ state }}"
"""
RETURN = r""" # """

import json
import os

from ansible.module_utils.basic import AnsibleModule

MEASURED = ("measured", "verdict", "written_at", "history", "hardware")


def lasting(state):
    """The part of the state whose difference is a change."""
    return {key: value for key, value in state.items() if key not in MEASURED}


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    path, state = module.params["path"], module.params["state"]
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
    except (OSError, ValueError):
        before = {}
    changed = lasting(before) != lasting(state)
    if not module.check_mode:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        temporary = path + ".new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
