#!/usr/bin/python
"""Ansible module: write down what a role manages on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: receipt
short_description: Write down what a role manages on a host
description:
  - Records files with hash, owner and mode, links, folders, packages with version, users and
    units as they are now, so that a later audit finds what was changed by hand.
  - Fails when something named is not there. In check mode that is only listed.
options:
  role:
    description: The role whose receipt this is; needed for all states but V(cleared).
    type: str
  state:
    description:
      - V(present) records, V(absent) removes the receipt, V(read) only reads it.
      - V(noted) adds O(packages_added) and leaves the rest as it was; for the time right after an
        installation, when what the role manages is not all there.
      - V(cleared) reads those of all roles, and removes the files that they name in folders of
        others, if their name says that they are ours (it has infra-llm in it).
    type: str
    choices: [present, absent, read, noted, cleared]
    default: present
  files:
    description:
      - Files, or patterns, which may find links and folders, too. One that ends in C(/) or
        C(/**) means the folder and everything in it.
    type: list
    elements: str
    default: []
  links:
    description: Symbolic links.
    type: list
    elements: str
    default: []
  directories:
    description: Folders; what is in them is not looked at.
    type: list
    elements: str
    default: []
  packages:
    description: Names of packages.
    type: list
    elements: str
    default: []
  packages_added:
    description:
      - Names of packages that were not there before the role ran. They are added to those that
        earlier receipts of the role name, so that removal takes away exactly these.
    type: list
    elements: str
    default: []
  users:
    description: Names of users.
    type: list
    elements: str
    default: []
  units:
    description:
      - Services, each a name, or C(name), C(manager) (systemd or supervisor) and C(socket).
    type: list
    elements: raw
    default: []
  inputs:
    description: The role's own record, e.g. a hash of its wishes; kept as it is.
    type: dict
    default: {}
  directory:
    description: Where receipts are kept.
    type: path
    default: /var/lib/infra-llm/receipts
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""

EXAMPLES = r"""
- name: Write the receipt
  receipt:
    role: model_store
    files: [/var/lib/infra-llm/models/SmolLM2-135M-Instruct.Q4_1.gguf]
    users: [infra-llm]

- name: Remove the receipt
  receipt: {role: model_store, state: absent}
"""

RETURN = r"""
path:
  description: The receipt's file.
  returned: always
  type: str
missing:
  description: What the role manages but is not there yet (check mode only).
  returned: state is present
  type: list
  elements: str
packages_added:
  description: The packages that came with the role, or with all roles.
  returned: state is read or cleared
  type: list
  elements: str
removed:
  description: Files and links that are gone.
  returned: state is cleared
  type: list
  elements: str
receipt:
  description: The receipt as it is; null when there is none.
  returned: state is read
  type: dict
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import receipts

LISTS = ("files", "links", "directories", "packages", "packages_added", "users")
STATES_OF_A_ROLE = ("present", "absent", "read", "noted")


def main():
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str"},
            "state": {
                "type": "str",
                "default": "present",
                "choices": ["present", "absent", "read", "noted", "cleared"],
            },
            "units": {"type": "list", "elements": "raw", "default": []},
            "inputs": {"type": "dict", "default": {}},
            "directory": {"type": "path", "default": receipts.DIRECTORY},
            **{name: {"type": "list", "elements": "str", "default": []} for name in LISTS},
        },
        required_if=[("state", state, ["role"]) for state in STATES_OF_A_ROLE],
        supports_check_mode=True,
    )
    try:
        result = _apply(module.params, module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(**result)


def _apply(params, check_mode):
    role, directory = params["role"], params["directory"]
    if params["state"] == "cleared":
        removed = receipts.clear(directory, check_mode)
        packages = receipts.packages_added(directory, check_mode)
        return {"changed": bool(removed), "removed": removed, "packages_added": packages}
    path = receipts.receipt_path(role, directory)
    if params["state"] == "read":
        found = receipts.read_quietly(path)
        added = (found or {}).get("packages_added", [])
        return {"changed": False, "path": path, "receipt": found, "packages_added": added}
    if params["state"] == "noted":
        changed = receipts.note_packages(role, params["packages_added"], directory, check_mode)
        return {"changed": changed, "path": path}
    if params["state"] == "absent":
        before = _text(receipts.read_quietly(path))
        changed = receipts.remove(role, directory, check_mode)
        return {"changed": changed, "path": path, "diff": _diff(path, before, "")}
    units = [unit if isinstance(unit, dict) else {"name": str(unit)} for unit in params["units"]]
    lists = {name: params[name] for name in LISTS}
    managed = receipts.Managed(units=units, inputs=params["inputs"], **lists)
    done = receipts.record(role, managed, directory, check_mode)
    diff = _diff(path, _text(done["before"]), _text(done["receipt"]))
    return {"changed": done["changed"], "path": path, "missing": done["missing"], "diff": diff}


def _diff(path, before, after):
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def _text(receipt):
    content = receipts.content(receipt)
    return json.dumps(content, indent=1, sort_keys=True) + "\n" if content else ""


if __name__ == "__main__":
    main()
