"""How the door of an endpoint differs from how it was left, beyond what receipts tell.

Runs on the target: standard library, Python 3.8. Nothing is changed.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

from . import kept_secrets
from .service import Run, run_command


def access_differences(layout: Dict[str, str], run: Run = run_command) -> List[str]:
    """In words: a firewall rule that is gone, a change of secrets that did not come to its end."""
    script = os.path.join(os.path.dirname(layout["launcher"]), "firewall.py")
    found = rule_differences(script, os.path.join(layout["etc"], "firewall.json"), run)
    if kept_secrets.is_kept(layout["etc"]):
        found.append("a run that may have changed the key or certificate did not end")
    return found


def rule_differences(script: str, settings: str, run: Run = run_command) -> List[str]:
    """What the firewall lacks of the rule in `settings`; [] where no rule is wished.

    Asks by `script` (roles/llm_access/files/firewall.py), which set the rule: its unit stays
    active when somebody else empties the firewall.
    """
    if not os.path.exists(settings):
        return []
    made = _read(settings + ".set")
    if made and "manager" not in made:
        # Its script is of then, too: it would take the rule away for want of such a question.
        return ["firewall: the rule was set by an earlier version"]
    status, said, errors = run([sys.executable, "-I", script, "check", settings])
    if status == 0:
        return []
    lines = (said.strip() or errors.strip()).splitlines()
    return ["firewall: {}".format(lines[-1] if lines else "exit status {}".format(status))]


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
