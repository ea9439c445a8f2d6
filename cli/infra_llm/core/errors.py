"""The one error type and the one table of exit codes.

Runs on targets too (it travels with the modules), so: standard library, Python 3.8.
"""

from __future__ import annotations

import enum
from typing import Optional


class ExitCode(enum.IntEnum):
    """What the process exit code of every infra-llm command means."""

    DONE = 0
    BAD_INPUT = 2
    DOES_NOT_FIT = 3
    UNREACHABLE = 4
    HOST_FAILED = 5
    VERIFY_FAILED = 6
    REFUSED = 7
    BUG = 70
    INTERRUPTED = 130


class InfraLlmError(Exception):
    """Something that a person can act on: what was wrong, where, and what to do next.

    The command line prints it without a traceback and exits with `code`.
    """

    code = ExitCode.BAD_INPUT

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        code: Optional[ExitCode] = None,
    ) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        if code is not None:
            self.code = code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = "{}: {}".format(self.where, self.what) if self.where else self.what
        return "{}\n  {}".format(text, self.hint) if self.hint else text


class BadInputError(InfraLlmError):
    """An inventory, variable, model file, plan or fixture that can't be used."""


class DoesNotFitError(InfraLlmError):
    """The model does not fit the hardware under the given wishes."""

    code = ExitCode.DOES_NOT_FIT


class HostFailedError(InfraLlmError):
    """A step on a host failed; the host is as it was before, or says what is left."""

    code = ExitCode.HOST_FAILED


class RefusedError(InfraLlmError):
    """Doing it would be unsafe (a lock is held, the hardware is not the plan's)."""

    code = ExitCode.REFUSED
