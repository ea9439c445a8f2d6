#!/usr/bin/python
"""Write what a host remembers of its last good run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Write HostState to the host
description:
  - Writes the document atomically. Measured figures and dates are written every time but do not
    count as a change; a change is another plan, other hardware or another verdict.
  - Only root can read it, for addresses of package indexes and mirrors may hold passwords.
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
RETURN = r"""
changed:
  description: Whether the plan, the hardware or the verdict is another.
  returned: success
  type: bool
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

MEASURED = ("measured", "verdict", "written_at", "history", "hardware")


def lasting(state):
    """The part of the state whose difference is a change."""
    return {key: value for key, value in state.items() if key not in MEASURED}


def write(path, state):
    """Put the document in place of the old one, private from its first byte."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = path + ".new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(handle, 0o600)  # one that an interrupted run left keeps its own mode
        json.dump(state, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
        write(path, state)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
