"""What a host should become, what differs from that, and which roles are due. Pure.

The plan is made anew only when one of its inputs changed (hardware fingerprint, wishes, model,
engine, planner). Otherwise the applied plan stands, so that a second run never wavers because
some memory happened to be in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from infra_llm.core.catalogue import Artifact, check_artifact, check_model, served_models
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import ENGINE_ROLES, ENGINES, MODEL_ROLES, is_installed
from infra_llm.core.errors import BadInputError
from infra_llm.core.layout import LAYOUT, NAME, layout_of
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.stack.desired import STACK_ROLES
from infra_llm.core.stack.model import StackPlan

ROLES = (
    "preflight", *STACK_ROLES, *ENGINE_ROLES, "model_store", "llm_service",
    *MODEL_ROLES.values(), "llm_access", "llm_verify",
)  # fmt: skip
"""In the order in which they run; of the engines' roles only the wished engine's, of the stack's
only those that a host with NVIDIA cards needs."""
PLANNER = "2"
"""Raised when the planner would plan the same inputs differently."""

_PLAN_WISHES = (
    "infra_llm_engine",
    "infra_llm_context",
    "infra_llm_parallel",
    "infra_llm_kv_cache_type",
    "infra_llm_gpu_layers",
    "infra_llm_threads",
    "infra_llm_users",
    "infra_llm_minimum_speed",
)
_CLOSED = {"front": None, "firewall": None, "insecure": False}
_HARDWARE_IGNORED = ("all",)
_MANAGERS = ("systemd", "supervisor")


@dataclass
class Desired:
    """The whole of what a host should be, as the roles are given it."""

    inputs: dict[str, Any]
    plan: dict[str, Any]
    launch: dict[str, Any]
    model: dict[str, Any]
    engine: dict[str, Any]
    service: dict[str, Any]
    verify: dict[str, Any]
    site: dict[str, Any]
    stack: dict[str, Any] = field(default_factory=dict)
    """The NVIDIA stack: inputs, plan, roles (what each is given), settings; {} without one."""
    layout: dict[str, str] = field(default_factory=lambda: dict(LAYOUT))
    companions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Artifacts that are loaded beside the model: "projector", "draft"."""
    access: dict[str, Any] = field(default_factory=dict)
    """Who may reach it and through what (core/access.py); {} of before there was such."""
    more: list[dict[str, Any]] = field(default_factory=list)
    """Further models at the same endpoint, each {"name", "model", "path", "plan", "context_length",
    "metrics"}."""

    @property
    def engine_role(self) -> str:
        """The role that installs the engine."""
        return ENGINES[self.engine["name"]].role

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Launch:
    """What every launch file has."""

    port: int
    host: str
    release: str
    alias: str
    arguments: list[str]


@dataclass
class _Service:
    manager: str
    user: str
    python: str


@dataclass
class _Verify:
    url: str
    health: str
    prompt: str
    expect: str


@dataclass
class _Method:
    method: str
    release: str


def read_desired(data: Any, where: str) -> Desired:
    """`Desired` out of a plan file or a host's state, which people and other versions may edit.

    Raises BadInputError that names the first place that can't be used.
    """
    desired = from_dict(Desired, data, where)
    from_dict(LaunchPlan, desired.plan, f"{where}.plan")
    check_model(desired.model, str(desired.model.get("name")), f"{where}.model")
    for part, beside in desired.companions.items():
        check_model(beside, str(beside.get("name")), f"{where}.companions.{part}")
    for number, entry in enumerate(desired.more):
        place = f"{where}.more[{number}]"
        from_dict(LaunchPlan, entry.get("plan"), f"{place}.plan")
        check_model(entry.get("model"), str(entry.get("name")), f"{place}.model")
    if "flags" not in desired.plan:
        raise BadInputError("flags missing", where=f"{where}.plan")
    if not isinstance(desired.inputs.get("fingerprint"), dict):
        raise BadInputError("fingerprint missing", where=f"{where}.inputs")
    if str(desired.engine.get("name")) not in ENGINES:
        raise BadInputError(f"must be one of {', '.join(ENGINES)}", where=f"{where}.engine.name")
    methods = desired.engine.get("methods")
    if not isinstance(methods, list) or not methods:
        raise BadInputError(
            "must be a list of at least one method", where=f"{where}.engine.methods"
        )
    for number, method in enumerate(methods):
        place = f"{where}.engine.methods[{number}]"
        from_dict(_Method, method, place)
        check_artifact(method.get("artifact"), f"{place}.artifact")
    _check_service(desired, where)
    if desired.stack:
        from_dict(StackPlan, desired.stack.get("plan"), f"{where}.stack.plan")
        if not isinstance(desired.stack.get("roles"), dict):
            raise BadInputError("must be an object", where=f"{where}.stack.roles")
    return desired


