"""Events of a run reduced to what each host is doing. Pure: (state, event) -> state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra_llm.core.engines import ENGINES, MODEL_ROLES

STAGES = {
    "preflight": "checking",
    "nvidia_driver": "installing the driver",
    "cuda": "installing CUDA",
    "container_engine": "installing the container engine",
    "nvidia_container_toolkit": "giving containers the GPUs",
    **{engine.role: f"installing {engine.name}" for engine in ENGINES.values()},
    **{role: f"handing the model to {engine}" for engine, role in MODEL_ROLES.items()},
    "model_store": "fetching the model",
    "llm_service": "starting the service",
    "llm_access": "opening the endpoint",
    "llm_verify": "verifying",
}


@dataclass
class HostProgress:
    stage: str = "waiting"
    task: str = ""
    changed: int = 0
    failed: str = ""
    """What failed, in the host's own words."""
    failed_task: str = ""
    failed_role: str = ""
    failed_code: int | None = None
    """The exit code that one of our own modules gave its failure."""
    unreachable: str = ""
    rescued: bool = False
    diffs: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What roles have to tell a person: why a reboot is needed, what was not done and why."""


SAYS_WHY = "Say why"
"""How the tasks begin that fail in a role's rescue with the reason in full."""


@dataclass
class RunProgress:
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    stats_seen: bool = False
    complaints: list[str] = field(default_factory=list)
    """Ansible's own errors that belong to no host."""


def reduce(state: RunProgress, event: dict[str, Any]) -> str | None:
    """Take one ansible-runner event in; returns the host whose stage changed, if one did."""
    kind, data = event.get("event", ""), event.get("event_data") or {}
    if kind == "playbook_on_stats":
        state.stats_seen = True
        _forgive(state, data.get("failures") or {})
    if kind in ("error", "verbose", "warning") and "ERROR" in event.get("stdout", ""):
        state.complaints.append(event["stdout"].strip())
    name = data.get("host")
    if not name or not kind.startswith("runner_"):
        return None
    host = state.hosts.setdefault(name, HostProgress())
    before = host.stage
    _take(host, kind, data)
    return name if host.stage != before else None


def _forgive(state: RunProgress, failures: dict[str, int]) -> None:
    """A failure that a rescue block mended is none; only the stats at the end tell which."""
    for name, host in state.hosts.items():
        if host.failed and name not in failures:
            host.failed, host.failed_task, host.failed_code = "", "", None
            host.stage, host.rescued = "finished", True


def _take(host: HostProgress, kind: str, data: dict[str, Any]) -> None:
    result = data.get("res") or {}
    if kind == "runner_on_start":
        host.task = data.get("task", "")
        host.stage = _stage(data, host.stage)
    elif kind == "runner_on_ok":
        host.changed += bool(result.get("changed"))
        if data.get("task_action") == "audit":
            host.stage = "audited"
        elif data.get("task_action") == "step_down":
            # The start is tried again: what fails from now on is the cause.
            host.failed, host.failed_task, host.failed_code = "", "", None
        _take_diffs(host, result)
        if str(data.get("task_action")).endswith("debug"):
            _take_words(host, result)
    elif kind == "runner_on_unreachable":
        host.unreachable = _message(result)
        host.stage = "unreachable"
    elif kind == "runner_on_failed" and not data.get("ignore_errors"):
        # The first failure is the cause; what a rescue block fails with afterwards repeats it.
        # Except where it tells more: step_down what was tried since, a build its last lines.
        if not host.failed or _tells_more(data):
            host.failed, host.failed_task = _message(result), data.get("task", "")
            host.failed_role = data.get("role", "")
            host.failed_code = result.get("exit_code")
        host.stage = "failed"


def _tells_more(data: dict[str, Any]) -> bool:
    return data.get("task_action") == "step_down" or str(data.get("task")).startswith(SAYS_WHY)


def _stage(data: dict[str, Any], before: str) -> str:
    """Removal goes through the roles that install, too: there the words would say the opposite."""
    if str(data.get("playbook", "")).endswith("remove.yml"):
        return "removing"
    return STAGES.get(data.get("role", ""), before)


def _take_words(host: HostProgress, result: dict[str, Any]) -> None:
    found = result.get("msg") or []
    for text in found if isinstance(found, list) else [found]:
        if str(text) not in host.said:
            host.said.append(str(text))


def _take_diffs(host: HostProgress, result: dict[str, Any]) -> None:
    for item in result.get("results") or [result]:
        diffs = item.get("diff") if isinstance(item, dict) else None
        for diff in diffs if isinstance(diffs, list) else [diffs]:
            if isinstance(diff, dict) and item.get("changed"):
                host.diffs.append(_diff_text(diff))


def _diff_text(diff: dict[str, Any]) -> str:
    if "prepared" in diff:
        return str(diff["prepared"]).rstrip()
    before, after = (_lines(diff.get(side)) for side in ("before", "after"))
    header = diff.get("after_header") or diff.get("before_header") or ""
    lines = [f"- {line}" for line in before if line not in after]
    lines += [f"+ {line}" for line in after if line not in before]
    return "\n".join([str(header), *lines]).strip()


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {value[key]}" for key in sorted(value)]
    return str(value or "").splitlines()


def _message(result: dict[str, Any]) -> str:
    for item in result.get("results") or []:
        if isinstance(item, dict) and item.get("failed"):
            return _message({key: value for key, value in item.items() if key != "results"})
    text = str(result.get("msg") or result.get("module_stderr") or "failed without a word")
    detail = str(result.get("stderr") or "").strip()
    if detail and detail not in text:
        text = f"{text}\n{detail}"
    return text.strip()
