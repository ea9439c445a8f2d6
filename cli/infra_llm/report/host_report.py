"""The report of a run: what was found, planned, measured, and how to talk to the endpoint."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra_llm.core.codec import from_dict
from infra_llm.core.errors import ExitCode
from infra_llm.core.hardware import HostHardware
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.stack.desired import STACK_ROLES
from infra_llm.readers.site_ca import ca_folder
from infra_llm.report.hardware_panel import SETS_SHOWN, gib, gpu_summary
from infra_llm.report.plan_table import print_comparison, print_plan
from infra_llm.runner.fleet import FleetResult, HostResult

REPORT_SCHEMA = "infra-llm/report/1"
_MARKS = {True: "[green]ok[/]", False: "[red]no[/]"}


def report_document(command: str, result: FleetResult) -> dict[str, Any]:
    """The report as JSON: an entry a host, the same facts as the printed one."""
    return {
        "schema": REPORT_SCHEMA,
        "command": command,
        "exit_code": int(result.code),
        "seconds": round(result.seconds, 2),
        "hosts": {host.name: host_document(host, command) for host in result.hosts},
    }


def host_document(host: HostResult, command: str = "provision") -> dict[str, Any]:
    """One host's part of the report."""
    decision, audit = host.decision, host.documents.get("audit") or {}
    verified = host.documents.get("verify") or host.state
    desired = decision.get("desired") or {}
    return {
        "result": outcome_word(host, command),
        "exit_code": int(host.code),
        "error": host.error or None,
        "changes": decision.get("changes", []),
        "roles": decision.get("due", []),
        "changed_tasks": host.changed_tasks,
        "diffs": host.diffs,
        "said": host.said,
        "hardware": audit.get("hardware"),
        "plan": desired.get("plan"),
        "confirmation": host.documents.get("confirm"),
        "steps": (host.documents.get("steps") or {}).get("steps", []),
        "measured": verified.get("measured"),
        "verdict": verified.get("verdict"),
        "endpoint": endpoint(desired) if desired else None,
    }


def endpoint(desired: dict[str, Any]) -> dict[str, str]:
    """The endpoint and lines that talk to it; one on loopback, to be run on the host itself.

    `key` and `authority` say where the API key and the certificate's authority are to be had.
    """
    verify = desired["verify"]
    url, model = verify.get("public_url") or verify["url"], desired["launch"]["alias"]
    front = (desired.get("access") or {}).get("front") or {}
    key = '-H "Authorization: Bearer $INFRA_LLM_API_KEY" ' if front.get("key") else ""
    site = (front.get("tls") or {}).get("kind") == "site"
    authority = f"--cacert {_authority()} " if site else ""
    path, body, call = _request(desired, model)
    quoted = json.dumps(body).replace("'", "'\\''")
    return {
        "url": f"{url}/v1",
        "model": model,
        "from": "the network" if verify.get("public_url") else "the host",
        "key": _key_words(front, desired),
        "authority": _authority() if site else "",
        "curl": f"curl -s {authority}{key}{url}/v1/{path} "
        "-H 'Content-Type: application/json' "
        f"-d '{quoted}'",
        "python": (
            ("import os\n" if key else "") + "from openai import OpenAI\n"
            f'client = OpenAI(base_url="{url}/v1", '
            + ('api_key=os.environ["INFRA_LLM_API_KEY"])\n' if key else 'api_key="none")\n')
            + call
        ),
    }


def _request(desired: dict[str, Any], model: str) -> tuple[str, dict[str, Any], str]:
    """(path below /v1, body, Python) of one request: a chat, or an embedding."""
    prompt = desired["verify"]["prompt"]
    if desired["verify"].get("embeds"):
        call = (
            f'answer = client.embeddings.create(model="{model}", input={prompt!r})\n'
            "print(len(answer.data[0].embedding))"
        )
        return "embeddings", {"model": model, "input": prompt}, call
    messages = [{"role": "user", "content": prompt}]
    call = (
        f'answer = client.chat.completions.create(model="{model}", '
        f"messages={messages!r}, temperature=0)\n"
        "print(answer.choices[0].message.content)"
    )
    return "chat/completions", {"model": model, "messages": messages, "temperature": 0}, call


def _authority() -> str:
    return str(ca_folder() / "ca.crt")


def _key_words(front: dict[str, Any], desired: dict[str, Any]) -> str:
    if not front.get("key"):
        return ""
    file = f"{desired['layout']['etc']}/api-key"
    return f"made on the host: sudo cat {file}" if front["key_from"] == "host" else "yours"


def outcome_word(host: HostResult, command: str = "provision") -> str:
    """One word for what happened; only `provision` rolls a host back."""
    rolled_back = ", rolled back" if command == "provision" else ""
    words = {
        ExitCode.BAD_INPUT: "bad input",
        ExitCode.DOES_NOT_FIT: "does not fit",
        ExitCode.UNREACHABLE: "unreachable",
        ExitCode.HOST_FAILED: "failed",
        ExitCode.VERIFY_FAILED: f"verify failed{rolled_back}",
        ExitCode.REFUSED: "refused",
        ExitCode.INTERRUPTED: "interrupted",
    }
    if host.code != ExitCode.DONE:
        return words[host.code]
    if not host.decision.get("due"):
        return "unchanged"
    if host.check:
        return "would change"
    only_stack = set(host.decision["due"]) <= set(STACK_ROLES)
    return "stack ready" if only_stack else "serving"


