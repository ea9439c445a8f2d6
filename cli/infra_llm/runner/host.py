"""What the action plugins do on the controller for one host: wishes + audit -> what is due.

The thin plugins in playbooks/action_plugins call these functions; nothing here knows Ansible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra_llm import __version__
from infra_llm.core import busy, decide, router
from infra_llm.core.access import (
    access,
    public_url,
    refuse_open_doors,
    verify_address,
)
from infra_llm.core.catalogue import Artifact, with_own_engines
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
from infra_llm.core.fit.calibration import Calibration, build_of, observe
from infra_llm.core.hardware import HostHardware, accelerators
from infra_llm.core.layout import layout_of
from infra_llm.core.model import ModelProfile
from infra_llm.core.plan import LaunchPlan, PlannedModel
from infra_llm.core.preflight import preflight
from infra_llm.core.service import at_once
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
from infra_llm.runner.companions import (
    HeaderReader,
    with_companions,
)
from infra_llm.runner.index import site_settings
from infra_llm.runner.launching import launch_file, prepare
from infra_llm.runner.plan_set import given_plan
from infra_llm.runner.planning import Planned, must_fit, planned, plans_of
from infra_llm.runner.stack import desired_stack

STATE_SCHEMA = "infra-llm/host-state/1"
_KEPT_MEASUREMENTS = 10


@dataclass
class Decision:
    """What one host becomes in this run."""

    hardware: dict[str, Any]
    desired: dict[str, Any]
    due: list[str]
    left_out: list[str] = field(default_factory=list)
    """Roles that would be due and were not named (--tags): such a run is not remembered."""
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
    only = run.get("only") or due
    always = ("preflight", "llm_verify")
    left_out = [role for role in due if role not in (*only, *always)]
    due = [role for role in due if role in only]
    methods = installed_first(desired.engine["methods"], audit["engine"])
    problems = preflight(desired.to_dict(), audit, due) if due else []
    return Decision(
        hardware=dict(audit["hardware"]),
        desired=desired.to_dict(),
        due=due,
        left_out=left_out,
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
    return "" if _is_kept(builds_folder() / f"{release}.tar.gz") else release


def _is_kept(archive: Path) -> bool:
    """Whether a build is there whole: the sha256 that its builder gave it is beside it."""
    try:
        wanted = archive.with_name(f"{archive.name}.sha256").read_text().strip()
        with archive.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == wanted
    except OSError:
        return False


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
    ours = busy.free_for_us(hardware, own, policy, str(audit["host"]))
    try:
        desired = _make_desired(ours, audit, wished, read_header, calibrations)
    except DoesNotFitError as error:
        raise does_not_fit_after(error, audit["state"] or {}, hardware) from error
    if ours is not hardware:
        desired.plan["warnings"] = _with(desired.plan["warnings"], busy.in_words(hardware, own))
    desired.stack = stack
    return desired


def _with(known: list[str], more: list[str]) -> list[str]:
    return [*known, *(text for text in more if text not in known)]


def _unused_gpus(hardware: HostHardware, reached: HostHardware, method: Mapping[str, Any]) -> str:
    kept = [gpu.name for gpu in accelerators(reached)]
    names = [gpu.name for gpu in accelerators(hardware) if gpu.name not in kept]
    return (
        f"not used: {', '.join(dict.fromkeys(names))}: this build of the engine "
        f"({method['method']}) can't; llama_cpp_install_method: source compiles one that can"
    )


def _make_desired(
    hardware: HostHardware,
    audit: Mapping[str, Any],
    wishes: Mapping[str, Any],
    read_header: HeaderReader,
    calibrations: Mapping[str, Calibration],
) -> decide.Desired:
    catalogue = with_own_engines(load_catalogue(), wishes["infra_llm_engine_artifacts"])
    engine = ENGINES[wishes["infra_llm_engine"]]
    layout = layout_of(wishes["infra_llm_instance"], engine.role)
    chosen = engine.choose(catalogue, hardware, wishes, audit["pythons"])
    methods = installed_first(chosen["methods"], audit["engine"])
    reached = engine.reaches(hardware, methods[0])
    found = planned(reached, audit, wishes, catalogue, methods, read_header, calibrations)
    if reached is not hardware:
        unused = _unused_gpus(hardware, reached, methods[0])
        found.plans[0]["warnings"] = _with(found.plans[0]["warnings"], [unused])
    prepared = prepare(found, reached, wishes, layout, chosen["methods"][0])
    context, more = prepared.context, prepared.more
    launch = engine.launch(context)
    manager = wishes["infra_llm_service_manager"]
    if manager == AUTO:
        manager = "systemd" if hardware.system.service_manager == "systemd" else "supervisor"
    refuse_open_doors(wishes, manager, str(audit["host"]))
    return decide.Desired(
        inputs=found.inputs,
        plan=found.plans[0],
        launch=launch_file(engine, context, launch),
        model=found.models[0],
        engine={"name": engine.name, **chosen},
        service={
            "manager": manager,
            "supervisor": catalogue["tools"]["supervisor"] if manager == "supervisor" else None,
            "user": layout["user"],
            "python": _service_python(audit),
            "unit": prepared.unit,
        },
        verify=_proof(engine, context, launch, wishes, audit),
        site=site_settings(wishes),
        layout=layout,
        companions=found.beside,
        access=access(
            wishes,
            audit["certificate"],
            engine.health,
            str(audit["host"]),
            router.PATHS if more else engine.public_paths,
        ),
        more=more,
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
        "metrics": f"{engine.metrics}?model={context.wishes['infra_llm_model']}"
        if context.more
        else engine.metrics,
        # Only where it is so: hosts of before there was such a proof differ in nothing.
        **({"embeds": True} if context.plan.flags.get("embeddings") else {}),
        "parallel": at_once(context.plan),
        "context_length": launch.context_length,
        "prompt": wishes["infra_llm_verify_prompt"],
        "expect": wishes["infra_llm_verify_expect"],
    }


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
    before = desired.get("more") or []
    names = [desired["launch"]["alias"], *(entry["name"] for entry in before)]
    models = [model, *(entry["model"] for entry in before)]
    beside = desired.get("companions") or {}
    engine = ENGINES[desired["engine"]["name"]]
    way = desired["engine"]["methods"][0]
    hardware = engine.reaches(hardware, way)
    first = PlannedModel(**desired["plan"]["model"]).architecture

    def known(profile: ModelProfile) -> Mapping[str, Calibration]:
        return calibrations if profile.architecture == first else {}

    served = [(name, [each]) for name, each in zip(names, models, strict=True)]

    def read(artifact: Artifact) -> ModelProfile:
        return with_companions(artifact, beside, desired["site"], read_header)

    plans = [plan for _, plan in plans_of(hardware, served, wishes, read, known)]
    for one, of in zip(plans, models, strict=True):
        must_fit(one, of)
    found = Planned(desired["inputs"], names, models, plans, beside)
    prepared = prepare(found, hardware, wishes, desired["layout"], way)
    context = prepared.context
    made = engine.launch(context)
    launch = {**desired["launch"], "flags": context.plan.flags, **asdict(made)}
    proof = {"context_length": made.context_length, "parallel": at_once(context.plan)}
    verify = {**desired["verify"], **proof}
    service = {**desired["service"], "unit": prepared.unit}
    anew = {
        "plan": plans[0],
        "launch": launch,
        "service": service,
        "verify": verify,
        "more": prepared.more,
    }
    return {**desired, **anew}


def _service_python(audit: Mapping[str, Any]) -> str:
    pythons = audit["pythons"]
    if not pythons:
        raise BadInputError(
            "no Python of the system found", hint="install python3 on the host, then run again"
        )
    return str(pythons[0]["path"])


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
    if desired.get("more"):
        # The service's memory is that of all models: it tells nothing of one.
        return {}
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
