"""What the action plugins do on the controller for one host: wishes + audit -> what is due.

The thin plugins in playbooks/action_plugins call these functions; nothing here knows Ansible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra_llm import __version__
from infra_llm.core import busy, decide
from infra_llm.core.access import (
    access,
    engine_wishes,
    public_url,
    refuse_open_doors,
    verify_address,
)
from infra_llm.core.catalogue import Artifact, model_artifact, with_own_engines
from infra_llm.core.codec import from_dict
from infra_llm.core.engines import (
    ENGINES,
    Engine,
    Launch,
    LaunchContext,
    installed_first,
    is_installed,
)
from infra_llm.core.errors import BadInputError, DoesNotFitError, RefusedError
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.fit.calibration import Calibration, build_of, observe, select
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.layout import layout_of
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan
from infra_llm.core.preflight import preflight
from infra_llm.core.service import at_once, start_seconds, unit_settings
from infra_llm.core.stack.desired import (
    STACK_ROLES,
    build_environment,
    stack_changes,
    toolkit_of,
)
from infra_llm.core.swap import does_not_fit_after, named_cards
from infra_llm.core.variables import AUTO
from infra_llm.core.verdict import Verdict
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.readers.model_source import cache_folder
from infra_llm.runner.access import certificate_of, ports, refuse_other_secrets
from infra_llm.runner.index import site_settings
from infra_llm.runner.plan_set import given_plan
from infra_llm.runner.stack import desired_stack

HeaderReader = Callable[[Artifact, Mapping[str, Any]], ModelProfile]
"""Reads the header of a model; given the artifact and the site's download settings."""

STATE_SCHEMA = "infra-llm/host-state/1"
_KEPT_MEASUREMENTS = 10
_MIB = 2**20


@dataclass
class Decision:
    """What one host becomes in this run."""

    hardware: dict[str, Any]
    desired: dict[str, Any]
    due: list[str]
    changes: list[dict[str, str]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)
    missing_libraries: list[str] = field(default_factory=list)
    methods: list[dict[str, Any]] = field(default_factory=list)
    """The ways to install the engine in the order to try them on this host."""
    builds: str = ""
    """Folder on the controller with the builds that hosts share."""
    stack_due: list[str] = field(default_factory=list)
    """Roles of the NVIDIA stack that have to run before everything else."""
    build_due: str = ""
    """Name of the release that has to be built before this host can have it."""
    build_environment: dict[str, str] = field(default_factory=dict)
    """What leads a build to the stack's CUDA toolkit."""
    certificate: dict[str, str] = field(default_factory=dict)
    """Where the controller has the front's certificate, key and authority."""
    fresh: bool = True
    """Nothing of ours was there before: a failed first run is taken away again."""
    previous: dict[str, Any] | None = None
    """What the host was before, for going back: desired and the engine's release."""

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "infra-llm/decision/1", **self.__dict__}


def audit_arguments(host: str, wishes: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the module host_audit; with a given plan the port is the plan's."""
    given = given_plan(run, host)
    desired = given["desired"] if given else {"launch": {}, "engine": {}}
    engine = ENGINES[desired["engine"].get("name", wishes["infra_llm_engine"])]
    return {
        "layout": layout_of(wishes["infra_llm_instance"], engine.role),
        **ports(wishes, given["desired"] if given else None),
        "thorough": bool(run.get("full")),
        "libraries": list(engine.libraries),
    }


def decide_host(
    host: str,
    audit: Mapping[str, Any],
    wishes: Mapping[str, Any],
    run: Mapping[str, Any],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration] | None = None,
) -> Decision:
    """Decide what `host` should be and which roles have to run for that.

    `calibrations` of earlier runs correct a plan that is made anew; an applied plan stands.

    Raises BadInputError for wishes that can't be, DoesNotFitError, and RefusedError when a given
    plan was made for other hardware.
    """
    state, unusable = _usable_state(audit["state"])
    hardware = from_dict(HostHardware, audit["hardware"], host)
    given = given_plan(run, host)
    certificate = certificate_of(host, wishes, hardware, audit.get("address") or host)
    if given:
        desired = _desired_of(given, hardware, host)
        refuse_other_secrets(desired.access, certificate, wishes, host)
    else:
        looked = {**audit, "state": state, "host": host, "certificate": certificate}
        desired = _desired_anew(hardware, looked, wishes, read_header, calibrations or {})
    found = decide.changes(
        desired,
        state,
        audit["differences"],
        installed=audit["engine"],
    )
    if state and state.get("hardware"):
        found = named_cards(found, from_dict(HostHardware, state["hardware"]), hardware)
    if unusable:
        found = [decide.Change("", f"the host's state can't be used: {unusable}")]
    stack_due = _stack_changes(desired, audit, found, full=bool(run.get("full")))
    due = decide.due_roles(
        found, desired.engine_role, full=bool(run.get("full")), stack_due=stack_due
    )
    if run.get("only"):
        due = [role for role in due if role in run["only"]]
    methods = installed_first(desired.engine["methods"], audit["engine"])
    problems = preflight(desired.to_dict(), audit, due) if due else []
    return Decision(
        hardware=dict(audit["hardware"]),
        desired=desired.to_dict(),
        due=due,
        changes=[change.to_dict() for change in found],
        problems=[problem.to_dict() for problem in problems],
        missing_libraries=audit["missing_libraries"],
        methods=methods,
        stack_due=[role for role in stack_due if role in due],
        builds=str(builds_folder()),
        build_due="" if problems or desired.engine_role not in due else _build_due(methods, audit),
        build_environment=build_environment(desired.stack),
        certificate=certificate.files if certificate else {},
        fresh=bool(audit["fresh"]),
        previous=_previous(state, desired, audit["engine"]),
    )


