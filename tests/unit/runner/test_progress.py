"""The reducer on events that ansible-runner really sent (tests/fixtures/events/record.py)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from infra_llm.runner.progress import RunProgress, reduce

EVENTS = Path(__file__).parents[2] / "fixtures" / "events"


def recorded(name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads((EVENTS / f"{name}.json").read_text())
    return events


def run(name: str) -> tuple[RunProgress, list[tuple[str, str]]]:
    """The state after a recorded run, and each (host, stage) that was announced."""
    state, announced = RunProgress(), []
    for event in recorded(name):
        host = reduce(state, event)
        if host:
            announced.append((host, state.hosts[host].stage))
    return state, announced


def test_roles_are_stages_and_each_is_announced_once_a_host() -> None:
    state, announced = run("stages")
    for host in "ab":
        stages = [stage for name, stage in announced if name == host]
        assert stages == ["installing llama.cpp", "verifying"]
        assert state.hosts[host].changed == 1
        assert state.hosts[host].failed == ""
    assert state.stats_seen


def test_a_failure_holds_the_command_s_own_words() -> None:
    state, announced = run("failed")
    assert state.hosts["a"].failed == "non-zero return code\nout of luck"
    assert state.hosts["a"].failed_task == "Build it"
    assert state.hosts["a"].failed_code is None
    assert ("a", "failed") in announced
    assert state.hosts["b"].failed == ""
    assert state.hosts["b"].changed == 1


def test_what_roles_say_is_kept_once() -> None:
    state, _ = run("said")
    assert state.hosts["a"].said == ["a reboot is needed", "built the module"]


def test_the_first_failure_is_the_cause_not_what_the_rescue_says_at_its_end() -> None:
    state, _ = run("rescued")
    assert state.hosts["a"].failed == "the cause"
    assert state.hosts["a"].failed_task == "Start the service"


def test_a_failure_that_a_rescue_mended_is_none() -> None:
    state, _ = run("mended")
    host = state.hosts["a"]
    assert (host.failed, host.failed_task, host.failed_code) == ("", "", None)
    assert host.rescued
    assert host.stage != "failed"
    assert host.changed == 1


def test_an_ignored_failure_is_none() -> None:
    state, announced = run("ignored")
    assert state.hosts["a"].failed == ""
    assert ("a", "failed") not in announced


def test_loops_give_every_diff_and_the_item_that_failed() -> None:
    state, _ = run("items")
    host = state.hosts["a"]
    assert host.diffs == ["/tmp/run/one\n+ one", "/tmp/run/two\n+ two"]
    assert host.failed == "two is wrong"
    assert host.changed == 1, "a loop is one task"


def test_an_unreachable_host_does_not_touch_the_others() -> None:
    state, announced = run("unreachable")
    assert "Connection refused" in state.hosts["gone"].unreachable
    assert state.hosts["gone"].failed == ""
    assert ("gone", "unreachable") in announced
    for name in "ab":
        assert not state.hosts[name].unreachable
        assert state.hosts[name].changed == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [("bad_limit", "no hosts to target"), ("broken_playbook", "no_such_module_of_ours")],
)
def test_a_run_without_stats_keeps_what_ansible_complained(name: str, words: str) -> None:
    state, announced = run(name)
    assert not state.stats_seen
    assert state.hosts == {}
    assert announced == []
    assert any(words in complaint for complaint in state.complaints)


def test_a_result_that_runner_emptied_is_still_a_failure() -> None:
    state, _ = run("large")
    assert state.hosts["a"].failed == "failed without a word"
    assert state.hosts["a"].failed_task == "Fail with much"


def test_the_events_are_left_as_they_were() -> None:
    events = recorded("items")
    before = copy.deepcopy(events)
    state = RunProgress()
    for event in events:
        reduce(state, event)
    assert events == before


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "runner_on_ok"},
        {"event": "runner_on_ok", "event_data": None},
        {"event": "runner_on_ok", "event_data": {"host": "a", "res": None}},
        {"event": "runner_on_failed", "event_data": {"host": "a"}},
        {"event": "runner_on_failed", "event_data": {"host": "a", "res": {"results": [None, 1]}}},
        {"event": "runner_on_unreachable", "event_data": {"host": "a", "res": {}}},
        {"event": "runner_on_ok", "event_data": {"host": "a", "res": {"results": ["x"]}}},
        {"event": "runner_on_ok", "event_data": {"host": "a", "res": {"diff": ["x", None]}}},
        {"event": "playbook_on_stats", "event_data": None},
        {"event": "a kind of a later version", "event_data": {"host": "a"}},
    ],
)
def test_odd_events_do_not_stop_the_reducer(event: dict[str, Any]) -> None:
    reduce(RunProgress(), event)


def of_host(kind: str, **data: Any) -> dict[str, Any]:
    return {"event": f"runner_on_{kind}", "event_data": {"host": "a", **data}}


def test_our_modules_give_their_failure_an_exit_code() -> None:
    state = RunProgress()
    reduce(state, of_host("failed", task="Take the lock", res={"msg": "held", "exit_code": 7}))
    assert state.hosts["a"].failed_code == 7


def test_the_audit_is_a_stage() -> None:
    state = RunProgress()
    assert reduce(state, of_host("ok", task_action="audit", res={})) == "a"
    assert state.hosts["a"].stage == "audited"


@pytest.mark.parametrize(
    ("diff", "text"),
    [
        ({"prepared": "--- a\n+++ b\n"}, "--- a\n+++ b"),
        (
            {"before_header": "/etc/x", "before": "one\ntwo\n", "after": "two\nthree\n"},
            "/etc/x\n- one\n+ three",
        ),
        (
            {"before": {"mode": "0644", "path": "/x"}, "after": {"mode": "0600", "path": "/x"}},
            "- mode: 0644\n+ mode: 0600",
        ),
        ({"before": None, "after": "new"}, "+ new"),
    ],
)
def test_diffs_are_readable(diff: dict[str, Any], text: str) -> None:
    state = RunProgress()
    reduce(state, of_host("ok", res={"changed": True, "diff": diff}))
    assert state.hosts["a"].diffs == [text]


def test_a_diff_of_a_task_that_changed_nothing_is_left_out() -> None:
    state = RunProgress()
    reduce(state, of_host("ok", res={"changed": False, "diff": {"before": "a", "after": "b"}}))
    assert state.hosts["a"].diffs == []


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"msg": "no space"}, "no space"),
        ({"msg": "failed", "stderr": "E: no space"}, "failed\nE: no space"),
        ({"msg": "failed: E: no space", "stderr": "E: no space\n"}, "failed: E: no space"),
        ({"module_stderr": "Traceback: boom"}, "Traceback: boom"),
        ({"results": [{"failed": False}, {"failed": True, "msg": "second"}]}, "second"),
        ({}, "failed without a word"),
    ],
)
def test_the_words_of_a_failure(result: dict[str, Any], words: str) -> None:
    state = RunProgress()
    reduce(state, of_host("failed", res=result))
    assert state.hosts["a"].failed == words


def failed(action: str, text: str) -> dict[str, Any]:
    data = {"host": "a", "task": action, "task_action": action, "res": {"msg": text}}
    return {"event": "runner_on_failed", "event_data": data}


def test_the_first_failure_is_the_cause_unless_the_start_was_tried_again() -> None:
    stepped = {"host": "a", "task_action": "step_down", "res": {}}
    again = {"event": "runner_on_ok", "event_data": stepped}
    cases = [
        ([failed("engine_unit", "first"), failed("fail", "repeats it")], "first"),
        ([failed("engine_unit", "first"), failed("step_down", "all of it")], "all of it"),
        ([failed("engine_unit", "first"), again, failed("judge", "wrong answer")], "wrong answer"),
    ]
    for events, words in cases:
        state = RunProgress()
        for event in events:
            reduce(state, event)
        assert state.hosts["a"].failed == words


def test_a_build_that_failed_is_told_with_its_last_lines() -> None:
    state = RunProgress()
    compile_event = failed("ansible.builtin.command", "non-zero return code")
    why = failed("ansible.builtin.fail", "Compile: failed. The last lines:\nprogram.c:1: error")
    why["event_data"]["task"] = "Say why the build failed"
    last = failed("ansible.builtin.fail", "Compile: failed")
    for event in (compile_event, why, last):
        reduce(state, event)
    assert "program.c:1: error" in state.hosts["a"].failed


def test_a_removal_is_not_told_as_an_installation() -> None:
    state = RunProgress()
    event = of_host("start", role="container_engine", playbook="/site/playbooks/remove.yml")
    assert reduce(state, event) == "a"
    assert state.hosts["a"].stage == "removing"
