"""Does the endpoint do what was promised? Measured figures against the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MEMORY_TOLERANCE = 0.10
"""Relative; beyond it the memory check is a warning: the engine answers, the plan was wrong."""


@dataclass
class CheckResult:
    name: str
    ok: bool
    detail: str
    required: bool = True
    """A check that is not required warns; it does not fail the host."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Verdict:
    passed: bool
    checks: list[CheckResult]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def failures(self) -> list[str]:
        return [f"{c.name}: {c.detail}" for c in self.checks if c.required and not c.ok]


def judge(measured: Mapping[str, Any], desired: Mapping[str, Any]) -> Verdict:
    """Judge what `verify_endpoint` measured on a host against what was planned for it.

    Health, the answer and the placement of layers are required; memory beyond
    `MEMORY_TOLERANCE` of the prediction is a warning, as the service works.
    """
    checks = [
        _health(measured),
        _answer(measured, desired["verify"]),
        _speed(measured),
        _layers(measured, desired["plan"]),
        _memory(measured, desired["plan"]),
    ]
    return Verdict(all(check.ok or not check.required for check in checks), checks)


def _health(measured: Mapping[str, Any]) -> CheckResult:
    health = measured.get("health") or {}
    ok = bool(health.get("ok"))
    detail = f"ready after {health.get('seconds', 0):.1f} s" if ok else health.get("error", "")
    return CheckResult("health", ok, detail or "did not become healthy")


def _answer(measured: Mapping[str, Any], wished: Mapping[str, Any]) -> CheckResult:
    chat = measured.get("chat") or {}
    answer, expected = str(chat.get("answer", "")).strip(), wished["expect"]
    if not answer:
        return CheckResult("answer", False, chat.get("error") or "the answer was empty")
    ok = expected in answer
    detail = f"{wished['prompt']!r} -> {answer!r}"
    return CheckResult("answer", ok, detail if ok else f"{detail} lacks {expected!r}")


def _speed(measured: Mapping[str, Any]) -> CheckResult:
    speed = measured.get("speed") or {}
    decode, prefill = speed.get("decode"), speed.get("prefill")
    if not decode or not prefill:
        return CheckResult("speed", False, "could not be measured", required=False)
    return CheckResult(
        "speed", True, f"prefill {prefill:.1f}, decode {decode:.1f} tokens/s", required=False
    )


def _layers(measured: Mapping[str, Any], plan: Mapping[str, Any]) -> CheckResult:
    """The engine's own "offloaded n/m layers" line; a build without GPU support has none."""
    log = measured.get("log") or {}
    wanted = int(plan["flags"].get("n_gpu_layers") or 0)
    offloaded = log.get("offloaded_layers")
    if not log.get("buffers"):
        return CheckResult("layers", False, "the engine's log shows no buffers")
    found = int(offloaded or 0)
    total = log.get("total_layers")
    expected = min(wanted, int(total)) if total else wanted
    where = f"{found} of {expected} planned layers on the GPU" if expected else "all on the CPU"
    ok = found == expected and (expected > 0 or not _gpu_buffers(log))
    return CheckResult("layers", ok, where if ok else f"{where}, planned {expected}: see the log")


def _gpu_buffers(log: Mapping[str, Any]) -> list[str]:
    return [name for name in log["buffers"] if not name.startswith(("CPU", "Host", "AMX"))]


def _memory(measured: Mapping[str, Any], plan: Mapping[str, Any]) -> CheckResult:
    """Resident memory of the service against the host row of the plan, in MiB."""
    used = (measured.get("memory") or {}).get("rss_mib")
    predicted = (plan.get("host") or {}).get("total_mib")
    if not used or not predicted:
        return CheckResult("memory", False, "could not be measured", required=False)
    error = used / predicted - 1
    return CheckResult(
        "memory",
        abs(error) <= MEMORY_TOLERANCE,
        f"{used:.0f} MiB in use, {predicted:.0f} MiB predicted ({error:+.1%})",
        required=False,
    )
