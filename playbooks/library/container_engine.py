#!/usr/bin/python
"""Ansible module: which container engine a host has, and which one it is to have."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine
short_description: See which container engine a host has, and which one it is to have
description:
  - An engine that is there is kept, whatever source it came from; one that can't
    serve (masked, a snap, in the way of another package) is refused with the way out.
options:
  name:
    description: The engine; V(auto) takes the one that is there, else O(preferred).
    type: str
    choices: [auto, docker, podman]
    default: auto
  preferred:
    description: What V(auto) means on a host without an engine.
    type: str
    choices: [docker, podman]
    default: docker
  state:
    description:
      - V(chosen) changes nothing. V(counted) counts the containers of O(name).
      - V(cleaned) removes what the engine's packages leave behind when they are purged, the
        images with it.
    type: str
    choices: [chosen, counted, cleaned]
    default: chosen
  data_root:
    description: A folder of data that was set in place of docker's own, for V(cleaned).
    type: path
    default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""
EXAMPLES = r"""
- name: See which engine there is
  container_engine:
    name: auto
"""
RETURN = r"""
name:
  description: docker or podman.
  returned: state is chosen
  type: str
packages:
  description: The distribution's packages of it; empty where the engine came from elsewhere.
  returned: state is chosen
  type: list
  elements: str
engine:
  description: The engine that is there (C(path), C(package), C(version), C(unit_enabled),
    C(unit_active)); null when it is to be installed.
  returned: state is chosen
  type: dict
why:
  description: Why this one, in words.
  returned: state is chosen
  type: str
release:
  description: The version's numbers, empty when it is not there.
  returned: state is chosen
  type: list
  elements: int
containers:
  description: How many containers there are, those that do not run among them.
  returned: state is counted
  type: int
removed:
  description: What was removed.
  returned: state is cleaned
  type: list
  elements: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import container_engine
from ansible.module_utils.target.packages.family import host_family


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "default": "auto", "choices": ["auto", "docker", "podman"]},
            "preferred": {"type": "str", "default": "docker", "choices": ["docker", "podman"]},
            "state": {
                "type": "str",
                "default": "chosen",
                "choices": ["chosen", "counted", "cleaned"],
            },
            "data_root": {"type": "path", "default": ""},
        },
        supports_check_mode=True,
    )
    apply = {"chosen": _choose, "counted": _count, "cleaned": _clean}
    try:
        result = apply[module.params["state"]](module.params, module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(**result)


def _choose(params, _check_mode):
    host = container_engine.read_host(host_family())
    found = container_engine.find()
    choice = container_engine.choose(params["name"], params["preferred"], found, host)
    version = choice.engine.version if choice.engine else ""
    release = container_engine.version_numbers(version)
    return {"changed": False, "release": release, **choice.to_dict()}


def _count(params, _check_mode):
    return {"changed": False, "containers": len(container_engine.containers(params["name"]))}


def _clean(params, check_mode):
    name, data_root = params["name"], params["data_root"]
    if check_mode:
        gone = container_engine.leftovers(name, data_root)
    else:
        gone = container_engine.clean(name, data_root)
    diff = {"before": "".join(path + "\n" for path in gone), "after": ""}
    return {"changed": bool(gone), "removed": gone, "diff": diff}


if __name__ == "__main__":
    main()
