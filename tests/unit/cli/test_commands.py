"""Every command against a stand-in for Ansible: exit codes, JSON on stdout, words for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests import samples

from infra_llm.__main__ import main
from infra_llm.cli import cli
from infra_llm.core.decide import due_roles
from infra_llm.core.errors import ExitCode, InfraLlmError
from infra_llm.runner import fleet
from infra_llm.runner.inventory import Inventory
from infra_llm.runner.progress import HostProgress, RunProgress
from infra_llm.runner.run import Outcome, Request

FLEET_COMMANDS = ["provision", "probe", "plan", "verify", "status", "remove"]
ALL = due_roles([], "llama_cpp", full=True)


class Ansible:
    """A stand-in for the runner: hosts that end as the test says."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.progress: dict[str, HostProgress] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.error: BaseException | None = None

    def host(self, name: str, documents: dict[str, Any] | None = None, **progress: Any) -> None:
        self.progress[name] = HostProgress(task="x", **progress)
        self.documents[name] = documents or {}

    def run(self, request: Request, listener: Any = None) -> Outcome:
        self.requests.append(request)
        if self.error:
            raise self.error
        state = RunProgress(self.progress, True)
        for name in self.progress:
            listener(state, name)
        return Outcome(state, self.documents, 0)


@pytest.fixture
def ansible(monkeypatch: pytest.MonkeyPatch) -> Ansible:
    stand_in = Ansible()
    monkeypatch.setattr(fleet, "run_playbook", stand_in.run)
    monkeypatch.setattr(
        fleet, "load_inventory", lambda path, limit: Inventory(path, list(stand_in.progress))
    )
    return stand_in


Ended = tuple[int, str, str]
Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The whole command as main() runs it: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["infra-llm", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        caught = capsys.readouterr()
        assert "Traceback" not in caught.err
        return int(left.value.code or 0), caught.out, caught.err

    return run


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_every_option_explained(name: str) -> None:
    found = CliRunner().invoke(cli, [name, "--help"])
    assert found.exit_code == 0
    command = cli.commands[name]
    assert command.help
    assert command.help.splitlines()[0] in " ".join(found.output.split())
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.opts[0] in found.output


@pytest.mark.parametrize("name", FLEET_COMMANDS)
def test_the_shared_options_arrive(name: str, ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents())
    run(name, "-i", "lab.ini", "--limit", "a", "--forks", "3", "-vv")
    (request,) = ansible.requests
    assert (request.inventory, request.limit, request.forks) == (Path("lab.ini"), "a", 3)
    assert request.verbosity == 1
    assert request.secrets == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--inventory"),
        (["-i", "x", "--limt", "y"], "--limt"),
        (["-i", "x", "--forks", "0"], "--forks"),
        (["-i", "x", "--forks", "many"], "--forks"),
        (["-i"], "-i"),
        (["-i", "x", "--json=yes"], "--json"),
        (["-i", "x", "one", "two"], "extra argument"),
    ],
)
@pytest.mark.parametrize("name", FLEET_COMMANDS)
def test_bad_options_are_2(
    name: str, arguments: list[str], words: str, ansible: Ansible, run: Run
) -> None:
    code, out, error = run(name, *arguments)
    assert (code, out) == (2, "")
    assert words in error
    assert ansible.requests == []


ENDS: list[tuple[dict[str, Any], int]] = [
    ({}, 0),
    ({"failed": "no", "failed_code": 2}, 2),
    ({"failed": "no", "failed_code": 3}, 3),
    ({"unreachable": "no route"}, 4),
    ({"failed": "no"}, 5),
    ({"failed": "no", "failed_code": 6}, 6),
    ({"failed": "held", "failed_code": 7}, 7),
]


@pytest.mark.parametrize(("progress", "code"), ENDS)
@pytest.mark.parametrize("name", FLEET_COMMANDS)
def test_every_command_ends_as_its_hosts_did(
    name: str, progress: dict[str, Any], code: int, ansible: Ansible, run: Run
) -> None:
    ansible.host("good", samples.documents())
    ansible.host("a", {} if progress else samples.documents(ALL), **progress)
    found, out, _ = run(name, "-i", "lab.ini")
    assert found == code
    assert all(words in out for key, words in progress.items() if key != "failed_code")


@pytest.mark.parametrize(("progress", "code"), ENDS)
@pytest.mark.parametrize("name", FLEET_COMMANDS)
def test_json_is_alone_on_stdout_whatever_happened(
    name: str, progress: dict[str, Any], code: int, ansible: Ansible, run: Run
) -> None:
    ansible.host("a", {} if progress else samples.documents(ALL), **progress)
    found, out, error = run(name, "-i", "lab.ini", "--json")
    assert found == code
    document = json.loads(out)
    entry = document["hosts"]["a"] if isinstance(document, dict) else document[0]
    assert bool(entry.get("error")) == (code != 0)
    assert entry["exit_code"] == code
    assert " s  a: " in error


