"""infra-llm status: what runs where, and whether it is still as it was left."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.errors import ExitCode
from infra_llm.report.host_report import outcome_word
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import HostResult, run_fleet


@click.command()
@fleet_options
def status(as_json: bool, **options: Any) -> None:
    """Print for every host what it serves, when it was proven, and what differs now."""
    request = fleet_request("audit", options)
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    entries = [_entry(host) for host in result.hosts]
    if as_json:
        print_json(entries)
    else:
        _print(entries)
    raise SystemExit(int(result.code))


def _entry(host: HostResult) -> dict[str, Any]:
    audit, state = host.documents.get("audit") or {}, host.state
    desired = state.get("desired") or {}
    if host.code != ExitCode.DONE:
        word = outcome_word(host)
    elif not state:
        word = "not provisioned"
    else:
        word = "differs" if host.decision.get("changes") else "as wished"
    return {
        "host": host.name,
        "status": word,
        "exit_code": int(host.code),
        "error": host.error or None,
        "model": (desired.get("launch") or {}).get("alias"),
        "url": (desired.get("verify") or {}).get("url"),
        "verified_at": state.get("written_at"),
        "speed": (state.get("measured") or {}).get("speed"),
        "changes": host.decision.get("changes", []),
        "lock": audit.get("lock"),
    }


def _print(entries: list[dict[str, Any]]) -> None:
    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("host", "status", "model", "decode", "proven", "endpoint"):
        table.add_column(column)
    for entry in entries:
        decode = (entry["speed"] or {}).get("decode_tokens_per_second")
        rate = f"{decode:.1f} tokens/s" if decode else "-"
        cells = (entry["model"], rate, entry["verified_at"], entry["url"])
        table.add_row(entry["host"], entry["status"], *(escape(cell or "-") for cell in cells))
    console.print(table)
    for entry in entries:
        lines = [change["text"] for change in entry["changes"] if entry["status"] == "differs"]
        lines += [entry["error"]] if entry["error"] else []
        for line in lines:
            console.print(f"{entry['host']}: {line}", markup=False)