def print_report(result: FleetResult, console: Console, *, show_diffs: bool = False) -> None:
    """Everything for a fleet of a few hosts; hosts on which nothing differed get one line."""
    for host in result.hosts:
        if host.code == ExitCode.DONE and host.decision.get("due"):
            print_host(host, console, show_diffs)
    summary = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("host", "result", "model", "decode", "prefill", "endpoint"):
        summary.add_column(column, no_wrap=True)
    for host in result.hosts:
        summary.add_row(*_summary(host))
    console.print(summary)
    for host in result.hosts:
        print_said(host, console)
    for host in result.hosts:
        if host.error:
            console.print(f"\n{host.name}: {outcome_word(host)}", style="bold red")
            console.print(f"  {host.error}", markup=False)
    console.print(f"\n{_closing(result)}")


def print_said(host: HostResult, console: Console) -> None:
    """What roles had to tell a person of this host."""
    for text in host.said:
        console.print(f"{host.name}: {text}", markup=False)


def _closing(result: FleetResult) -> str:
    changed = sum(bool(host.decision.get("due")) for host in result.hosts)
    good = [host for host in result.hosts if host.code == ExitCode.DONE]
    if len(good) == len(result.hosts) and not changed:
        return f"nothing differs; no role ran ({result.seconds:.1f} s)"
    return f"{len(good)} of {len(result.hosts)} hosts done in {result.seconds:.1f} s"


def _summary(host: HostResult) -> list[str]:
    document = host_document(host)
    speed = (document["measured"] or {}).get("speed") or {}
    colour = "green" if host.code == ExitCode.DONE else "red"
    desired = host.decision.get("desired") or {}
    at = document["endpoint"] or {}
    return [
        host.name,
        f"[{colour}]{document['result']}[/]",
        escape((desired.get("launch") or {}).get("alias", "-")),
        _rate(speed.get("decode_tokens_per_second")),
        _rate(speed.get("prefill_tokens_per_second")),
        at.get("url", "-") if host.code == ExitCode.DONE else "-",
    ]


def _rate(value: float | None) -> str:
    return f"{value:.1f} tokens/s" if value else "-"


def print_host(host: HostResult, console: Console, show_diffs: bool) -> None:
    """One host that was changed: found, planned, measured, endpoint."""
    decision = host.decision
    desired = decision["desired"]
    console.rule(f"[bold]{host.name}", align="left")
    print_hardware(decision["hardware"], console)
    print_changes(decision, console)
    console.print(f"[bold]planned[/]   {escape(desired['model']['name'])}")
    print_plan(from_dict(LaunchPlan, desired["plan"]), console)
    for entry in desired.get("more") or []:
        console.print(f"[bold]beside it[/] {escape(entry['name'])}")
        print_plan(from_dict(LaunchPlan, entry["plan"]), console)
    for step in (host.documents.get("steps") or {}).get("steps", []):
        console.print(f"[bold]smaller[/]   {escape(step)}")
    confirmed = host.documents.get("confirm")
    if confirmed:
        console.print("[bold]engine[/]    ", end="")
        console.print(confirmed["text"], markup=False)
    verified = host.documents.get("verify")
    if verified:
        _print_verdict(verified, console)
        at = endpoint(desired)
        console.print(f"\n[bold]endpoint[/]  {at['url']}  (from {at['from']})")
        _print_access(desired.get("access") or {}, at, console)
        console.print(at["curl"], markup=False)
        console.print()
        console.print(at["python"], markup=False)
        console.print()
    for diff in host.diffs if show_diffs else []:
        console.print(diff, markup=False)


def _print_access(access: dict[str, Any], at: dict[str, str], console: Console) -> None:
    if access.get("insecure"):
        console.print(
            "[bold red]open[/]      everyone who reaches it may use it, and read along: "
            "infra_llm_insecure is set"
        )
    if at["key"]:
        console.print(f"[bold]key[/]       INFRA_LLM_API_KEY: {escape(at['key'])}")
    tls = (access.get("front") or {}).get("tls")
    if tls:
        authority = f", authority {at['authority']} (SSL_CERT_FILE)" if at["authority"] else ""
        words = f"certificate until {tls['not_after']}{authority}"
        console.print(f"[bold]tls[/]       {escape(words)}")


def print_hardware(hardware: dict[str, Any], console: Console) -> None:
    """What was found, in two lines."""
    host = from_dict(HostHardware, hardware)
    sets = " ".join(name for name in SETS_SHOWN if name in host.cpu.instruction_sets)
    system = host.system
    console.print("[bold]found[/]     ", end="")
    console.print(
        f"{host.cpu.model}, {host.cpu.cores} cores ({sets}), "
        f"{gib(host.memory.total_mib)} RAM, {gpu_summary(host.gpus)}",
        markup=False,
    )
    console.print(
        f"          {system.distribution} {system.distribution_version}, kernel {system.kernel}, "
        f"{system.virtualization or 'bare metal'}, service manager {system.service_manager}",
        markup=False,
    )


def print_changes(decision: dict[str, Any], console: Console) -> None:
    """What differs on the host from what it should be."""
    for number, change in enumerate(decision["changes"]):
        label = "[bold]differs[/]" if number == 0 else "       "
        console.print(f"{label}   {escape(change['text'])}")
    before = (decision.get("previous") or {}).get("desired") or {}
    if any(change["text"].startswith("hardware: ") for change in decision["changes"]) and before:
        old, new = before["plan"], decision["desired"]["plan"]
        print_comparison(from_dict(LaunchPlan, old), from_dict(LaunchPlan, new), console)


def _print_verdict(verified: dict[str, Any], console: Console) -> None:
    for check in verified["verdict"]["checks"]:
        mark = _MARKS[check["ok"]] if check["required"] or check["ok"] else "[yellow]--[/]"
        console.print(f"[bold]verified[/]  {mark} {check['name']}: ", end="")
        console.print(check["detail"], markup=False)
