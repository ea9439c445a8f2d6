"""A command over a fleet: run the playbook, collect each host's result, settle interrupted ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from infra_llm.core.errors import ExitCode
from infra_llm.core.layout import layout_of
from infra_llm.runner.inventory import Inventory, load_inventory
from infra_llm.runner.progress import SAYS_WHY, HostProgress
from infra_llm.runner.run import Listener, Outcome, Request, run_playbook

SEVERITY = (
    ExitCode.INTERRUPTED,
    ExitCode.BAD_INPUT,
    ExitCode.REFUSED,
    ExitCode.DOES_NOT_FIT,
    ExitCode.VERIFY_FAILED,
    ExitCode.HOST_FAILED,
    ExitCode.UNREACHABLE,
)
"""Where hosts end differently, the first of these that occurred is the process's exit code."""


@dataclass
class HostResult:
    """What happened to one host."""

    name: str
    code: ExitCode = ExitCode.DONE
    error: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    changed_tasks: int = 0
    diffs: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What roles have to tell a person."""
    check: bool = False
    """Only looked at; nothing was applied."""

    @property
    def decision(self) -> dict[str, Any]:
        return dict(self.documents.get("decision") or {})

    @property
    def state(self) -> dict[str, Any]:
        """HostState as the audit found it, before this run."""
        return dict((self.documents.get("audit") or {}).get("state") or {})


@dataclass
class FleetResult:
    hosts: list[HostResult]
    seconds: float = 0.0

    @property
    def code(self) -> ExitCode:
        codes = {host.code for host in self.hosts}
        return next((code for code in SEVERITY if code in codes), ExitCode.DONE)


def run_fleet(request: Request, listener: Listener | None = None) -> FleetResult:
    """Check the inventory, run, and say of every host what happened to it.

    Raises BadInputError before any host is contacted when the inventory can't be used, and
    InfraLlmError when Ansible itself can't run.
    """
    inventory = load_inventory(request.inventory, request.limit)
    if request.name == "remove":
        # What removal has to go by, as it asks no host what is there.
        layouts = {
            host: layout_of(str(variables.get("infra_llm_instance", "")))
            for host, variables in inventory.variables.items()
        }
        request = replace(request, options={**request.options, "layouts": layouts})
    outcome = run_playbook(request, listener)
    if outcome.interrupted:
        _settle(request, inventory, outcome)
    hosts = [_host_result(name, outcome) for name in inventory.hosts]
    for host in hosts:
        host.check = request.check
    return FleetResult(hosts)


def _host_result(name: str, outcome: Outcome) -> HostResult:
    progress = outcome.progress.hosts.get(name, HostProgress())
    documents = outcome.documents.get(name, {})
    result = HostResult(
        name,
        documents=documents,
        changed_tasks=progress.changed,
        diffs=progress.diffs,
        said=progress.said,
    )
    if progress.unreachable:
        result.code, result.error = ExitCode.UNREACHABLE, progress.unreachable
    elif progress.failed:
        result.code, result.error = _failure(progress, documents)
    elif outcome.interrupted and not _finished(documents):
        result.code, result.error = ExitCode.INTERRUPTED, f"interrupted while {progress.stage}"
    elif not documents and not progress.task:
        result.code, result.error = ExitCode.HOST_FAILED, "Ansible never reached this host"
    return result


def _finished(documents: dict[str, Any]) -> bool:
    """Whether a host was through before the interrupt: remembered, or nothing to do."""
    decision = documents.get("decision")
    if decision is None:
        return "verify" in documents
    return "remembered" in documents or not decision["due"]


def _failure(progress: HostProgress, documents: dict[str, Any]) -> tuple[ExitCode, str]:
    problems = (documents.get("decision") or {}).get("problems") or []
    if problems and "before anything is changed" in progress.failed_task:
        code = ExitCode(min(problem["code"] for problem in problems))
        return code, "\n".join(problem["text"] for problem in problems)
    if progress.failed_role == "llm_verify":
        return ExitCode.VERIFY_FAILED, progress.failed
    if progress.failed_code is not None:
        return ExitCode(progress.failed_code), progress.failed
    told = progress.failed_task.startswith(SAYS_WHY)
    words = progress.failed if told else f"{progress.failed_task}: {progress.failed}"
    return ExitCode.HOST_FAILED, _plain(words)


def _plain(text: str) -> str:
    """Ansible's most common failures in an administrator's words."""
    low = text.lower()
    hints = {
        "a password is required": "sudo asks for a password: run with --ask-become-pass",
        "missing sudo password": "sudo asks for a password: run with --ask-become-pass",
        "incorrect sudo password": "the sudo password was wrong",
        "is not in the sudoers": "this user has no sudo rights on the host: add them",
        "sudo: not found": "sudo is not installed on the host: install it, or connect as root",
        "sudo: command not found": "sudo is not installed on the host: install it, "
        "or connect as root",
        "requires a minimum of python version": "the host's Python is too old for Ansible: "
        "install Python 3.8 or later and set ansible_python_interpreter",
        "no python interpreter": "install python3 on the host",
        "the module interpreter": "install python3 on the host",
        "execute ssh command line on a controller": "install openssh-client on this machine",
        "python3: not found": "install python3 on the host",
    }
    hint = next((words for mark, words in hints.items() if mark in low), "")
    return f"{text}\n  {hint}" if hint else text


def _settle(request: Request, inventory: Inventory, outcome: Outcome) -> None:
    """After Ctrl-C: give locks back and leave no host half-done."""
    reached = [
        name
        for name in inventory.hosts
        if name in outcome.progress.hosts and not outcome.progress.hosts[name].unreachable
    ]
    decisions = _begun(request, reached, outcome)
    if not decisions or request.check:
        return
    settle = Request(
        name="settle",
        inventory=request.inventory,
        limit=",".join(decisions),
        secrets=request.secrets,
        options={"interrupted_run": outcome.run_id},
        decisions=decisions,
    )
    settled = run_playbook(settle)
    for name in decisions:
        host = settled.progress.hosts.get(name, HostProgress())
        words = host.failed or host.unreachable
        if words:
            words = f"could not be put back: {words}"
        elif settled.interrupted or not host.said:
            words = "putting it back did not end: run the same command again"
        else:
            words = "; ".join(host.said)
        outcome.progress.hosts[name].stage += f"; {words}"


def _begun(request: Request, hosts: list[str], outcome: Outcome) -> dict[str, Any]:
    """What was decided for each host that the run had begun with and was not through with."""
    if request.name == "remove":
        layouts = request.options["layouts"]
        return {host: {"desired": {"layout": layouts[host]}, "removal": True} for host in hosts}
    found = {host: outcome.documents.get(host, {}) for host in hosts}
    return {
        host: documents["decision"]
        for host, documents in found.items()
        if documents.get("decision", {}).get("due") and not _finished(documents)
    }
