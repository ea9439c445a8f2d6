#!/usr/bin/python
"""Ansible module: compare the CUDA code of a release of llama.cpp with the host's GPUs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cuda_images
short_description: Make sure that a release has code for the host's GPUs
description:
  - Reads the architectures out of C(libggml-cuda.so); a release without that library passes.
  - Changes nothing.
options:
  release:
    description: Folder of the release.
    type: path
    required: true
  cards:
    description: The GPUs that it has to serve. Each has C(name) and C(compute_capability).
    type: list
    elements: dict
    default: []
  architectures:
    description: Architectures that it must have been built for, as C(89).
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Refuse a build without code for a card
  cuda_images:
    release: /opt/infra-llm/llama_cpp/releases/source-1
    cards: [{name: NVIDIA GeForce RTX 4090, compute_capability: "8.9"}]
"""

RETURN = r"""
images:
  description: Architectures with machine code (C(machine)) and with PTX (C(ptx)).
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.cuda_images import check_release


def main():
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "path", "required": True},
            "cards": {"type": "list", "elements": "dict", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        images = check_release(params["release"], params["cards"], params["architectures"])
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(changed=False, images=images)


if __name__ == "__main__":
    main()
