"""Entry point of the command infra-llm."""

from __future__ import annotations

import os
import re
import sys
import traceback
from typing import Any

import click

from infra_llm.cli import cli
from infra_llm.core.errors import BadInputError, ExitCode, InfraLlmError
from infra_llm.report.terminal import finish_stdout, prepare_streams

DEBUG = "INFRA_LLM_DEBUG"
"""Shows the traceback of a bug; commands with -v take -vv for it, too."""


def main() -> None:
    """Run the command line; every error of ours becomes words and its exit code."""
    code: Any = ExitCode.DONE
    try:
        prepare_streams()
        code = cli.main(prog_name="infra-llm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = ExitCode.BAD_INPUT
    except InfraLlmError as error:
        code = _said(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = ExitCode.INTERRUPTED
    except SystemExit as leaving:
        # click leaves with 1 when the reader of our output went away; our own table has no 1.
        code = ExitCode.DONE if leaving.code == 1 else leaving.code
    except Exception as error:  # noqa: BLE001 - the last net: no traceback, no code of Python's
        code = _bug(error)
    try:
        finish_stdout()
    except BadInputError as error:
        code = _said(error)
    sys.exit(int(code or 0))


def _said(error: InfraLlmError) -> ExitCode:
    click.echo(f"error: {error}", err=True)
    return error.code


def _bug(error: Exception) -> ExitCode:
    """What no code of ours has words for, in one line; all of it for those who ask."""
    if isinstance(error, OSError):
        try:
            # A full disk takes no line, either: then it was no bug.
            finish_stdout("\n")
        except BadInputError as full:
            return _said(full)
    words = " ".join(str(error).split())
    hint = f"run again with {DEBUG}=1 in the environment (or -vv), and report what it prints"
    click.echo(
        f"error: {type(error).__name__}: {words}\n  this is a bug of infra-llm; {hint}", err=True
    )
    if os.environ.get(DEBUG) or _very_verbose(sys.argv[1:]):
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    return ExitCode.BUG


def _very_verbose(arguments: list[str]) -> bool:
    """Whether -v was given twice; an error may come before any command has read it."""
    short = [word for word in arguments if re.fullmatch(r"-[CDKv]+", word)]
    return "".join(short).count("v") + arguments.count("--verbose") > 1


if __name__ == "__main__":
    main()
