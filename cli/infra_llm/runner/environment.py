"""The environment in which Ansible runs: ours, pruned, the same for every command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra_llm.content import PACKAGE, content_root

_KEPT = (
    "HOME",
    "USER",
    "LOGNAME",
    "TZ",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
)
_KEPT_PREFIXES = ("ANSIBLE_", "PIP_", "INFRA_LLM_")
SSH_ARGUMENTS = (
    "-C -o ControlMaster=auto -o ControlPersist=60s "
    "-o ServerAliveInterval=10 -o ServerAliveCountMax=3"
)
"""Ansible's own, and signs of life: a host that vanishes in mid-task is noticed after 30 s, not
when TCP gives up."""
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def ansible_environment() -> dict[str, str]:
    """Environment variables for every Ansible process that we start.

    ansible-runner stores the whole environment in its artifacts, so only what Ansible needs is
    passed on: a token in the administrator's shell stays there.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES) or name.lower() in _PROXIES
    }
    root = content_root()
    if PACKAGE.parent in [Path(p).resolve() for p in _python_path()]:
        # Run from a checkout: our action plugins must find the package too, and nothing else.
        kept["PYTHONPATH"] = str(PACKAGE.parent)
    kept.setdefault("ANSIBLE_SSH_ARGS", SSH_ARGUMENTS)
    return kept | {
        # The interpreter's own folder first: with pipx only our script is on PATH.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # Ansible does not start without UTF-8, which cron and CI lack.
        "LC_ALL": "C.UTF-8",
        # Ours, not one that happens to lie in the folder we were called from.
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(root / "roles"),
        "ANSIBLE_LIBRARY": str(root / "playbooks" / "library"),
        "ANSIBLE_ACTION_PLUGINS": str(root / "playbooks" / "action_plugins"),
        "ANSIBLE_MODULE_UTILS": str(PACKAGE),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_INTERPRETER_PYTHON": "auto_silent",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_FORCE_COLOR": "False",
        # What these print stands among the JSON that we read, or is a traceback in an error.
        "ANSIBLE_VERBOSITY": "0",
        "ANSIBLE_DEBUG": "False",
        "ANSIBLE_DISPLAY_TRACEBACK": "never",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
    }
