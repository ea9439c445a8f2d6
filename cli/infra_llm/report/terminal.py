"""Standard output: the console that every command prints to, and what may be wrong with it."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from infra_llm.core.errors import BadInputError

PIPE_WIDTH = 160
"""In a pipe or a file nothing is cut to a terminal's width; long lines are left whole."""


def stdout() -> Console:
    """A console on stdout: as wide as the terminal, wide in a pipe, that breaks no line of text."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=max(width, 80), soft_wrap=True, highlight=False)


def print_json(document: Any) -> None:
    """A document as JSON on stdout; never NaN or Infinity, which JSON has not."""
    click.echo(json.dumps(document, indent=2, allow_nan=False))


def prepare_streams() -> None:
    """Make stdout take any text: what its encoding lacks is printed as "?".

    A closed stream gets /dev/null, else the next file that is opened would be in its place.
    Raises BadInputError where that is stdout, before anything is done whose result is lost.
    """
    if sys.stdin is None:
        sys.stdin = _nowhere("r")
    closed = sys.stdout is None
    if closed:
        sys.stdout = _nowhere("w")
    if sys.stderr is None:
        sys.stderr = _nowhere("w")
    if closed:
        raise BadInputError("standard output is closed", hint="send it to a file or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def finish_stdout(end: str = "") -> None:
    """Write what is still held back, and `end`. A reader that went away is no error.

    Raises BadInputError when it can't be written; Python's own exit then has nothing to tell.
    """
    try:
        sys.stdout.write(end)
        sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if not isinstance(error, BrokenPipeError):
            raise BadInputError(
                f"the result can't be written ({error.strerror})",
                where="standard output",
                hint="what was done on hosts stands; infra-llm status shows it",
            ) from error


def _nowhere(mode: str) -> Any:
    return Path(os.devnull).open(mode, encoding="utf-8")