def after_stack(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The decision of the look after the stack's roles ran, with what was due before them.

    What the first look found stands in the report, and whatever it wanted is still done.
    """
    due = {*first["due"], *second["due"]}
    known = {(change["role"], change["text"]) for change in first["changes"]}
    news = [c for c in second["changes"] if (c["role"], c["text"]) not in known]
    return {
        **second,
        "due": [role for role in decide.ROLES if role in due],
        "changes": [*first["changes"], *news],
        "stack_due": [],
        "fresh": first["fresh"],
        "previous": first["previous"],
    }


def _stack_changes(
    desired: decide.Desired, audit: Mapping[str, Any], found: list[decide.Change], *, full: bool
) -> list[str]:
    """The stack's roles that are due, in order; what differs is added to `found`."""
    texts = stack_changes(desired.stack, audit.get("stack"), audit.get("stack_differences") or {})
    found += [decide.Change(role, text) for role in texts for text in texts[role]]
    due = (desired.stack.get("roles") or {}) if full else texts
    return [role for role in STACK_ROLES if role in due]


def builds_folder() -> Path:
    """Where the controller keeps what hosts compiled, for hosts that are alike."""
    return cache_folder() / "builds"


def _build_due(methods: list[dict[str, Any]], audit: Mapping[str, Any]) -> str:
    """The release that some host has to compile: wished, not installed, and not kept here yet."""
    # An engine may stand on the libraries of a build.
    first = methods[0].get("libraries") or methods[0]
    if not first.get("build") or is_installed(first, audit["engine"]):
        return ""
    release = str(first["release"])
    return "" if (builds_folder() / f"{release}.tar.gz").exists() else release


def _usable_state(state: Any) -> tuple[dict[str, Any] | None, str]:
    """The host's state, or None and why it can't be used (then the host counts as a new one)."""
    if state is None:
        return None, ""
    try:
        if not isinstance(state, dict) or state.get("schema") != STATE_SCHEMA:
            raise BadInputError(f"not of schema {STATE_SCHEMA}", where="state")
        decide.read_desired(state.get("desired"), "state.desired")
    except BadInputError as error:
        return None, str(error)
    return state, ""


def _desired_anew(
    hardware: HostHardware,
    audit: Mapping[str, Any],
    wishes: Mapping[str, Any],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration],
) -> decide.Desired:
    """By the wishes; what does not fit after a swap of cards says so."""
    stack = desired_stack(hardware, wishes, audit.get("stack"), str(audit["host"]))
    wished = {**wishes, "cuda": toolkit_of(stack)}
    own = audit.get("own_gpu_pids") or []
    policy = wishes["infra_llm_busy_gpus"]
    policy = busy.SHARE if busy.is_planned_for(audit["state"], hardware) else policy
    planned = busy.free_for_us(hardware, own, policy, str(audit["host"]))
    try:
        desired = _make_desired(planned, audit, wished, read_header, calibrations)
    except DoesNotFitError as error:
        raise does_not_fit_after(error, audit["state"] or {}, hardware) from error
    if planned is not hardware:
        desired.plan["warnings"] = _with(desired.plan["warnings"], busy.in_words(hardware, own))
    desired.stack = stack
    return desired


def _with(known: list[str], more: list[str]) -> list[str]:
    return [*known, *(text for text in more if text not in known)]


