"""What happened to each host, and the one exit code of the process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import ExitCode
from infra_llm.runner import fleet
from infra_llm.runner.fleet import SEVERITY, FleetResult, HostResult, run_fleet
from infra_llm.runner.inventory import Inventory
from infra_llm.runner.progress import HostProgress, RunProgress
from infra_llm.runner.run import Outcome, Request

PREFLIGHT_TASK = "Refuse what can't work before anything is changed"


def result(
    progress: HostProgress | None = None,
    documents: dict[str, Any] | None = None,
    *,
    interrupted: bool = False,
) -> HostResult:
    hosts = {"a": progress} if progress else {}
    outcome = Outcome(RunProgress(hosts), {"a": documents or {}}, 0, interrupted)
    return fleet._host_result("a", outcome)


def problem(code: int, text: str = "x") -> dict[str, Any]:
    return {"code": code, "text": text}


@pytest.mark.parametrize(
    ("progress", "documents", "interrupted", "code"),
    [
        (HostProgress(task="x"), {"audit": {}}, False, 0),
        (HostProgress(task="x"), {}, False, 0),
        (HostProgress(task="x", failed="no", failed_code=2), {}, False, 2),
        (HostProgress(task="x", failed="no", failed_code=3), {}, False, 3),
        (HostProgress(task="x", unreachable="no route"), {}, False, 4),
        (HostProgress(task="x", unreachable="gone", failed="x", failed_code=6), {}, False, 4),
        (HostProgress(task="x", failed="no"), {}, False, 5),
        (HostProgress(task="x", failed="no", failed_code=5), {}, False, 5),
        (None, {}, False, 5),
        (HostProgress(task="x", failed="no", failed_code=6), {}, False, 6),
        (HostProgress(task="x", failed="locked", failed_code=7), {}, False, 7),
        (HostProgress(task="x"), {"audit": {}}, True, 130),
        (None, {}, True, 130),
        (HostProgress(task="x", failed="no", failed_code=6), {}, True, 6),
        (HostProgress(task="x", unreachable="no route"), {}, True, 4),
    ],
)
def test_every_way_a_host_ends_has_its_exit_code(
    progress: HostProgress | None, documents: dict[str, Any], interrupted: bool, code: int
) -> None:
    found = result(progress, documents, interrupted=interrupted)
    assert int(found.code) == code
    assert bool(found.error) == (code != 0)


@pytest.mark.parametrize(
    ("codes", "code"), [([5], 5), ([2], 2), ([5, 2], 2), ([2, 5], 2), ([5, 5], 5)]
)
def test_what_preflight_found_decides_its_code(codes: list[int], code: int) -> None:
    problems = [problem(c, f"problem {n}") for n, c in enumerate(codes)]
    progress = HostProgress(task="x", failed="no", failed_task=PREFLIGHT_TASK)
    found = result(progress, {"decision": {"problems": problems}})
    assert int(found.code) == code
    assert found.error == "\n".join(p["text"] for p in problems)


def test_the_preflight_task_is_named_as_the_fleet_knows_it() -> None:
    tasks = Path(fleet.__file__).parents[3] / "roles" / "preflight" / "tasks" / "main.yml"
    assert PREFLIGHT_TASK in tasks.read_text()


def test_problems_do_not_hide_another_failure() -> None:
    progress = HostProgress(task="x", failed="held", failed_task="Lock", failed_code=7)
    found = result(progress, {"decision": {"problems": [problem(2)]}})
    assert (int(found.code), found.error) == (7, "held")


SEVERITY_BY_HAND = [130, 2, 7, 3, 6, 5, 4]


def test_the_severity_order_names_every_code_once() -> None:
    assert [int(code) for code in SEVERITY] == SEVERITY_BY_HAND
    assert {*SEVERITY} | {ExitCode.DONE, ExitCode.BUG} == {*ExitCode}, "a bug is no host's end"


@pytest.mark.parametrize(
    ("worse", "milder"), list(itertools.combinations([*SEVERITY_BY_HAND, 0], 2))
)
def test_the_worst_host_gives_the_exit_code(worse: int, milder: int) -> None:
    for codes in ((worse, milder), (milder, worse), (0, milder, worse, 0)):
        hosts = [HostResult(f"h{n}", ExitCode(code)) for n, code in enumerate(codes)]
        assert int(FleetResult(hosts).code) == worse


def test_no_host_at_all_is_done() -> None:
    assert FleetResult([]).code == ExitCode.DONE


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("sudo: a password is required\n", "--ask-become-pass"),
        ("Missing sudo password", "--ask-become-pass"),
        ("Incorrect sudo password", "wrong"),
        ("eve is not in the sudoers file.", "sudo rights"),
        ("/bin/sh: 1: sudo: not found", "install it, or connect as root"),
        ("Unable to execute ssh command line on a controller: b'ssh'", "openssh-client"),
        ("ansible-core requires a minimum of Python version 3.8.", "ansible_python_interpreter"),
        ("No python interpreters found", "install python3"),
        ("/bin/sh: /usr/bin/python3: not found", "install python3"),
    ],
)
def test_common_failures_say_what_to_do(message: str, hint: str) -> None:
    found = result(HostProgress(task="x", failed=message, failed_task="Audit the host"))
    assert found.code == ExitCode.HOST_FAILED
    assert found.error.startswith(f"Audit the host: {message}")
    assert hint in found.error.rpartition("\n  ")[2]


def test_an_uncommon_failure_is_left_in_its_own_words() -> None:
    found = result(HostProgress(task="x", failed="odd", failed_task="Do it"))
    assert found.error == "Do it: odd"


class Playbooks:
    """A stand-in for run_playbook that answers with prepared outcomes."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes, self.requests = list(outcomes), []

    def __call__(self, request: Request, listener: Any = None) -> Outcome:
        self.requests.append(request)
        return self.outcomes.pop(0)


