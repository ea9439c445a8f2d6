#!/usr/bin/python
"""Ansible module: prove that an endpoint serves, and measure it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify_endpoint
short_description: Prove that an endpoint serves, and measure it
description:
  - Waits for health, asks a question, measures speed and memory and reads the engine's log.
  - Fails when the service never gets healthy or dies, with its last log lines. Whether the
    answer and the figures are good is for the caller to judge.
  - Changes nothing; in check mode it does the same.
options:
  url:
    description: Base address, C(http://127.0.0.1:8080).
    type: str
    required: true
  unit:
    description:
      - The service's C(name), C(manager) (systemd or supervisor) and C(socket), and C(container),
        the engine (docker, podman) of one that runs in a container of its name.
    type: dict
  api_key_file:
    description: A file on the host that holds the API key, the first line of it.
    type: path
  engine:
    description: Whose log it is; llama.cpp's where nothing is said.
    type: str
    default: ""
  ca_file:
    description: A file on the host with the authority of an https endpoint's certificate.
    type: str
    default: ""
  server_name:
    description: The name that the certificate must be for, where it is not the address.
    type: str
    default: ""
  health:
    description: Path that answers 200 once the engine serves.
    type: str
    default: /health
  running:
    description: Path that tells which model is loaded and where, for engines that have one.
    type: str
    default: ""
  model:
    description: The model to ask; left out it is the first that the server names.
    type: str
    default: ""
  prompt:
    description: The question.
    type: str
    default: What is 1+1?
  expected:
    description: What the answer must contain, upper or lower case.
    type: str
    default: "2"
  max_tokens:
    description: The answer's largest length in tokens.
    type: int
    default: 32
  model_mib:
    description: The model's size in MiB; the time to wait for health grows with it.
    type: float
    default: 0
  health_seconds:
    description: How long to wait for health instead.
    type: float
  answer_seconds:
    description: How long one answer may keep silent.
    type: float
    default: 300
  context_length:
    description: Tokens of one sequence, to keep the speed prompt below it.
    type: int
  parallel:
    description: How many requests to send at once, to measure that, too.
    type: int
    default: 1
  metrics:
    description: Path of the engine's metrics, to be scraped once.
    type: str
    default: ""
  measure:
    description: Whether to measure the speed.
    type: bool
    default: true
  embeds:
    description: The model gives vectors and does not chat; those of sentences are compared.
    type: bool
    default: false
  runs:
    description: How often to measure the speed; the fastest run counts.
    type: int
    default: 1
  gpus:
    description: Ask the driver how much memory of each GPU the service holds.
    type: bool
    default: false
  pynvml:
    description: Source of pynvml; the action plugin of the same name fills it in.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Verify the endpoint
  verify_endpoint:
    url: http://127.0.0.1:8080
    unit: {name: infra-llm-llama-server, manager: systemd}
    model_mib: 94
  register: measured
"""

RETURN = r"""
answered:
  description: Whether the answer contains what was expected.
  returned: success
  type: bool
answer:
  description: The answer.
  returned: success
  type: str
healthy_after_seconds:
  description: How long the wait for health took.
  returned: success
  type: float
speed:
  description: >-
    prefill_tokens, prefill_tokens_per_second, decode_tokens, decode_tokens_per_second,
    first_token_seconds, source (engine or clock); null when it was not measured.
  returned: success
  type: dict
parallel:
  description: requests, tokens, seconds, tokens_per_second, slowest_first_token_seconds, or null.
  returned: success
  type: dict
metrics:
  description: path, number of samples and their names, or null.
  returned: success
  type: dict
embedding:
  description: Length of an embedding; null for a model that makes none.
  returned: success
  type: int
meaning:
  description: >-
    Of an embedding model length, near (the smallest cosine of two sentences that mean the same)
    and far (the largest of two that do not); null for others.
  returned: success
  type: dict
memory:
  description: >-
    rss_mib, rss_anon_mib, rss_file_mib, rss_shmem_mib, peak_rss_mib, swap_mib, processes, pids
    of the service's process tree.
  returned: success
  type: dict
gpu_memory:
  description: Of each GPU on which the service holds memory C(name), C(pci_address), C(used_mib).
  returned: when gpus is wished
  type: list
  elements: dict
engine:
  description: >-
    What the engine's log says. vLLM: device, weights_mib, kv_cache_mib, kv_cache_tokens, context,
    at_once, graphs_mib. Others: devices with MiB of model, kv_cache, recurrent, compute and
    output, layers_offloaded, layers_total, flash_attention, n_ctx, kv_caches ...
  returned: success
  type: dict
running:
  description: Of each loaded model C(name), C(size_mib), C(vram_mib), C(context_length).
  returned: when running is given
  type: list
  elements: dict
service:
  description: The service manager's view.
  returned: success
  type: dict
notes:
  description: What could not be measured, and why.
  returned: success
  type: list
  elements: str
exit_code:
  description: The exit code that the command line gives this failure.
  returned: failure
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.endpoint import Request, read_api_key, verify


def main():
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "unit": {"type": "dict"},
            "api_key_file": {"type": "path", "no_log": False},
            "engine": {"type": "str", "default": ""},
            "ca_file": {"type": "str", "default": ""},
            "server_name": {"type": "str", "default": ""},
            "health": {"type": "str", "default": "/health"},
            "running": {"type": "str", "default": ""},
            "model": {"type": "str", "default": ""},
            "prompt": {"type": "str", "default": "What is 1+1?"},
            "expected": {"type": "str", "default": "2"},
            "max_tokens": {"type": "int", "default": 32, "no_log": False},
            "model_mib": {"type": "float", "default": 0},
            "health_seconds": {"type": "float"},
            "answer_seconds": {"type": "float", "default": 300},
            "context_length": {"type": "int"},
            "parallel": {"type": "int", "default": 1},
            "metrics": {"type": "str", "default": ""},
            "measure": {"type": "bool", "default": True},
            "embeds": {"type": "bool", "default": False},
            "runs": {"type": "int", "default": 1},
            "gpus": {"type": "bool", "default": False},
            "pynvml": {"type": "str", "default": "", "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = dict(module.params)
    try:
        wanted["api_key"] = read_api_key(wanted.pop("api_key_file"))
        module.exit_json(changed=False, **verify(Request(**wanted)))
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))


if __name__ == "__main__":
    main()
