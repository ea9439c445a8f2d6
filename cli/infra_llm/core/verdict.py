"""Does the endpoint do what was promised? Measured figures against the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from infra_llm.core.router import together

MEMORY_TOLERANCE = 0.10
"""Relative; beyond it the memory check is a warning: the engine answers, the plan was wrong."""

PLACED_SHARE = 0.75
"""Of the memory planned on the GPUs, what Ollama must have put there. Its figure counts the buffers
that its llama-server logs, as the plan does; layers left on the CPU take theirs with them."""

_HOST_BUFFERS = ("CPU", "CUDA_Host", "ROCm_Host", "Vulkan_Host", "SYCL_Host", "AMX")
"""llama.cpp's names of buffers in the machine's RAM."""


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


def judge(
    measured: Mapping[str, Any],
    desired: Mapping[str, Any],
    previous: Mapping[str, Any] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """Judge what `verify_endpoint` measured on a host against what was planned for it.

    Health, the answer and the placement of layers are required; memory beyond
    `MEMORY_TOLERANCE` of the prediction is a warning, as the service works. Speeds are compared
    with those of `previous` (its "desired" and "measured") where that ran the same. `more` is what
    was measured of the endpoint's further models, in the order of desired["more"].
    """
    before = _comparable(previous or {}, desired)
    further = desired.get("more") or []
    plans = [desired["plan"], *(entry["plan"] for entry in further)]
    # Without further models the plan as it stands: it may be of an earlier version.
    whole = asdict(together(plans)) if further else desired["plan"]
    embeds = bool(desired["verify"].get("embeds"))
    checks = [
        _health(measured),
        _answer(measured, desired["verify"]) if not embeds else _meaning(measured),
        _speed(measured, before),
        _placement(measured, desired),
        _memory(measured, whole),
    ]
    checks += _of_further_models(desired, more)
    checks += [
        check for check in (_parallel(measured, before), _metrics(measured, desired)) if check
    ]
    if measured.get("embedding") and not embeds:
        checks.append(CheckResult("embedding", True, f"{measured['embedding']} numbers", False))
    if desired["launch"].get("engine") == "ollama":
        checks.append(_loaded(measured, desired))
    if desired["plan"]["devices"]:
        checks.append(_vram(measured, whole))
    return Verdict(all(check.ok or not check.required for check in checks), checks)


def _of_further_models(
    desired: Mapping[str, Any], more: Sequence[Mapping[str, Any]]
) -> list[CheckResult]:
    """Each has to answer by its name, with its layers where they were planned."""
    checks = []
    for number, entry in enumerate(desired.get("more") or []):
        found: Mapping[str, Any] = more[number] if number < len(more) else {}
        for check in (
            _answer(found, desired["verify"]),
            _speed(found, {}),
            _layers(found, entry["plan"]),
        ):
            checks.append(replace(check, name=f"{check.name} of {entry['name']}"))
    return checks


def _health(measured: Mapping[str, Any]) -> CheckResult:
    seconds = measured.get("healthy_after_seconds")
    if seconds is None:
        return CheckResult("health", False, "did not become healthy")
    return CheckResult("health", True, f"ready after {seconds:.1f} s")


def _answer(measured: Mapping[str, Any], wished: Mapping[str, Any]) -> CheckResult:
    answer, expected = str(measured.get("answer") or "").strip(), wished["expect"]
    if not answer and not measured.get("reasoning"):
        return CheckResult("answer", False, "the answer was empty")
    ok = not expected or bool(measured.get("answered"))
    detail = f"{wished['prompt']!r} -> {answer!r}"
    return CheckResult("answer", ok, detail if ok else f"{detail} lacks {expected!r}")


def _meaning(measured: Mapping[str, Any]) -> CheckResult:
    """Sentences that mean the same must be nearer to each other than any that do not."""
    found = measured.get("meaning")
    if not found:
        return CheckResult("meaning", False, "no embedding came")
    near, far = found["near"], found["far"]
    detail = f"{found['length']} numbers; cosine of what means the same at least {near:.2f}, "
    detail += f"of what does not at most {far:.2f}"
    return CheckResult("meaning", near > far, detail)


def _comparable(previous: Mapping[str, Any], desired: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was measured the last time, where engine, model and flags were those of now."""
    before = previous.get("desired") or {}
    for path in (("engine", "name"), ("model", "sha256"), ("launch", "flags")):
        old, new = before.get(path[0]) or {}, desired.get(path[0]) or {}
        if old.get(path[1]) != new.get(path[1]):
            return {}
    measured: Mapping[str, Any] = previous.get("measured") or {}
    return measured


def _since(old: float | None, new: float) -> str:
    return f"{old:.1f} -> {new:.1f}" if old else f"{new:.1f}"


def _speed(measured: Mapping[str, Any], before: Mapping[str, Any]) -> CheckResult:
    speed, old = measured.get("speed") or {}, before.get("speed") or {}
    rates = ("prefill_tokens_per_second", "decode_tokens_per_second")
    prefill, decode = (speed.get(rate) for rate in rates)
    if not prefill or not (decode or speed.get("decode_tokens") == 0):
        return CheckResult("speed", False, "could not be measured", required=False)
    then = [old.get(rate) for rate in rates]
    detail = f"prefill {_since(then[0], prefill)}"
    detail += f", decode {_since(then[1], decode)} tokens/s" if decode else " tokens/s"
    detail += " since the last run" if any(then) else ""
    first = speed.get("first_token_seconds")
    detail += f", first token after {first:.2f} s" if first else ""
    return CheckResult("speed", True, detail, required=False)