def provision(
    monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome, check: bool = False
) -> tuple[FleetResult, Playbooks]:
    playbooks = Playbooks(*outcomes)
    monkeypatch.setattr(fleet, "run_playbook", playbooks)
    monkeypatch.setattr(
        fleet, "load_inventory", lambda path, limit: Inventory(path, ["a", "b", "c", "d"])
    )
    request = Request("provision", Path("lab.ini"), check=check, secrets={"p": "x"})
    return run_fleet(request), playbooks


def interrupted() -> Outcome:
    """a was at it, b had nothing to do, c was remembered, d was not reached."""
    hosts = {name: HostProgress(task="x", stage="installing") for name in "abc"}
    due = {"due": ["llama_cpp"], "desired": {}}
    documents: dict[str, dict[str, Any]] = {
        "a": {"audit": {}, "decision": due},
        "b": {"audit": {}, "decision": {"due": []}},
        "c": {"audit": {}, "decision": due, "verify": {}, "remembered": {}},
    }
    return Outcome(RunProgress(hosts), documents, 254, True, "run1")


def test_after_an_interrupt_only_begun_hosts_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found, playbooks = provision(monkeypatch, interrupted(), settled("put back as it was"))
    assert found.code == ExitCode.INTERRUPTED
    request = playbooks.requests[1]
    assert (request.name, request.limit, request.secrets) == ("settle", "a", {"p": "x"})
    assert request.options["interrupted_run"] == "run1"
    assert set(request.decisions) == {"a"}
    # Ansible would evaluate what stands in an option.
    assert "decisions" not in request.options
    assert found.hosts[0].error.endswith("; put back as it was")


def settled(*said: str, interrupted: bool = False, **progress: Any) -> Outcome:
    host = HostProgress(task="x", said=list(said), **progress)
    return Outcome(RunProgress({"a": host}, True), {}, 0, interrupted)


def test_a_proof_that_failed_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are written before the verdict is acted on: the host may be half put back."""
    outcome = interrupted()
    outcome.documents["a"]["verify"] = {}
    _, playbooks = provision(monkeypatch, outcome, settled("x"))
    assert playbooks.requests[1].limit == "a"


@pytest.mark.parametrize(
    "end", [settled(), settled("put back", interrupted=True), Outcome(RunProgress({}), {}, 0)]
)
def test_putting_back_that_did_not_end_is_not_claimed(
    monkeypatch: pytest.MonkeyPatch, end: Outcome
) -> None:
    found, _ = provision(monkeypatch, interrupted(), end)
    assert "did not end" in found.hosts[0].error


def test_an_interrupted_removal_gives_the_locks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    playbooks = Playbooks(
        Outcome(RunProgress({"a": HostProgress(task="x")}), {}, 254, True, "run1"),
        settled("run infra-llm remove again"),
    )
    monkeypatch.setattr(fleet, "run_playbook", playbooks)
    inventory = Inventory("lab.ini", ["a", "b"], {"a": {"infra_llm_instance": "two"}, "b": {}})
    monkeypatch.setattr(fleet, "load_inventory", lambda path, limit: inventory)
    found = run_fleet(Request("remove", Path("lab.ini")))
    (decision,) = playbooks.requests[1].decisions.values()
    assert decision["removal"] is True
    assert decision["desired"]["layout"]["lock"] == "/run/infra-llm-two.lock"
    assert found.hosts[0].error.endswith("run infra-llm remove again")


def test_a_host_that_could_not_be_put_back_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = provision(monkeypatch, interrupted(), settled(failed="disk full"))
    assert "could not be put back: disk full" in found.hosts[0].error


def test_an_interrupted_check_needs_no_putting_back(monkeypatch: pytest.MonkeyPatch) -> None:
    found, playbooks = provision(monkeypatch, interrupted(), check=True)
    assert len(playbooks.requests) == 1
    assert found.code == ExitCode.INTERRUPTED


def test_one_unreachable_host_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {name: HostProgress(task="x") for name in "abc"}
    hosts["b"].unreachable = "no route"
    found, _ = provision(monkeypatch, Outcome(RunProgress(hosts, True), {}, 4))
    assert [int(host.code) for host in found.hosts] == [0, 4, 0, 5]
    assert "never reached" in found.hosts[3].error
    assert found.code == ExitCode.HOST_FAILED
