#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hardware_facts
short_description: Probe what a machine is
description:
  - Reads CPU, RAM, disks, network, GPUs and their driver state, and returns them as one document.
  - Changes nothing, with or without check mode. Never fails because something can't be read;
    RV(hardware.errors) says what.
options:
  pynvml:
    description:
      - Source of pynvml.py, plain or as C(zlib+base64:...). The action plugin of the same name
        fills it in from the controller; without it only an installed pynvml is used.
    type: str
    default: ""
  timeout:
    description: Seconds for each external command, and for all of NVML.
    type: float
    default: 10
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
  root:
    description: Folder that holds the machine's files (for tests).
    type: str
    default: /
author:
  - infra-llm contributors
"""

EXAMPLES = r"""
- name: Probe the hardware
  hardware_facts:
  register: probe_result
"""

RETURN = r"""
hardware:
  description: The document infra-llm/host-hardware/1.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.target.probe import ProbeOptions, probe


def main():
    module = AnsibleModule(
        argument_spec={
            "pynvml": {"type": "str", "default": "", "no_log": True},
            "timeout": {"type": "float", "default": 10.0},
            "measure": {
                "type": "list",
                "elements": "str",
                "choices": ["memory", "disks", "gpus"],
                "default": [],
            },
            "measured": {"type": "dict", "default": {}},
            "root": {"type": "str", "default": "/"},
        },
        supports_check_mode=True,
    )
    measure = module.params["measure"]
    options = ProbeOptions(
        pynvml_source=module.params["pynvml"],
        call_timeout_s=module.params["timeout"],
        measure_memory="memory" in measure,
        measure_disks="disks" in measure,
        measure_gpus="gpus" in measure,
        measured=module.params["measured"],
    )
    host = probe(module.params["root"], options)
    module.exit_json(changed=False, hardware=host.to_dict())


if __name__ == "__main__":
    main()
