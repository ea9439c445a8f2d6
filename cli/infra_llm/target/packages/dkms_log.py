"""What the compiler said of a module that DKMS could not build.

DKMS prints "Consult .../make.log", whether it ran by itself or in a package's script; the log ends
with make's own lines, and its commands are thousands of characters long.

Standard library, Python 3.8.
"""

from __future__ import annotations

import re
from typing import List

NO_BUILD = (
    "these modules do not compile for this kernel: another kernel, another driver branch or source "
    "(infra_llm_driver_branch, infra_llm_driver_source), or the other flavour "
    "(infra_llm_driver_modules) may"
)
_CONSULT = re.compile(r"^\s*Consult (\S+/make\.log)\b", re.M)
_ERROR = re.compile(
    r"\berror: |^ERROR: modpost|No such file or directory|No space left|Permission denied"
)
_FIRST, _LENGTH = 4, 240


def build_errors(said: str) -> List[str]:
    """The first errors of the log that `said` names; its last lines where none looks like one.

    Empty where DKMS failed at no build. Long lines are cut.
    """
    found = _CONSULT.search(said)
    if not found:
        return []
    try:
        with open(found.group(1), encoding="utf-8", errors="replace") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except OSError as error:
        return ["{}: {}".format(found.group(1), error.strerror)]
    errors = [line for line in lines if _ERROR.search(line[:_LENGTH])]
    return [line[:_LENGTH] for line in errors[:_FIRST] or lines[-_FIRST:]]
