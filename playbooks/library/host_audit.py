#!/usr/bin/python
"""One read-only look at a host: hardware, what infra-llm remembers, what differs from that."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_audit
short_description: Probe a host and compare it with what infra-llm left there
description:
  - Probes the hardware, reads the host's state and receipts, and compares the receipts with the
    files, packages, users and units as they are. Changes nothing.
options:
  layout:
    description: Where infra-llm keeps its things on a host.
    type: dict
    required: true
  port:
    description: The TCP port that the endpoint shall have.
    type: int
    required: true
  engine_port:
    description: The TCP port of the engine on loopback, where a front has the endpoint's.
    type: int
    required: true
  thorough:
    description: Hash every file, however big, in place of trusting size and time of big ones.
    type: bool
    default: false
  libraries:
    description: Shared libraries to look for.
    type: list
    elements: str
    default: []
  pynvml:
    description: Source of pynvml, as the action plugin packs it.
    type: str
    default: ""
  measure:
    description: What to measure besides reading; seconds each.
    type: list
    elements: str
    choices: [memory, disks, gpus]
    default: []
  measured:
    description: Figures of an earlier run; they stand while the fingerprint is the same.
    type: dict
    default: {}
author: infra-llm
"""
EXAMPLES = r"""
- name: Look at the host
  host_audit:
    layout: "{{ layout }}"
    port: 8080
"""
RETURN = r"""
audit:
  description: Hardware, state, differences by role, lock, engine, space, Pythons and port.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.target.audit import audit


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "layout": {"type": "dict", "required": True},
            "port": {"type": "int", "required": True},
            "engine_port": {"type": "int"},
            "thorough": {"type": "bool", "default": False},
            "measure": {
                "type": "list",
                "elements": "str",
                "choices": ["memory", "disks", "gpus"],
                "default": [],
            },
            "measured": {"type": "dict", "default": {}},
            "libraries": {"type": "list", "elements": "str", "default": []},
            "pynvml": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, audit=audit(module.params))


if __name__ == "__main__":
    main()
