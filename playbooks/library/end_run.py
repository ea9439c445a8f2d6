#!/usr/bin/python
"""Ansible module: end what an interrupted run left working on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: end_run
short_description: End the processes that an interrupted run left on a host
description:
  - Tasks outlive a controller that was interrupted. This ends those of one run, told from others
    by the environment variable INFRA_LLM_RUN.
options:
  run_id:
    description: The interrupted run.
    type: str
    required: true
author: infra-llm
"""
EXAMPLES = r"""
- name: End what the interrupted run left
  end_run:
    run_id: "{{ interrupted }}"
"""
RETURN = r"""
ended:
  description: How many processes there were.
  returned: always
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.target.orphans import end_processes, processes_of


def main():
    module = AnsibleModule(
        argument_spec={"run_id": {"type": "str", "required": True}}, supports_check_mode=True
    )
    run_id = module.params["run_id"]
    count = len(processes_of(run_id)) if module.check_mode else end_processes(run_id)
    module.exit_json(changed=count > 0, ended=count)


if __name__ == "__main__":
    main()
