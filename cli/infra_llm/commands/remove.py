"""infra-llm remove: undo it all."""

from __future__ import annotations

from typing import Any

import click

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.errors import ExitCode
from infra_llm.report.host_report import outcome_word, print_said
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import HostResult, run_fleet


@click.command()
@fleet_options
@click.option("--check", "-C", is_flag=True, help="Say what would change; change nothing.")
def remove(as_json: bool, **options: Any) -> None:
    """Stop the service and remove every file, user, unit and package that infra-llm brought."""
    request = fleet_request("remove", options, check=options["check"])
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    if as_json:
        print_json([_entry(host) for host in result.hosts])
    else:
        console = stdout()
        for host in result.hosts:
            entry = _entry(host)
            console.print(f"{host.name}: {entry['result']}")
            print_said(host, console)
            if host.error:
                console.print(f"  {host.error}", markup=False)
    raise SystemExit(int(result.code))


def _entry(host: HostResult) -> dict[str, Any]:
    word = outcome_word(host)
    if host.code == ExitCode.DONE:
        word = "removed" if host.changed_tasks else "nothing to remove"
    return {
        "host": host.name,
        "result": word,
        "exit_code": int(host.code),
        "error": host.error or None,
        "said": host.said,
    }