@pytest.mark.parametrize("name", FLEET_COMMANDS)
def test_errors_before_any_host_are_words_on_stderr(name: str, ansible: Ansible, run: Run) -> None:
    ansible.error = InfraLlmError("it is odd", where="lab.ini", hint="mend it")
    for more in ([], ["--json"]):
        assert run(name, "-i", "lab.ini", *more) == (
            2,
            "",
            "error: lab.ini: it is odd\n  mend it\n",
        )


def test_an_interrupt_before_ansible_is_130(ansible: Ansible, run: Run) -> None:
    ansible.error = KeyboardInterrupt()
    code, out, error = run("status", "-i", "lab.ini")
    assert (code, out) == (130, "")
    assert "interrupted" in error


def test_provision_hands_its_options_on(ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents(ALL))
    run("provision", "-i", "x", "--check", "--diff", "--full", "-t", "llama_cpp, model_store")
    (request,) = ansible.requests
    assert request.name == "provision"
    assert (request.check, request.diff) == (True, True)
    assert request.options == {
        "full": True,
        "plan_file": None,
        "only": ["llama_cpp", "model_store"],
    }


def test_an_unknown_role_in_tags_names_the_roles(ansible: Ansible, run: Run) -> None:
    code, _, error = run("provision", "-i", "x", "--tags", "llama_cpp,modle_store")
    assert code == 2
    assert "no role named modle_store" in error
    assert "model_store, llm_service" in error
    assert ansible.requests == []


@pytest.mark.parametrize("tags", ["", ",", " , "])
def test_tags_without_a_role_are_not_all_roles(tags: str, ansible: Ansible, run: Run) -> None:
    code, _, error = run("provision", "-i", "x", "--tags", tags)
    assert (code, ansible.requests) == (2, [])
    assert f"--tags: {tags!r} names no role" in error


def test_a_number_that_json_has_not_is_no_document(ansible: Ansible, run: Run) -> None:
    documents = samples.documents()
    documents["audit"]["hardware"]["cpu"]["memory_bandwidth_gbs"] = float("nan")
    ansible.host("a", documents)
    code, out, _ = run("probe", "-i", "lab.ini", "--json")
    assert (code, out) == (70, "")


def test_provision_reports_what_it_did(ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents(ALL), changed=9)
    _, out, _ = run("provision", "-i", "lab.ini", "--json")
    document = json.loads(out)
    assert document["schema"] == "infra-llm/report/1"
    assert document["exit_code"] == 0
    assert document["hosts"]["a"]["result"] == "serving"
    assert document["hosts"]["a"]["changed_tasks"] == 9
    _, out, _ = run("provision", "-i", "lab.ini")
    assert "curl -s http://127.0.0.1:8080/v1/chat/completions" in out
    assert "from openai import OpenAI" in out


def test_plan_writes_what_provision_reads(ansible: Ansible, run: Run, tmp_path: Path) -> None:
    ansible.host("a", samples.documents(ALL))
    ansible.host("gone", unreachable="no route")
    path = tmp_path / "plan.json"
    path.touch(mode=0o644)
    code, out, _ = run("plan", "-i", "lab.ini", "-o", str(path))
    assert code == 4
    assert path.stat().st_mode & 0o777 == 0o600, "addresses in it may hold passwords"
    assert "would run preflight, llama_cpp, model_store, llm_service, llm_access, llm_verify" in out
    assert f"infra-llm provision {path}" in out
    assert set(json.loads(path.read_text())["hosts"]) == {"a"}
    code, _, _ = run("provision", str(path), "-i", "lab.ini", "--limit", "a")
    assert ansible.requests[-1].options["plan_file"] == str(path)


