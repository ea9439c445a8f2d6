"""infra-llm probe: what these machines are, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import click

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.codec import from_dict
from infra_llm.core.hardware import HostHardware
from infra_llm.report.hardware_panel import error_row, hardware_panel, host_line
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import FleetResult, run_fleet


@click.command()
@fleet_options
@click.option(
    "--measure",
    "-m",
    multiple=True,
    type=click.Choice(["memory", "disks", "gpus"]),
    help="Measure bandwidths too, seconds each; kept and used by later plans.",
)
def probe(as_json: bool, measure: tuple[str, ...], **options: Any) -> None:
    """Print the hardware of every host; with --json a list of HostHardware."""
    wished = {"probe_only": True, "measure": list(measure)}
    request = fleet_request("audit", options, options=wished)
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    if as_json:
        print_json(_documents(result))
    else:
        _print(result, verbose=bool(options["verbose"]))
    raise SystemExit(int(result.code))


def _documents(result: FleetResult) -> list[dict[str, Any]]:
    documents = []
    for host in result.hosts:
        hardware = (host.documents.get("audit") or {}).get("hardware")
        found = hardware or {"error": host.error}
        documents.append({"name": host.name, "exit_code": int(host.code), **found})
    return documents


def _print(result: FleetResult, *, verbose: bool) -> None:
    """A line a host, then a panel for each; a host that can't be probed is a row, too."""
    console = stdout()
    panels = []
    for host in result.hosts:
        found = (host.documents.get("audit") or {}).get("hardware")
        if found:
            hardware = from_dict(HostHardware, found, host.name)
            console.print(host_line(host.name, hardware), markup=False)
            panels.append(hardware_panel(host.name, hardware, verbose))
        else:
            console.print(f"{host.name}: {host.error.splitlines()[0]}", markup=False)
            panels.append(error_row(host.name, host.error))
    for panel in panels:
        console.print(panel)