def _check_service(desired: Desired, where: str) -> None:
    """What is started, as whom, and where it is to answer."""
    launch = from_dict(_Launch, desired.launch, f"{where}.launch")
    if not 0 < launch.port < 65536:
        raise BadInputError("must be from 1 to 65535", where=f"{where}.launch.port")
    service = from_dict(_Service, desired.service, f"{where}.service")
    if service.manager not in _MANAGERS:
        raise BadInputError(
            f"must be one of {', '.join(_MANAGERS)}", where=f"{where}.service.manager"
        )
    verify = from_dict(_Verify, desired.verify, f"{where}.verify")
    if not verify.url.startswith(("http://", "https://")):
        raise BadInputError("must be an http or https URL", where=f"{where}.verify.url")


def check_plan(desired: Desired, where: str) -> None:
    """Whether what a plan file wishes for a host is what `infra-llm plan` may have written.

    Beyond `read_desired`, which takes states of other versions, too. Raises BadInputError.
    """
    for place, plan in (
        (f"{where}.plan", desired.plan),
        *((f"{where}.more[{n}].plan", entry["plan"]) for n, entry in enumerate(desired.more)),
    ):
        if not plan["fits"]:
            raise BadInputError("the plan does not fit", where=f"{place}.fits")
    instance = desired.layout.get("service", "").removeprefix(NAME).removeprefix("-")
    expected = layout_of(instance, desired.engine_role)
    wrong = [key for key in expected if desired.layout.get(key) != expected[key]]
    if wrong:
        raise BadInputError(
            f"{', '.join(wrong)} not as this version has them", where=f"{where}.layout"
        )


