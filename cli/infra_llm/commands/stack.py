"""infra-llm stack: the solver of driver, CUDA and container toolkit, with or without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from infra_llm.commands.hosts import gpus_named, read_hardware
from infra_llm.commands.options import become_secrets
from infra_llm.core.codec import from_dict
from infra_llm.core.errors import BadInputError, ExitCode
from infra_llm.core.hardware import Cpu, HostHardware
from infra_llm.core.stack import StackPlan
from infra_llm.readers.stack_rules import load_stack_rules
from infra_llm.report.host_report import outcome_word
from infra_llm.report.live import progress_listener
from infra_llm.report.stack_table import print_stack
from infra_llm.report.terminal import print_json, stdout
from infra_llm.runner.fleet import FleetResult, run_fleet
from infra_llm.runner.run import Request
from infra_llm.runner.stack import host_stack
from infra_llm.runner.wishes import host_wishes

SYSTEMS = ("debian12", "debian13", "ubuntu22.04", "ubuntu24.04", "rocky9", "rocky10")
PREFIX = "infra_llm_"


@click.command()
@click.option("--gpu", "gpus", multiple=True, metavar="NAME[xN]", help="A GPU by name, N of it.")
@click.option("--hardware", type=click.Path(dir_okay=False), help="HostHardware as JSON (probe).")
@click.option("--inventory", "-i", type=click.Path(path_type=Path), help="Ansible inventory.")
@click.option("--limit", "-l", metavar="HOSTS", help="Only these hosts of the inventory.")
@click.option("--forks", type=click.IntRange(1, 500), default=20, show_default=True)
@click.option("--ask-become-pass", "-K", is_flag=True, help="Ask for the sudo password.")
@click.option("-v", "--verbose", count=True, help="Say more; -vv shows Ansible's own output.")
@click.option(
    "--os",
    "system",
    type=click.Choice(SYSTEMS),
    help="Distribution; without it the probed one.",
)
@click.option(
    "--engine", "engines", multiple=True, help="llama.cpp (if none is named), vllm, ollama."
)
@click.option(
    "--machine", default="x86_64", help="x86_64 or aarch64, with --gpu.", show_default=True
)
@click.option("--secure-boot", is_flag=True, help="Secure Boot is on.")
@click.option(
    "--set",
    "pins",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the inventory, as driver_branch=580 (docs/variables.md).",
)
@click.option("--json", "as_json", is_flag=True, help="The StackPlan as JSON on stdout.")
def stack(as_json: bool, **options: Any) -> None:
    """Solve driver, CUDA and container toolkit of a machine, and print the rules that fired.

    The machine is given by its GPUs (--gpu, several times for a mixed box), by a probe's JSON, or
    by an inventory, whose hosts are probed and whose variables count. Refused plans exit 7.
    """
    given = [name for name in ("gpus", "hardware", "inventory") if options[name]]
    if len(given) != 1:
        raise BadInputError(
            "--gpu, --hardware and --inventory exclude each other" if given else "no machine given",
            hint="give --gpu NAME[xN], --hardware HOST.json or --inventory FILE",
        )
    if options["inventory"]:
        raise SystemExit(int(_fleet(options, as_json)))
    plan = _solve_one(options)
    if as_json:
        print_json(plan.to_dict())
    else:
        print_stack(plan, stdout())
    if plan.refused:
        raise SystemExit(int(ExitCode.REFUSED))


def pinned(pins: tuple[str, ...]) -> dict[str, Any]:
    """--set options as variables: "driver_branch=580" is infra_llm_driver_branch.

    Raises BadInputError.
    """
    found: dict[str, Any] = {}
    for text in pins:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise BadInputError(
                f"--set {text!r} is not NAME=VALUE", hint="write it as driver_branch=580"
            )
        name = name.strip()
        full = name if name.startswith((PREFIX, "llama_cpp_")) else PREFIX + name
        try:
            found[full] = yaml.safe_load(value) if value else ""
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise BadInputError(
                f"not a value ({error})",
                where=f"--set {name}",
                hint="write it as in an inventory of YAML (docs/variables.md)",
            ) from error
    return found


def _solve_one(options: dict[str, Any]) -> StackPlan:
    if options["machine"] not in ("x86_64", "aarch64"):
        raise BadInputError("must be x86_64 or aarch64", where="--machine")
    if options["hardware"]:
        host = read_hardware(Path(options["hardware"]))
    else:
        if not options["system"]:
            raise BadInputError(
                "no distribution given", where="--os", hint=f"one of {', '.join(SYSTEMS)}"
            )
        host = HostHardware(cpu=Cpu(architecture=options["machine"]))
        for text in options["gpus"]:
            host.gpus.extend(gpus_named(text, len(host.gpus)))
    if options["secure_boot"]:
        host.driver.secure_boot = True
    checked = host_wishes(pinned(options["pins"]), "--set")
    where = str(options["hardware"] or "--gpu")
    return host_stack(host, checked, where, options["system"], options["engines"])


def _fleet(options: dict[str, Any], as_json: bool) -> ExitCode:
    """Every host of an inventory, with its own variables; --set and --os come last."""
    for name in options["engines"]:
        load_stack_rules().engine(name)
    pins = pinned(options["pins"])
    host_wishes(pins, "--set")
    request = Request(
        name="audit",
        inventory=options["inventory"],
        limit=options["limit"],
        forks=options["forks"],
        verbosity=max(0, options["verbose"] - 1),
        secrets=become_secrets(options["ask_become_pass"]),
        options={
            "stack_only": True,
            "stack_os": options["system"],
            "stack_engines": list(options["engines"]),
            "stack_pins": pins,
            "stack_secure_boot": options["secure_boot"],
        },
    )
    with progress_listener(options["verbose"]) as listener:
        result = run_fleet(request, listener)
    for host in result.hosts:
        if host.code == ExitCode.DONE and (host.documents.get("stack") or {}).get("refused"):
            host.code = ExitCode.REFUSED
    if as_json:
        print_json(_entries(result))
    else:
        _print(result)
    return result.code


def _entries(result: FleetResult) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for host in result.hosts:
        entry = {
            "name": host.name,
            "exit_code": int(host.code),
            **(host.documents.get("stack") or {}),
        }
        if host.error:
            entry["error"] = host.error
        entries.append(entry)
    return entries


def _print(result: FleetResult) -> None:
    console = stdout()
    for host in result.hosts:
        console.rule(f"[bold]{host.name}", align="left")
        document = host.documents.get("stack")
        if document is None:
            console.print(f"{outcome_word(host)}: {host.error}", markup=False)
        else:
            print_stack(from_dict(StackPlan, document), console)
