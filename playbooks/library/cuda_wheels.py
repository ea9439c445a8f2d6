#!/usr/bin/python
"""Ansible module: a CUDA toolkit in a folder, out of wheels of a package index."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_wheels
short_description: Put a CUDA toolkit of wheels into a folder
description:
  - Fetches the wheels of one release, verified, and makes one tree of them, whole or not at all.
  - Neither PATH nor a profile is changed; whoever compiles names the folder.
options:
  wheels:
    description: Artifacts of the catalogue, all of one release.
    type: list
    elements: dict
    required: true
  dest:
    description: Folder of the toolkit.
    type: path
    required: true
  settings:
    description: Site settings of downloads (package indexes, folders that are asked first).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""

EXAMPLES = r"""
- name: Put CUDA 13.0 beside other releases
  cuda_wheels:
    wheels: "{{ wheels }}"
    dest: /opt/infra-llm/cuda/13.0
"""

RETURN = r"""
path:
  description: The folder.
  returned: success
  type: str
bytes_downloaded:
  description: Bytes that came over the network.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.cuda_wheels import install


def main():
    module = AnsibleModule(
        argument_spec={
            "wheels": {"type": "list", "elements": "dict", "required": True},
            "dest": {"type": "path", "required": True},
            "settings": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        result = install(params["wheels"], params["dest"], params["settings"], module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