def _placement(measured: Mapping[str, Any], desired: Mapping[str, Any]) -> CheckResult:
    """Whether the model is where it was planned, in the engine's own words."""
    if desired["launch"].get("engine") == "vllm":
        return _cache(measured, desired["plan"])
    return _layers(measured, desired["plan"])


def _cache(measured: Mapping[str, Any], plan: Mapping[str, Any]) -> CheckResult:
    """vLLM never splits a model: the device of its cache is the device of everything."""
    log = measured.get("engine") or {}
    wanted = "GPU" if plan["devices"] else "CPU"
    if not log.get("device"):
        why = "; ".join(measured.get("notes") or []) or "the engine's log shows no KV cache"
        return CheckResult("placement", False, why, required=wanted == "GPU")
    tokens, each = int(log["kv_cache_tokens"]), int(plan["flags"]["max_model_len"])
    if log["device"] != wanted:
        text = f"planned for the {wanted}, the KV cache is on the {log['device']}"
        return CheckResult("placement", False, text)
    detail = f"KV cache of {tokens} tokens on the {wanted}, as planned"
    wrong = f"the KV cache holds {tokens} tokens, one request may have {each}"
    return CheckResult("placement", tokens >= each, detail if tokens >= each else wrong)


def _parallel(measured: Mapping[str, Any], before: Mapping[str, Any]) -> CheckResult | None:
    found, old = measured.get("parallel"), before.get("parallel") or {}
    if not found:
        return None
    same = old.get("requests") == found["requests"]
    then = old.get("tokens_per_second") if same else None
    rate = _since(then, found["tokens_per_second"])
    detail = f"{found['requests']} at once: {rate} tokens/s" + (" since the last run" * bool(then))
    first = found.get("slowest_first_token_seconds")
    detail += f", slowest first token after {first:.2f} s" if first else ""
    return CheckResult("parallel", True, detail, required=False)


def _metrics(measured: Mapping[str, Any], desired: Mapping[str, Any]) -> CheckResult | None:
    path, found = desired["verify"].get("metrics"), measured.get("metrics")
    if not path:
        return None
    if not found:
        return CheckResult("metrics", False, f"{path} has none", required=False)
    return CheckResult("metrics", True, f"{found['samples']} samples at {path}", required=False)


def _layers(measured: Mapping[str, Any], plan: Mapping[str, Any]) -> CheckResult:
    """The engine's own "offloaded n/m layers" line; a build without GPU support has none."""
    log = measured.get("engine") or {}
    parameters = plan["flags"].get("parameters")
    wanted = int((parameters or {}).get("num_gpu") or plan["flags"].get("n_gpu_layers") or 0)
    if not log.get("devices"):
        # A long-running service's first lines may be gone; that alone is no wrong placement.
        why = "; ".join(measured.get("notes") or []) or "the engine's log shows no buffers"
        # Ollama, which has parameters, is asked itself (`_loaded`).
        return CheckResult("layers", False, why, required=wanted > 0 and not parameters)
    found = int(log.get("layers_offloaded") or 0)
    total = log.get("layers_total")
    expected = min(wanted, int(total)) if total else wanted
    stray = [name for name in log["devices"] if not name.startswith(_HOST_BUFFERS)]
    if expected == 0:
        ok, detail = found == 0 and not stray, "all on the CPU, as planned"
        wrong = f"planned for the CPU, found {found} layers on the GPU, buffers {stray}"
        return CheckResult("layers", ok, detail if ok else wrong)
    detail = f"{found} of {expected} planned layers on the GPU"
    return CheckResult("layers", found == expected, detail)


def _loaded(measured: Mapping[str, Any], desired: Mapping[str, Any]) -> CheckResult:
    """What Ollama itself says of the model: on the GPUs as planned, with the planned context.

    It falls back to the CPU in silence (ollama/ollama#7669, #5035), so this is required.
    """
    alias = desired["launch"]["alias"]
    models = measured.get("running") or []
    found = next((m for m in models if m["name"] in (alias, f"{alias}:latest")), None)
    if found is None:
        loaded = ", ".join(model["name"] for model in models) or "none"
        return CheckResult("placement", False, f"{alias} is not loaded; loaded: {loaded}")
    context = desired["plan"]["flags"]["parameters"]["num_ctx"]
    if found["context_length"] not in (None, context):
        text = f"loaded with a context of {found['context_length']}, {context} planned"
        return CheckResult("placement", False, text)
    parts = ("weights_mib", "kv_cache_mib", "compute_mib")
    planned = sum(device[part] for device in desired["plan"]["devices"] for part in parts)
    vram, size = found["vram_mib"], found["size_mib"]
    if not planned:
        detail = f"{size:.0f} MiB on the CPU, as planned"
        wrong = f"planned for the CPU, {vram:.0f} of {size:.0f} MiB are on the GPU"
        return CheckResult("placement", not vram, detail if not vram else wrong)
    detail = f"{vram:.0f} of {size:.0f} MiB on the GPU, {planned:.0f} planned there"
    return CheckResult("placement", vram >= PLACED_SHARE * planned, detail)


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


def _vram(measured: Mapping[str, Any], plan: Mapping[str, Any]) -> CheckResult:
    """What the driver says that the service holds on all GPUs, against the plan, in MiB."""
    held = [gpu.get("used_mib") for gpu in measured.get("gpu_memory") or []]
    if not held or None in held:
        return CheckResult("VRAM", False, "the driver does not tell", required=False)
    used, predicted = sum(held), sum(device["total_mib"] for device in plan["devices"])
    error = used / predicted - 1
    return CheckResult(
        "VRAM",
        abs(error) <= MEMORY_TOLERANCE,
        f"{used:.0f} MiB in use, {predicted:.0f} MiB predicted ({error:+.1%})",
        required=False,
    )
