#!/usr/bin/python
"""Ansible module: one run at a time on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_lock
short_description: One run at a time on a host
description:
  - Takes, renews, reads or gives back the host's lock. It is in /run, so a reboot ends it.
  - Fails with C(exit_code=7) and names owner and age when another run holds it.
options:
  state:
    description:
      - V(present) takes the lock (again by the same run, renews it), V(renewed) shows that the
        run still works, V(absent) gives it back, V(read) only looks.
    type: str
    choices: [present, renewed, absent, read]
    default: present
  path:
    description: The lock file.
    type: path
    default: /run/infra-llm.lock
  owner:
    description: Who runs, as user@controller. Needed for V(present).
    type: str
  run_id:
    description: Names the run. Needed for all but V(read).
    type: str
  pid:
    description: The run's process on the controller.
    type: int
    default: 0
  controller_space:
    description:
      - The controller's kernel and pid namespace (C(target.lock.process_space())). Where the
        host has the same, a lock whose process is gone is taken over at once.
    type: str
    default: ""
  stale_after:
    description: Seconds without renewal after which a lock is taken over.
    type: float
    default: 3600
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""

EXAMPLES = r"""
- name: Take the host
  host_lock:
    owner: ann@desk
    run_id: "{{ infra_llm_run_id }}"

- name: Give it back
  host_lock:
    state: absent
    run_id: "{{ infra_llm_run_id }}"
"""

RETURN = r"""
lock:
  description: Owner, pid, run_id, taken_at, renewed_at; null when nobody holds the lock.
  returned: always
  type: dict
took_over:
  description: In words, when a stale lock was taken over.
  returned: always
  type: str
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target import lock


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "default": "present",
                "choices": ["present", "renewed", "absent", "read"],
            },
            "path": {"type": "path", "default": lock.LOCK_PATH},
            "owner": {"type": "str"},
            "run_id": {"type": "str"},
            "pid": {"type": "int", "default": 0},
            "controller_space": {"type": "str", "default": ""},
            "stale_after": {"type": "float", "default": lock.STALE_AFTER},
        },
        required_if=[
            ("state", "present", ["owner", "run_id"]),
            ("state", "renewed", ["run_id"]),
            ("state", "absent", ["run_id"]),
        ],
        supports_check_mode=True,
    )
    try:
        outcome = _apply(module.params, module.check_mode)
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    found = dataclasses.asdict(outcome.lock) if outcome.lock else None
    module.exit_json(changed=outcome.changed, lock=found, took_over=outcome.took_over)


def _apply(params, check_mode):
    state, path = params["state"], params["path"]
    if state == "read":
        return lock.Outcome(False, lock.read(path))
    if state == "renewed":
        return lock.renew(path, params["run_id"], check_mode)
    if state == "absent":
        return lock.release(path, params["run_id"], check_mode)
    return lock.acquire(
        path,
        params["owner"],
        params["run_id"],
        params["pid"],
        params["controller_space"],
        params["stale_after"],
        check_mode,
    )


if __name__ == "__main__":
    main()
