"""The table of exit codes is the contract; each row is written here a second time, by hand."""

from __future__ import annotations

import pytest

from infra_llm.core.errors import (
    BadInputError,
    DoesNotFitError,
    ExitCode,
    HostFailedError,
    InfraLlmError,
    RefusedError,
)


def test_the_table_of_exit_codes_is_the_contract() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "BAD_INPUT": 2,
        "DOES_NOT_FIT": 3,
        "UNREACHABLE": 4,
        "HOST_FAILED": 5,
        "VERIFY_FAILED": 6,
        "REFUSED": 7,
        "BUG": 70,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InfraLlmError, 2),
        (BadInputError, 2),
        (DoesNotFitError, 3),
        (HostFailedError, 5),
        (RefusedError, 7),
    ],
)
def test_every_error_has_its_code(kind: type[InfraLlmError], code: int) -> None:
    assert int(kind("x").code) == code
    assert int(kind("x", code=ExitCode.VERIFY_FAILED).code) == 6
    assert int(kind("x").code) == code, "a code of one error must not stay with the class"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InfraLlmError("what"), "what"),
        (InfraLlmError("what", where="where"), "where: what"),
        (InfraLlmError("what", hint="do this"), "what\n  do this"),
        (InfraLlmError("what", where="where", hint="do this"), "where: what\n  do this"),
    ],
)
def test_an_error_says_where_what_and_what_to_do(error: InfraLlmError, text: str) -> None:
    assert str(error) == text
