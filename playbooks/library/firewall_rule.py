#!/usr/bin/python
"""Ansible module: see whether the firewall still has an endpoint's rule."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_rule
short_description: See whether the firewall still has an endpoint's rule
description:
  - Asks the firewall itself; the unit that set the rule stays active when somebody empties it.
  - Changes nothing. C(changed) says that the rule has to be set anew, for a handler to do so.
options:
  script:
    description: What sets the rule.
    type: path
    required: true
  settings:
    description: Which rule is wished; without this file none is.
    type: path
    required: true
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author: infra-llm
"""
EXAMPLES = r"""
- name: See whether the firewall has the rule
  firewall_rule:
    script: /opt/infra-llm/bin/firewall.py
    settings: /etc/infra-llm/firewall.json
  notify: Restart the firewall rule
"""
RETURN = r"""
differences:
  description: What the firewall lacks, in words.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.target.access import rule_differences


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "script": {"type": "path", "required": True},
            "settings": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    found = rule_differences(module.params["script"], module.params["settings"])
    module.exit_json(changed=bool(found), differences=found)


if __name__ == "__main__":
    main()
