#!/usr/bin/python
"""Ansible module: a service under supervisor, on hosts without systemd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: supervised_service
short_description: Start, restart or shut down a service under supervisor
description:
  - supervisord is started when it does not run; shutdown ends it and what runs under it.
options:
  name:
    description: The program in supervisor's configuration.
    type: str
    required: true
  state:
    description: What shall be.
    type: str
    choices: [started, restarted, shutdown]
    required: true
  config:
    description: supervisor's configuration file.
    type: path
    required: true
  socket:
    description: supervisor's unix socket.
    type: path
    required: true
  library:
    description: Folder that holds the unpacked wheel of supervisor.
    type: path
    default: ""
  python:
    description: Interpreter that runs supervisord.
    type: path
    default: python3
author: infra-llm
"""
EXAMPLES = r"""
- name: Start the service
  supervised_service:
    name: infra-llm
    state: started
    config: /etc/infra-llm/supervisord.conf
    socket: /run/infra-llm/supervisor.sock
    library: /opt/infra-llm/supervisor/4.3.0
"""
RETURN = r"""
changed:
  description: Whether it was started, restarted or ended.
  returned: success
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import supervised


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "required": True,
                "choices": ["started", "restarted", "shutdown"],
            },
            "config": {"type": "path", "required": True},
            "socket": {"type": "path", "required": True},
            "library": {"type": "path", "default": ""},
            "python": {"type": "path", "default": "python3"},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    names = ("name", "config", "socket", "library", "python")
    program = supervised.Supervised(**{name: module.params[name] for name in names})
    try:
        if module.check_mode:
            active = program.state().active
            would = {
                "started": not active,
                "restarted": True,
                "shutdown": supervised.running(program),
            }
            module.exit_json(changed=would[state])
        act = {
            "started": supervised.start,
            "restarted": supervised.restart,
            "shutdown": supervised.shutdown,
        }
        module.exit_json(changed=act[state](program))
    except InfraLlmError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