def _make_desired(
    hardware: HostHardware,
    audit: Mapping[str, Any],
    wishes: Mapping[str, Any],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration],
) -> decide.Desired:
    state = audit["state"]
    catalogue = with_own_engines(load_catalogue(), wishes["infra_llm_engine_artifacts"])
    model = model_artifact(catalogue, wishes["infra_llm_models"], wishes["infra_llm_model"])
    inputs = decide.plan_inputs(hardware.fingerprint, wishes, model["sha256"])
    site = site_settings(wishes)
    engine = ENGINES[wishes["infra_llm_engine"]]
    layout = layout_of(wishes["infra_llm_instance"], engine.role)
    chosen = engine.choose(catalogue, hardware, wishes, audit["pythons"])
    plan = decide.applied_plan(state, inputs)
    if plan is None or not _launchable(engine, plan, model, wishes):
        profile = read_header(model, site)
        methods = installed_first(chosen["methods"], audit["engine"])
        builds = [build_of(method["release"]) for method in methods]
        known = select(calibrations, profile.architecture, builds)
        plan = plan_launch(hardware, profile, fit_wishes(wishes), engine.planner, known).to_dict()
    _must_fit(plan, model)
    inside = engine_wishes(wishes)
    context = LaunchContext(from_dict(LaunchPlan, plan, "plan"), model, inside, layout)
    launch = engine.launch(context)
    manager = wishes["infra_llm_service_manager"]
    if manager == AUTO:
        manager = "systemd" if hardware.system.service_manager == "systemd" else "supervisor"
    refuse_open_doors(wishes, manager, str(audit["host"]))
    return decide.Desired(
        inputs=inputs,
        plan=plan,
        launch=_launch_file(engine, context, launch),
        model=model,
        engine={"name": engine.name, **chosen},
        service={
            "manager": manager,
            "supervisor": catalogue["tools"]["supervisor"] if manager == "supervisor" else None,
            "user": layout["user"],
            "python": _service_python(audit),
            "unit": unit_settings(
                context.plan, model["size"] / _MIB, engine.needs, accelerators(hardware), layout
            ),
        },
        verify=_proof(engine, context, launch, wishes, audit),
        site=site,
        layout=layout,
        access=access(
            wishes, audit["certificate"], engine.health, str(audit["host"]), engine.public_paths
        ),
    )


def _proof(
    engine: Engine,
    context: LaunchContext,
    launch: Launch,
    wishes: Mapping[str, Any],
    audit: Mapping[str, Any],
) -> dict[str, Any]:
    """How the endpoint is to be verified; `wishes` are those of the outside."""
    return {
        **verify_address(wishes, audit["certificate"], context.layout),
        "public_url": public_url(wishes, str(audit.get("address") or audit["host"])),
        "health": engine.health,
        "running": engine.running,
        "metrics": engine.metrics,
        "parallel": at_once(context.plan),
        "context_length": launch.context_length,
        "prompt": wishes["infra_llm_verify_prompt"],
        "expect": wishes["infra_llm_verify_expect"],
    }


def _launchable(
    engine: Engine, plan: Mapping[str, Any], model: Artifact, wishes: Mapping[str, Any]
) -> bool:
    """Whether a plan out of a host's state, which may be edited, still has the engine's flags."""
    try:
        applied = from_dict(LaunchPlan, plan, "state.desired.plan")
        engine.launch(LaunchContext(applied, model, wishes, layout_of()))
    except (BadInputError, KeyError, TypeError, ValueError):
        return False
    return True


def planned_anew(
    desired: Mapping[str, Any],
    hardware: HostHardware,
    wishes: Mapping[str, Any],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration],
) -> dict[str, Any]:
    """`desired` with a plan that reckons with `calibrations` (by device class).

    Raises DoesNotFitError where none fits any more.
    """
    model = desired["model"]
    profile = read_header(model, desired["site"])
    engine = ENGINES[desired["engine"]["name"]]
    plan = plan_launch(hardware, profile, fit_wishes(wishes), engine.planner, calibrations)
    _must_fit(plan.to_dict(), model)
    layout = desired["layout"]
    context = LaunchContext(plan, model, engine_wishes(wishes), layout)
    made = engine.launch(context)
    launch = {**desired["launch"], "flags": plan.flags, **asdict(made)}
    proof = {"context_length": made.context_length, "parallel": at_once(plan)}
    verify = {**desired["verify"], **proof}
    unit = unit_settings(plan, model["size"] / _MIB, engine.needs, accelerators(hardware), layout)
    service = {**desired["service"], "unit": unit}
    anew = {"plan": plan.to_dict(), "launch": launch, "service": service, "verify": verify}
    return {**desired, **anew}


