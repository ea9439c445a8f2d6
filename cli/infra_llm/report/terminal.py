"""The console that every command prints to."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

PIPE_WIDTH = 160
"""In a pipe or a file nothing is cut to a terminal's width; long lines are left whole."""


def stdout() -> Console:
    """A console on stdout: as wide as the terminal, wide in a pipe, that breaks no line of text."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=max(width, 80), soft_wrap=True, highlight=False)
