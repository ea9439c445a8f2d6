"""infra-llm probe: what these machines are."""

from __future__ import annotations

import json
from typing import Any

import click

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.report.host_report import print_hardware
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import stdout
from infra_llm.runner.fleet import run_fleet


@click.command()
@fleet_options
def probe(as_json: bool, **options: Any) -> None:
    """Print the hardware of every host; with --json a list of HostHardware."""
    request = fleet_request("audit", options, options={"probe_only": True})
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    documents = []
    console = stdout()
    for host in result.hosts:
        hardware = (host.documents.get("audit") or {}).get("hardware")
        if hardware:
            documents.append({"name": host.name, **hardware})
        else:
            documents.append({"name": host.name, "error": host.error})
        if not as_json:
            console.rule(f"[bold]{host.name}", align="left")
            if hardware:
                print_hardware(hardware, console)
            else:
                console.print(host.error, style="red", markup=False)
    if as_json:
        click.echo(json.dumps(documents, indent=2))
    raise SystemExit(int(result.code))