def _must_fit(plan: Mapping[str, Any], model: Artifact) -> None:
    if plan["fits"]:
        return
    words = "; ".join(str(reason["text"]) for reason in plan["why"][:3])
    raise DoesNotFitError(
        f"{model['name']} does not fit: {plan['binding_constraint'] or words}",
        where="infra_llm_model",
        hint="; ".join(str(a["change"]) for a in plan["alternatives"][:3]),
    )


def _launch_file(engine: Engine, context: LaunchContext, launch: Launch) -> dict[str, Any]:
    """The launch file: what every engine has, then the engine's own part."""
    wishes, layout = context.wishes, context.layout
    return {
        "engine": engine.name,
        "release": f"{layout['engine']}/current",
        "model": context.model_path,
        "alias": wishes["infra_llm_model"],
        "host": wishes["infra_llm_bind"],
        "port": wishes["infra_llm_port"],
        "flags": context.plan.flags,
        "ready": {
            "health": engine.health,
            "answer": not engine.needs.told_after_start,
            "seconds": start_seconds(context.model["size"] / _MIB, engine.needs),
        },
        **asdict(launch),
    }


def _service_python(audit: Mapping[str, Any]) -> str:
    pythons = audit["pythons"]
    if not pythons:
        raise BadInputError(
            "no Python of the system found", hint="install python3 on the host, then run again"
        )
    return str(pythons[0]["path"])


def fit_wishes(wishes: Mapping[str, Any]) -> FitWishes:
    """The planner's wishes out of an inventory's variables; auto becomes None."""

    def solved(name: str) -> Any:
        return None if wishes[name] == AUTO else wishes[name]

    context, parallel = solved("infra_llm_context"), solved("infra_llm_parallel")
    engine = ENGINES[wishes["infra_llm_engine"]]
    if engine.one_at_a_time:
        parallel = 1
    if context is not None and engine.context_is_shared:
        parallel = parallel or 1
        context *= parallel
    return FitWishes(
        context=context,
        parallel=parallel,
        kv_type=solved("infra_llm_kv_cache_type"),
        gpu_layers=solved("infra_llm_gpu_layers"),
        threads=solved("infra_llm_threads"),
    )


def _previous(
    state: Mapping[str, Any] | None, desired: decide.Desired, engine: Mapping[str, Any]
) -> dict[str, Any] | None:
    if not state:
        return None
    # The audit looked at the wished engine; another one's `current` stays as it is.
    same = state["desired"]["engine"]["name"] == desired.engine["name"]
    return {
        "desired": state["desired"],
        "release": engine.get("release") if same else None,
        "measured": state.get("measured") or {},
        "written_at": state.get("written_at"),
        "history": state.get("history") or [],
    }


def _desired_of(entry: dict[str, Any], hardware: HostHardware, host: str) -> decide.Desired:
    desired = decide.read_desired(entry["desired"], f"plan.hosts.{host}")
    planned, found = desired.inputs["fingerprint"], hardware.fingerprint
    parts = sorted(
        part for part in {*planned, *found} - {"all"} if planned.get(part) != found.get(part)
    )
    if parts:
        words = "; ".join(f"{p}: planned {planned.get(p)}, found {found.get(p)}" for p in parts)
        raise RefusedError(
            f"the plan was made for other hardware ({words})",
            where=host,
            hint="make a new plan: infra-llm plan --inventory FILE -o PLAN",
        )
    return desired


def learned(
    desired: Mapping[str, Any],
    hardware: Mapping[str, Any],
    measured: Mapping[str, Any],
    release: str,
) -> dict[str, Calibration]:
    """What a verified run teaches the planner; `release` is the installed engine's folder."""
    plan = from_dict(LaunchPlan, desired["plan"], "plan")
    return observe(plan, measured, from_dict(HostHardware, hardware), build_of(release))


def host_state(
    host: str,
    desired: Mapping[str, Any],
    hardware: Mapping[str, Any],
    measured: Mapping[str, Any],
    verdict: Verdict,
    previous: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """HostState: what a host keeps of its last good run."""
    history = list((previous or {}).get("history") or [])
    if previous and previous.get("measured"):
        history.append(
            {"at": previous.get("written_at"), "speed": previous["measured"].get("speed")}
        )
    return {
        "schema": STATE_SCHEMA,
        "host": host,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "written_by": f"infra-llm {__version__}",
        "desired": dict(desired),
        "hardware": dict(hardware),
        "measured": dict(measured),
        "verdict": verdict.to_dict(),
        "history": history[-_KEPT_MEASUREMENTS:],
    }
