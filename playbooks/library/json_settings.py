#!/usr/bin/python
"""Ansible module: settings of ours in a JSON file that belongs to somebody else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: json_settings
short_description: Have settings of ours in a JSON file that belongs to somebody else
description:
  - Other settings are kept, their order and the indentation, too. Broken JSON is refused and left
    as it is.
options:
  path:
    description: The file; it is made when it is not there.
    type: path
    required: true
  settings:
    description: Values by the path of the setting with dots, such as C(features.cdi).
    type: dict
    default: {}
  keep:
    description: Names of settings that stay as somebody else set them; others are refused then.
    type: list
    elements: str
    default: []
  record:
    description: The RV(record) of the last time, so that our own settings are told from others'.
    type: dict
    default: {}
  validate:
    description: Command that says whether the program takes the new file, C(%s) in it.
    type: list
    elements: str
    default: []
  state:
    description: V(absent) takes our settings out, and the file when it was ours alone.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""
EXAMPLES = r"""
- name: Let docker read CDI specifications
  json_settings:
    path: /etc/docker/daemon.json
    settings: {features.cdi: true}
    record: "{{ receipt.inputs.daemon | default({}) }}"
"""
RETURN = r"""
record:
  description: What is ours, for the receipt.
  returned: always
  type: dict
before:
  description: The text of the file as it was; empty when there was none.
  returned: always
  type: str
existed:
  description: Whether the file was there.
  returned: always
  type: bool
kept:
  description: Names of settings of O(keep) that somebody else had set to another value.
  returned: always
  type: list
  elements: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import json_settings


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "settings": {"type": "dict", "default": {}},
            "keep": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "dict", "default": {}},
            "validate": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        },
        supports_check_mode=True,
    )
    params, path = module.params, module.params["path"]
    existed = os.path.exists(path)
    try:
        if params["state"] == "absent":
            done = json_settings.withdraw(path, params["record"], module.check_mode)
        else:
            done = json_settings.merge(
                path,
                params["settings"],
                params["record"],
                keep=params["keep"],
                check_mode=module.check_mode,
                validate=params["validate"],
            )
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(
        changed=done.changed,
        record=done.record,
        before=done.before,
        existed=existed,
        kept=done.kept,
        diff={"before_header": path, "after_header": path, "before": done.before,
              "after": done.after},
    )  # fmt: skip


if __name__ == "__main__":
    main()
