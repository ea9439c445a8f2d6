"""The console that every command prints to."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from rich.console import Console

PIPE_WIDTH = 160
"""In a pipe or a file nothing is cut to a terminal's width; long lines are left whole."""


def console_on(stream: TextIO, *, markup: bool = True) -> Console:
    """A console as wide as the terminal, wide in a pipe, that never breaks a line of text."""
    width = shutil.get_terminal_size().columns if stream.isatty() else PIPE_WIDTH
    width = max(width, 80)
    return Console(file=stream, width=width, soft_wrap=True, highlight=False, markup=markup)


def stdout() -> Console:
    """The console on standard output."""
    return console_on(sys.stdout)