@pytest.mark.parametrize(
    ("path", "words", "asked"),
    [
        ("/proc/plan.json", "the plan can't be written: No such file or directory", 0),
        ("/proc/version", "the plan can't be written", 0),
        ("/dev/full", "the plan can't be written: No space left on device", 1),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_that_can_not_be_written_is_said_before_the_run_or_shown_all_the_same(
    path: str, words: str, asked: int, as_json: bool, ansible: Ansible, run: Run
) -> None:
    ansible.host("a", samples.documents(ALL))
    code, out, error = run("plan", "-i", "lab.ini", "-o", path, *(["--json"] if as_json else []))
    assert (code, len(ansible.requests)) == (2, asked)
    assert f"error: {path}: {words}" in error
    assert "Apply exactly this" not in out
    assert ("llama_cpp" in out) == bool(asked)


def test_looking_whether_a_plan_can_be_written_leaves_nothing(
    ansible: Ansible, run: Run, tmp_path: Path
) -> None:
    ansible.error = InfraLlmError("no")
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    old.write_text("before")
    for path in (new, old):
        assert run("plan", "-i", "lab.ini", "-o", str(path))[0] == 2
    assert not new.exists()
    assert old.read_text() == "before"


def test_a_plan_goes_to_what_is_no_file_as_well(ansible: Ansible, run: Run, tmp_path: Path) -> None:
    ansible.host("a", samples.documents(ALL))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    code, _, _ = run("plan", "-i", "lab.ini", "-o", str(pipe))
    assert code == 0
    assert set(json.loads(os.read(reader, 2**20))["hosts"]) == {"a"}
    assert pipe.stat().st_mode & 0o777 == 0o644
    os.close(reader)


def test_plan_as_json_is_a_launch_plan_a_host(ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents(ALL))
    ansible.host("gone", unreachable="no route")
    _, out, _ = run("plan", "-i", "lab.ini", "--json")
    first, second = json.loads(out)
    assert first["schema"] == "infra-llm/launch-plan/1"
    assert (first["name"], first["roles"]) == ("a", ALL)
    assert first["host"]["total_mib"] == 200.0, "the row of the plan, not the name"
    assert first["flags"] == samples.desired()["plan"]["flags"]
    assert second["exit_code"] == 4


def test_plan_names_what_is_in_the_way(ansible: Ansible, run: Run) -> None:
    documents = samples.documents(ALL)
    documents["decision"]["problems"] = [{"text": "port 8080 is taken by [x]", "code": 2}]
    ansible.host("a", documents)
    assert "in the way port 8080 is taken by [x]" in run("plan", "-i", "lab.ini")[1]


def test_probe_as_json_is_a_list_of_hardware(ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents())
    ansible.host("gone", unreachable="no route")
    _, out, _ = run("probe", "-i", "lab.ini", "--json")
    first, second = json.loads(out)
    assert first == {"name": "a", "exit_code": 0, **samples.hardware().to_dict()}
    assert (second["error"], second["exit_code"]) == ("no route", 4)
    assert ansible.requests[0].options["probe_only"] is True


@pytest.mark.parametrize(
    ("documents", "word"),
    [
        ({"audit": samples.audit(), "decision": samples.decision(ALL)}, "not provisioned"),
        (
            {"audit": samples.audit(state=samples.state()), "decision": samples.decision()},
            "as wished",
        ),
        (
            {
                "audit": samples.audit(state=samples.state()),
                "decision": samples.decision(["llm_service"]),
            },
            "differs",
        ),
    ],
)
def test_status(documents: dict[str, Any], word: str, ansible: Ansible, run: Run) -> None:
    ansible.host("a", documents)
    code, out, _ = run("status", "-i", "lab.ini", "--json")
    (entry,) = json.loads(out)
    assert (code, entry["status"]) == (0, word)
    text = run("status", "-i", "lab.ini")[1]
    assert word in text
    assert ("llm_service differs" in text) == (word == "differs")


def test_verify_compares_with_the_run_before(ansible: Ansible, run: Run) -> None:
    checks = [{"name": "answer", "ok": True, "detail": "'x' -> '2'", "required": True}]
    measured = samples.measured(speed={"decode_tokens_per_second": 50.0})
    document = {"measured": measured, "verdict": {"passed": True, "checks": checks}}
    ansible.host("a", samples.documents(verify=document))
    _, out, _ = run("verify", "-i", "lab.ini")
    assert "ok answer: 'x' -> '2'" in out
    assert "88.0 -> 50.0 tokens/s" in out


def test_a_failed_verify_says_that_nothing_was_changed(ansible: Ansible, run: Run) -> None:
    ansible.host("a", samples.documents(), failed="answer: lacks '2'", failed_code=6)
    code, out, _ = run("verify", "-i", "lab.ini")
    assert code == ExitCode.VERIFY_FAILED
    assert "nothing was changed" in out
    assert "rolled back" not in out
    document = json.loads(run("verify", "-i", "lab.ini", "--json")[1])
    assert document["hosts"]["a"]["result"] == "verify failed"


@pytest.mark.parametrize(("changed", "word"), [(3, "removed"), (0, "nothing to remove")])
def test_remove(changed: int, word: str, ansible: Ansible, run: Run) -> None:
    ansible.host("a", changed=changed)
    assert f"a: {word}" in run("remove", "-i", "lab.ini")[1]
    assert json.loads(run("remove", "-i", "lab.ini", "--json")[1])[0]["result"] == word


def test_the_sudo_password_is_asked_for_and_not_shown(
    ansible: Ansible, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click.termui, "hidden_prompt_func", lambda _: "hunter2")
    ansible.host("a", samples.documents())
    _, out, error = run("status", "-i", "lab.ini", "-K", "--json")
    assert ansible.requests[0].secrets == {"ansible_become_password": "hunter2"}
    assert "hunter2" not in out + error
    json.loads(out)
