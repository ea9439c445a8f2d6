#!/usr/bin/python
"""Ansible module: a Python environment of exactly the packages of a lock file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_environment
short_description: Make a Python environment of exactly the packages of a lock file
description:
  - Every package is checked by the sha256 that the lock file names; only wheels are taken, and
    nothing but what is locked. pip comes from the catalogue and is not left in the environment.
  - An environment that is there is left alone while its marker names the same lock and every file
    of every package has its size; a damaged one is made anew.
  - What is replaced is put aside meanwhile, and put back when the new one can't be made.
  - In check mode nothing is touched and no place is asked.
options:
  dest:
    description: Folder of the environment.
    type: path
    required: true
  python:
    description: Interpreter to make it with.
    type: path
    required: true
  lock:
    description: The lock file, a requirements file with hashes.
    type: path
    required: true
  lock_sha256:
    description: The lock file's own sha256.
    type: str
    required: true
  artifact:
    description: C(name), C(version), C(filename) and C(sha256), which the marker shall name.
    type: dict
    required: true
  pip:
    description: The wheel of pip, an artifact of the catalogue.
    type: dict
    required: true
  wheels:
    description: Wheels of the lock file that no index has, artifacts of the catalogue.
    type: list
    elements: dict
    default: []
  settings:
    description: What the site decides; C(index_urls), and C(folders), which may hold wheels.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Make vLLM's environment
  python_environment:
    dest: /opt/infra-llm/vllm/releases/cpu-0.32.0-py311-1a2b3c4d
    python: /usr/bin/python3.11
    lock: /opt/infra-llm/vllm/releases/cpu-0.32.0-py311-1a2b3c4d.lock
    lock_sha256: "{{ method.lock.sha256 }}"
    artifact: "{{ method.artifact }}"
    pip: "{{ method.pip }}"
    wheels: "{{ method.wheels }}"
"""

RETURN = r"""
path:
  description: The folder.
  returned: success
  type: str
whole:
  description: Whether it was there already, undamaged.
  returned: success
  type: bool
repaired:
  description: The file that was missing or damaged, because of which it was made anew.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.python_environment import run_environment


def main():
    module = AnsibleModule(
        argument_spec={
            "dest": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
            "lock": {"type": "path", "required": True},
            "lock_sha256": {"type": "str", "required": True},
            "artifact": {"type": "dict", "required": True},
            "pip": {"type": "dict", "required": True},
            "wheels": {"type": "list", "elements": "dict", "default": []},
            "settings": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run_environment(module.params, module.check_mode))
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))


if __name__ == "__main__":
    main()
