#!/usr/bin/python
"""Ansible module: a GGUF file on this host becomes a model of the Ollama that runs here."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_model
short_description: Make a GGUF file a model of the running Ollama, and have it loaded
description:
  - Sends the file and creates the model with its parameters through Ollama's API.
  - A model of that name that was made from the same file with the same parameters is left alone.
options:
  url:
    description: Address of Ollama on this host.
    type: str
    required: true
  name:
    description: Name of the model.
    type: str
    required: true
  file:
    description: The GGUF file.
    type: path
    required: true
  sha256:
    description: The file's sha256.
    type: str
    required: true
  models:
    description: Ollama's folder of models (OLLAMA_MODELS).
    type: path
    required: true
  parameters:
    description: Parameters of the model as a Modelfile names them, all of them numbers.
    type: dict
    default: {}
  licence:
    description: The model's licence, kept with it.
    type: str
    default: ""
  unit:
    description: The service (name, manager, socket), for its log when it does not answer.
    type: dict
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""
EXAMPLES = r"""
- name: Hand the model to Ollama
  ollama_model:
    url: http://127.0.0.1:8080
    name: smollm2-135m-instruct-q4_1
    file: /var/lib/infra-llm/models/SmolLM2-135M-Instruct.Q4_1.gguf
    sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    models: /var/lib/infra-llm/ollama/models
    parameters: {num_ctx: 8192, num_gpu: 0}
"""
RETURN = r"""
did:
  description: What was done, in words; empty when nothing was.
  returned: success
  type: str
manifest:
  description: The file in which Ollama notes what the model consists of.
  returned: success
  type: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.ollama_client import Wanted, ensure


def main():
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "file": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "models": {"type": "path", "required": True},
            "parameters": {"type": "dict", "default": {}},
            "licence": {"type": "str", "default": ""},
            "unit": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**ensure(Wanted(**module.params), module.check_mode))
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))


if __name__ == "__main__":
    main()
