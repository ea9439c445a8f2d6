#!/usr/bin/python
"""Ansible module: put a folder that was built in place, and see later whether it is whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_folder
short_description: Put a folder that was built in place, and see later whether it is whole
description:
  - With O(source) that folder takes the name O(path) in one step. What it holds is written down in
    it first; what had the name before goes last.
  - Without, nothing is changed. Every file is compared with what was written down.
options:
  path:
    description: The folder.
    type: path
    required: true
  source:
    description: The folder that shall take its place, on the same file system.
    type: path
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Put the release in place
  release_folder:
    path: /opt/infra-llm/llama_cpp/releases/source-1a2b3c4d
    source: /opt/infra-llm/llama_cpp/build/source-1a2b3c4d/bin

- name: See whether the release is whole
  release_folder:
    path: /opt/infra-llm/llama_cpp/releases/source-1a2b3c4d
  register: found
"""

RETURN = r"""
exists:
  description: Whether there was such a folder.
  returned: success
  type: bool
damage:
  description: The first thing that was not as it should be, in words; empty for a whole folder.
  returned: success
  type: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.archives import place
from ansible.module_utils.target.sealed import damage


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "source": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, source = module.params["path"], module.params["source"]
    found = {"exists": os.path.isdir(path), "damage": "" if source else damage(path)}
    try:
        if source and not module.check_mode:
            place(source, path)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(changed=bool(source), **found)


if __name__ == "__main__":
    main()
