"""infra-llm provision: make hosts serve a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.errors import BadInputError
from infra_llm.report.host_report import print_report, report_document
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import run_fleet
from infra_llm.runner.plan_set import read_plan_set


@click.command()
@click.argument("plan_file", required=False, type=click.Path(path_type=Path), metavar="[PLAN]")
@fleet_options
@click.option("--tags", "-t", metavar="ROLES", help="Only these roles, by name, comma-separated.")
@click.option("--check", "-C", is_flag=True, help="Say what would change; change nothing.")
@click.option("--diff", "-D", is_flag=True, help="Show what changes in files.")
@click.option("--full", is_flag=True, help="Run every role, also where nothing differs.")
def provision(plan_file: Path | None, as_json: bool, **options: Any) -> None:
    """Probe, plan, apply, verify and remember, on every host of the inventory.

    With PLAN (from `infra-llm plan -o PLAN`) exactly that is applied; hosts whose hardware is
    no longer the plan's are refused.
    """
    if plan_file:
        read_plan_set(plan_file)
    run_options = {
        "full": options["full"],
        "plan_file": str(plan_file.resolve()) if plan_file else None,
        "only": _roles(options["tags"]),
    }
    request = fleet_request(
        "provision", options, check=options["check"], diff=options["diff"], options=run_options
    )
    started = time.monotonic()
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    result.seconds = time.monotonic() - started
    if as_json:
        print_json(report_document("provision", result))
    else:
        print_report(result, stdout(), show_diffs=options["diff"])
    raise SystemExit(int(result.code))


def _roles(tags: str | None) -> list[str]:
    from infra_llm.core.decide import ROLES

    wanted = [tag.strip() for tag in (tags or "").split(",") if tag.strip()]
    if tags is not None and not wanted:
        raise BadInputError(
            f"{tags!r} names no role", where="--tags", hint=f"roles: {', '.join(ROLES)}"
        )
    unknown = [tag for tag in wanted if tag not in ROLES]
    if unknown:
        raise BadInputError(
            f"no role named {', '.join(unknown)}", where="--tags", hint=f"roles: {', '.join(ROLES)}"
        )
    return wanted
