"""infra-llm plan: what each host would become, before anything is changed."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError, ExitCode
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.stack import StackPlan
from infra_llm.report.host_report import outcome_word, print_changes, print_hardware
from infra_llm.report.live import progress_listener
from infra_llm.report.plan_table import print_plan
from infra_llm.report.stack_table import print_stack
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import FleetResult, run_fleet
from infra_llm.runner.plan_set import PLAN_SET_SCHEMA


@click.command()
@fleet_options
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Write the plan to a file.")
def plan(as_json: bool, output: Path | None, **options: Any) -> None:
    """Print the launch plan of every host and what would change there."""
    if output:
        _check_output(output)
    request = fleet_request("audit", options)
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    unwritten = _write(output, _document(result)) if output else None
    if as_json:
        print_json(_entries(result))
    else:
        _print(result, None if unwritten else output, verbose=bool(options["verbose"]))
    if unwritten:
        raise unwritten
    raise SystemExit(int(result.code))


def _check_output(output: Path) -> None:
    """Raises BadInputError where no plan can be written, before any host is asked."""
    if not output.resolve().parent.is_dir():
        raise BadInputError("its folder does not exist", where=str(output), hint="make it first")
    if output.is_dir():
        raise BadInputError("is a folder", where=str(output), hint="name a file in it")
    there = output.exists()
    if there and not output.is_file():
        return  # a pipe or a device: a look would be heard at its other end
    try:
        output.open("a").close()
        if not there:
            output.unlink()
    except OSError as error:
        raise _not_written(output, error) from error


def _write(output: Path, document: dict[str, Any]) -> BadInputError | None:
    """The error when that fails, to be raised after the plan was shown.

    Only for us to read: addresses of package indexes and mirrors may hold passwords.
    """
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                os.fchmod(handle, 0o600)
            json.dump(document, file, indent=1, allow_nan=False)
    except OSError as error:
        return _not_written(output, error)
    return None


def _not_written(output: Path, error: OSError) -> BadInputError:
    return BadInputError(
        f"the plan can't be written: {error.strerror}",
        where=str(output),
        hint="name a file in a folder that can be written and has room",
    )


def _document(result: FleetResult) -> dict[str, Any]:
    return {
        "schema": PLAN_SET_SCHEMA,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hosts": {host.name: host.decision for host in result.hosts if host.decision},
    }


def _entries(result: FleetResult) -> list[dict[str, Any]]:
    """A LaunchPlan a host, with what would change there."""
    entries: list[dict[str, Any]] = []
    for host in result.hosts:
        decision = host.decision
        # As in probe: "name" is the machine's; "host" is the plan's row for its RAM.
        entry: dict[str, Any] = {"name": host.name, "exit_code": int(host.code)}
        if decision:
            changes = {"changes": decision["changes"], "roles": decision["due"]}
            entry |= decision["desired"]["plan"] | changes
            entry["stack"] = (decision["desired"].get("stack") or {}).get("plan")
        if host.error:
            entry["error"] = host.error
        entries.append(entry)
    return entries


def _print(result: FleetResult, output: Path | None, *, verbose: bool) -> None:
    console = stdout()
    for host in result.hosts:
        console.rule(f"[bold]{host.name}", align="left")
        decision = host.decision
        if host.code != ExitCode.DONE or not decision:
            console.print(f"{outcome_word(host)}: {host.error}", markup=False)
            continue
        print_hardware(decision["hardware"], console)
        print_changes(decision, console)
        stack = decision["desired"].get("stack")
        if stack:
            print_stack(from_dict(StackPlan, stack["plan"]), console, rules=verbose)
        print_plan(from_dict(LaunchPlan, decision["desired"]["plan"]), console)
        due = ", ".join(decision["due"])
        console.print(f"[bold]would run[/] {due or 'nothing: nothing differs'}")
        for problem in decision["problems"]:
            console.print(f"[bold red]in the way[/] {escape(problem['text'])}")
    if output:
        console.print(
            f"\nApply exactly this: infra-llm provision {output} --inventory FILE", markup=False
        )
