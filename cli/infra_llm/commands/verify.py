"""infra-llm verify: prove again that the endpoints answer, and how fast."""

from __future__ import annotations

import time
from typing import Any

import click

from infra_llm.commands.options import fleet_options, fleet_request
from infra_llm.core.errors import ExitCode
from infra_llm.report.host_report import outcome_word, report_document
from infra_llm.report.live import progress_listener
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import run_fleet


@click.command()
@fleet_options
def verify(as_json: bool, **options: Any) -> None:
    """Ask every endpoint, measure it, and compare with the plan and the run before."""
    request = fleet_request("verify", options)
    started = time.monotonic()
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    result.seconds = time.monotonic() - started
    for host in result.hosts:
        if host.code == ExitCode.VERIFY_FAILED:
            host.error += "\n  nothing was changed; infra-llm provision puts it right"
    if as_json:
        print_json(report_document("verify", result))
        raise SystemExit(int(result.code))
    console = stdout()
    for host in result.hosts:
        console.rule(f"[bold]{host.name}", align="left")
        verified = host.documents.get("verify") or {}
        for check in (verified.get("verdict") or {}).get("checks", []):
            mark = "ok" if check["ok"] else ("NO" if check["required"] else "--")
            console.print(f"{mark} {check['name']}: {check['detail']}", markup=False)
        before = ((host.state.get("measured") or {}).get("speed") or {}).get(
            "decode_tokens_per_second"
        )
        now = ((verified.get("measured") or {}).get("speed") or {}).get("decode_tokens_per_second")
        if before and now:
            console.print(f"decode {before:.1f} -> {now:.1f} tokens/s since the last run")
        if host.error:
            console.print(f"{outcome_word(host, 'verify')}: {host.error}", markup=False)
    raise SystemExit(int(result.code))
