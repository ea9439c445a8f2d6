"""Progress while a run goes on: a live table on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from infra_llm.runner.progress import RunProgress
from infra_llm.runner.run import Listener


@contextmanager
def progress_listener(verbose: int = 0) -> Iterator[Listener]:
    """A listener for run_fleet; everything it prints goes to stderr."""
    console = Console(stderr=True)
    if verbose > 1:
        yield lambda *_: None
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            yield lambda state, _host: live.update(_table(state))
    else:
        started = time.monotonic()

        def line(state: RunProgress, host: str) -> None:
            seconds = time.monotonic() - started
            print(f"{seconds:6.1f} s  {host}: {state.hosts[host].stage}", file=sys.stderr)  # noqa: T201

        yield line


def _table(state: RunProgress) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, host in state.hosts.items():
        failed = host.stage in ("failed", "unreachable")
        stage = f"[red]{host.stage}[/]" if failed else host.stage
        table.add_row(name, stage, f"[dim]{escape(host.task)}[/]")
    return table
