#!/usr/bin/python
"""Ansible module: a set of packages with its repository, pins and holds, in one transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_set
short_description: Bring a set of packages to a host in one transaction
description:
  - Writes signed repositories whose key is pinned by its fingerprint, version pins, holds and the
    exclusion from unattended upgrades, then installs and removes in one run of apt.
  - Waits for the package database and names its holder, finishes what an interrupted dpkg left,
    makes sure of room on the disks, and refuses when apt would remove something else.
  - Check mode reads the wished repositories into a folder of its own and simulates with them.
  - On the RHEL family, which os-release tells, the same wish is a transaction of dnf with version
    locks in place of holds. It runs under the interpreter that has the host's dnf module.
options:
  name:
    description: Names the files that are written, such as /etc/apt/preferences.d/infra-llm-NAME.
    type: str
    required: true
  repositories:
    description: Each with C(name), C(url), C(suite), C(components), C(key_url), C(key_fingerprint).
    type: list
    elements: dict
    default: []
  install:
    description: Names of packages.
    type: list
    elements: str
    default: []
  purge:
    description: Glob patterns of packages that go in the same run.
    type: list
    elements: str
    default: []
  pins:
    description: Each with C(packages), glob patterns, and C(version), a version pattern.
    type: list
    elements: dict
    default: []
  hold:
    description: Glob patterns of packages to hold and to keep from unattended upgrades.
    type: list
    elements: str
    default: []
  exclude:
    description: Glob patterns of packages to keep from unattended upgrades only (apt).
    type: list
    elements: str
    default: []
  module_stream:
    description: Module stream to enable (EL 9).
    type: str
    default: ""
  initramfs:
    description: Whether the packages make a new initramfs, which needs room in /boot.
    type: bool
    default: false
  files:
    description: Path to text of files to write before packages start their services.
    type: dict
    default: {}
  keep_needed:
    description: Leave packages of O(purge) that others need by now, in place of refusing.
    type: bool
    default: false
  lock_timeout:
    description: Seconds to wait for the package database.
    type: float
    default: 300
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author: infra-llm
"""

EXAMPLES = r"""
- name: Install the driver
  package_set:
    name: nvidia_driver
    repositories: "{{ repositories }}"
    install: [nvidia-open, nvidia-persistenced]
    purge: [cuda-drivers, nvidia-kernel-dkms]
    pins: [{packages: ["nvidia-*", "libnvidia-*"], version: "595.*"}]
    hold: ["nvidia-*", "libnvidia-*"]
"""

RETURN = r"""
packages_added:
  description: Names of packages that were not there before.
  returned: success
  type: list
  elements: str
removed:
  description: Names of packages that are gone.
  returned: success
  type: list
  elements: str
replaced:
  description: Names of packages whose version changed.
  returned: success
  type: list
  elements: str
kept_files:
  description: The files that this set keeps, for the receipt.
  returned: success
  type: list
  elements: str
held:
  description: Names of the packages on hold.
  returned: success
  type: list
  elements: str
notes:
  description: What a person may want to know, in words.
  returned: success
  type: list
  elements: str
"""

import importlib.util

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import (
    has_respawned,
    probe_interpreters_for_module,
    respawn_module,
)
from ansible.module_utils.core.errors import InfraLlmError
from ansible.module_utils.target.packages import dnf, transaction
from ansible.module_utils.target.packages.family import host_family

TEXTS = ("install", "purge", "hold", "exclude")
LISTS = {**dict.fromkeys(TEXTS, "str"), "repositories": "dict", "pins": "dict"}

PYTHONS = ["/usr/libexec/platform-python", "/usr/bin/python3"]


def _be_where_dnf_is():
    """Go on under the system's own Python: others can't import dnf."""
    if importlib.util.find_spec("dnf") is None and not has_respawned():
        found = probe_interpreters_for_module(PYTHONS, "dnf")
        if found:
            respawn_module(found)


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "module_stream": {"type": "str", "default": ""},
            "initramfs": {"type": "bool", "default": False},
            "files": {"type": "dict", "default": {}},
            "keep_needed": {"type": "bool", "default": False},
            "lock_timeout": {"type": "float", "default": 300},
            **{n: {"type": "list", "elements": of, "default": []} for n, of in LISTS.items()},
        },
        supports_check_mode=True,
    )
    params = module.params
    redhat = host_family() == "redhat"
    if redhat:
        _be_where_dnf_is()
    wish = transaction.Wish(
        name=params["name"],
        pins=[(pin["packages"], pin["version"]) for pin in params["pins"]],
        lock_timeout_s=params["lock_timeout"],
        initramfs=params["initramfs"],
        keep_needed=params["keep_needed"],
        files=params["files"],
        **{name: params[name] for name in (*TEXTS, "repositories")},
    )
    try:
        if redhat:
            done = dnf.apply(wish, params["module_stream"], module.check_mode)
        else:
            done = transaction.Transaction(wish, module.check_mode).apply()
    except InfraLlmError as error:
        module.fail_json(msg=str(error), exit_code=int(error.code))
    module.exit_json(
        changed=done.changed,
        packages_added=done.added,
        removed=done.steps.removes(),
        replaced=done.steps.replaces(),
        kept_files=done.paths,
        held=done.held,
        notes=done.notes,
        diff=transaction.diff(done),
    )


if __name__ == "__main__":
    main()