@dataclass
class Change:
    """One difference between a host and what it should be."""

    role: str
    text: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def plan_inputs(
    fingerprint: Mapping[str, str],
    wishes: Mapping[str, Any],
    model_sha256: str,
    companions: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the plan is made from; equal inputs mean that the applied plan still stands."""
    beside = {f"{part}_sha256": of["sha256"] for part, of in (companions or {}).items()}
    return {
        "fingerprint": dict(fingerprint),
        "wishes": {name: wishes[name] for name in _PLAN_WISHES},
        "model_sha256": model_sha256,
        **beside,
        "planner": PLANNER,
    }


def applied_plans(
    state: Mapping[str, Any] | None,
    inputs: Mapping[str, Any],
    offers: Sequence[Sequence[Artifact]],
) -> list[tuple[Artifact, dict[str, Any]]]:
    """Which of the artifacts that each model is offered in the host runs, and by which plan.

    Empty when the plans were not made from the same inputs.
    """
    desired = (state or {}).get("desired") or {}
    if desired.get("inputs") != inputs:
        return []
    runs = [desired, *(desired.get("more") or [])]
    found = []
    for offer, run in zip(offers, runs, strict=False):
        by_content = {model_content(model): model for model in offer}
        model = by_content.get(model_content(run["model"]))
        if model is not None:
            found.append((model, dict(run["plan"])))
    return found if len(found) == len(offers) else []


def changes(
    desired: Desired,
    state: Mapping[str, Any] | None,
    differences: Mapping[str, list[str]],
    *,
    installed: Mapping[str, Any],
) -> list[Change]:
    """Every difference between the host and `desired`, by the role that mends it.

    Parameters
    ----------
    differences: what the audit found against the receipts, by role.
    installed: the installed engine, as the audit found it; it stays if one of the methods gives it.

    """
    if state is None:
        return [Change("", "not provisioned yet")]
    before = state["desired"]
    role = desired.engine_role
    found = [
        # A container engine in an instance's receipts came with the engine that it runs.
        Change(role if owner in STACK_ROLES else owner, text)
        for owner, texts in differences.items()
        for text in texts
        # Another engine's release that lies beside is kept as it is.
        if not _of_another_engine(owner, role)
    ]
    if before["engine"]["name"] != desired.engine["name"]:
        old, new = before["engine"]["name"], desired.engine["name"]
        found.append(Change(role, f"engine {old} -> {new}"))
    elif not any(is_installed(method, installed) for method in desired.engine["methods"]):
        found.append(Change(role, _another_release(before["engine"], desired.engine)))
    old_models, new_models = served_models(before), served_models(desired.to_dict())
    if [model_content(m) for m in old_models] != [model_content(m) for m in new_models]:
        found.append(Change("model_store", _other_models(old_models, new_models)))
    found += _other_companions(before.get("companions") or {}, desired.companions)
    launch = _differing(before["launch"], desired.launch)
    if len(launch) > 1:
        # The command line is made of the rest; alone it matters, beside the rest it repeats it.
        launch = [text for text in launch if not text.startswith("arguments ")]
    found += [Change("llm_service", text) for text in launch]
    found += [
        Change("llm_service", text) for text in _differing(before["service"], desired.service)
    ]
    found += [
        Change("llm_access", f"access.{text}")
        for text in _differing(before.get("access") or _CLOSED, desired.access or _CLOSED)
    ]
    if before["verify"] != desired.verify:
        found.append(Change("llm_verify", "another proof is wished"))
    if before["inputs"] != desired.inputs:
        texts = _differing(_hardware(before), _hardware(desired.to_dict()))
        found += [Change(_keeper(text), f"hardware: {text}") for text in texts]
        if not texts and not found:
            found.append(Change("llm_verify", "planned anew with the same result"))
    return found


def _another_release(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words; of a build, for which cards it is another one."""
    old, new = (engine["methods"][0].get("build") or {} for engine in (before, now))
    was, is_now = (", ".join(build.get("architectures") or ()) for build in (old, new))
    if was != is_now:
        return f"{now['name']} compiled for {was or 'no GPU'} -> {is_now or 'no GPU'}"
    return f"the wished {now['name']} is another one"


def _other_companions(
    before: Mapping[str, Mapping[str, Any]], wished: Mapping[str, Mapping[str, Any]]
) -> list[Change]:
    """What is loaded beside the model and another one is wished, or none."""
    changed = []
    for part in sorted({*before, *wished}):
        old, new = before.get(part) or {}, wished.get(part) or {}
        if old.get("sha256") != new.get("sha256"):
            words = f"{part} {old.get('name', 'none')} -> {new.get('name', 'none')}"
            changed.append(Change("model_store", words))
    return changed


def model_content(model: Mapping[str, Any]) -> str:
    """What a model's weights are made of: a hash, and the type to which they are quantized."""
    quant = model.get("quantize")
    return f"{model['sha256']} {quant['type']}" if quant else str(model["sha256"])


def offered_content(offer: Sequence[Mapping[str, Any]]) -> str:
    """Likewise of a model that is offered in several files."""
    contents = sorted(map(model_content, offer))
    if len(contents) == 1:
        return contents[0]
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def _other_models(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """ "model old -> new" by their names; by their files where these tell more."""

    def words(models: Sequence[Mapping[str, Any]], field: str) -> str:
        return ", ".join(_named(model, field) for model in models)

    # Two quants of a model share its name, two versions may share the name of the file.
    same = words(before, "name") == words(after, "name")
    field = "filename" if same and words(before, "filename") != words(after, "filename") else "name"
    return f"model {words(before, field)} -> {words(after, field)}"


def _named(model: Mapping[str, Any], field: str) -> str:
    quant = model.get("quantize")
    return f"{model[field]} as {quant['type']}" if quant else str(model[field])


def _keeper(text: str) -> str:
    """The role that keeps a part of the hardware: the service does not start on another CPU, RAM
    or GPU than it was told of."""
    guarded = text.startswith(("cpu ", "memory ", "gpu:"))
    return "llm_service" if guarded else "llm_verify"


def _hardware(desired: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = desired["inputs"]["fingerprint"]
    return {name: part for name, part in parts.items() if name not in _HARDWARE_IGNORED}


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    texts = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            texts += _differing(old, new, f"{prefix}{key}.")
        elif isinstance(old, list) and isinstance(new, list) and old != new:
            gone = [f"-{item}" for item in old if item not in new]
            come = [f"+{item}" for item in new if item not in old]
            texts.append(f"{prefix}{key} {' '.join(gone + come) or 'in another order'}")
        elif old != new:
            texts.append(f"{prefix}{key} {_show(old)} -> {_show(new)}")
    return texts


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


def _of_another_engine(owner: str, engine_role: str) -> bool:
    return owner in {*ENGINE_ROLES, *MODEL_ROLES.values()} - {
        engine_role,
        MODEL_ROLES.get(engine_role),
    }


def due_roles(
    found: list[Change], engine_role: str, *, full: bool, stack_due: Collection[str] = ()
) -> list[str]:
    """The roles to run, in order. Whatever changes a host is verified afterwards.

    `stack_due` are the roles of the stack that are: a host without NVIDIA cards has none.
    """
    other = {role for role in STACK_ROLES if role not in stack_due}
    usual = [r for r in ROLES if r not in other and not _of_another_engine(r, engine_role)]
    if full or any(change.role == "" for change in found):
        return usual
    due = {change.role for change in found} | set(stack_due)
    if not due:
        return []
    due |= {"preflight", "llm_verify"}
    if due & {engine_role, "model_store", "nvidia_driver"}:
        due.add("llm_service")
    if "llm_service" in due and engine_role in MODEL_ROLES:
        due.add(MODEL_ROLES[engine_role])
    return [role for role in usual if role in due]
