#!/usr/bin/python
"""Ansible module: a model quantized on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: quantized_model
short_description: Quantize a GGUF file with llama-quantize
description:
  - Writes to a temporary name and renames at the end; a run that failed leaves nothing behind.
  - A record beside the result says what it was made of. With that and the result's hash a second
    run changes nothing.
options:
  source:
    description: The model in 16 or 32 bits, or the first of its parts.
    type: path
    required: true
  source_sha256:
    description: Its hash, as the catalogue has it.
    type: str
    required: true
  dest:
    description: The result's file.
    type: path
    required: true
  type:
    description: As llama-quantize names it, V(Q4_K_M).
    type: str
    required: true
  release:
    description: Folder of the release of llama.cpp whose llama-quantize is to be used.
    type: path
    required: true
  threads:
    description: Threads to work with; V(0) takes all.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""

EXAMPLES = r"""
- name: Quantize the model
  quantized_model:
    source: /var/lib/infra-llm/models/model.F16.gguf
    source_sha256: "{{ sha256 }}"
    dest: /var/lib/infra-llm/models/model.F16.Q4_K_M.gguf
    type: Q4_K_M
    release: /opt/infra-llm/llama_cpp/current
"""

RETURN = r"""
path:
  description: The result's file.
  returned: success
  type: str
sha256:
  description: Its hash.
  returned: success
  type: str
size:
  description: Its bytes.
  returned: success
  type: int
types:
  description: The type of every tensor of it.
  returned: success
  type: dict
seconds:
  description: How long it took.
  returned: success
  type: float
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.quantize import quantize


def main():
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "source_sha256": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "type": {"type": "str", "required": True},
            "release": {"type": "path", "required": True},
            "threads": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**quantize(module.params, module.check_mode))
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))


if __name__ == "__main__":
    main()
