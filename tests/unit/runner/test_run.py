"""Real runs of tiny playbooks through ansible-runner, on this machine itself."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import InfraLlmError
from infra_llm.runner import run
from infra_llm.runner.run import Outcome, Request, run_playbook

INVENTORY = """\
[nodes]
a ansible_connection=local
b ansible_connection=local
gone ansible_host=127.0.0.1 ansible_port=1
[nodes:vars]
ansible_python_interpreter={{ ansible_playbook_python }}
"""
Play = Callable[..., Outcome]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Runs tasks on the hosts a, b and gone, as the CLI runs a playbook of ours."""
    (tmp_path / "lab.ini").write_text(INVENTORY)
    monkeypatch.setattr(run, "playbook", lambda name: tmp_path / f"{name}.yml")

    def play(tasks: str, listener: Any = None, **options: Any) -> Outcome:
        head = "- hosts: all\n  gather_facts: false\n  tasks:\n"
        (tmp_path / "play.yml").write_text(head + tasks)
        return run_playbook(Request("play", tmp_path / "lab.ini", **options), listener)

    return play


def test_a_run_gives_progress_documents_and_options(play: Play, tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    (tmp_path / "roles" / "llama_cpp" / "tasks").mkdir(parents=True)
    (tmp_path / "roles" / "llama_cpp" / "tasks" / "main.yml").write_text("- command: 'true'\n")
    outcome = play(
        """\
    - copy:
        content: '{"full": {{ infra_llm_run.full | to_json }}}'
        dest: "{{ infra_llm_run.results }}/{{ inventory_hostname }}@audit.json"
    - include_role: {name: llama_cpp}
    - fail: {msg: "{{ infra_llm_run.owner }} {{ secret }}"}
      when: inventory_hostname == 'b'
""",
        lambda progress, host: heard.append((host, progress.hosts[host].stage)),
        options={"full": True},
        secrets={"secret": "hunter2"},
    )
    assert outcome.documents == {"a": {"audit": {"full": True}}, "b": {"audit": {"full": True}}}
    hosts = outcome.progress.hosts
    assert hosts["a"].failed == ""
    assert hosts["a"].changed == 2
    assert hosts["b"].failed == f"{run.owner()} hunter2"
    assert "Connection refused" in hosts["gone"].unreachable
    assert outcome.return_code != 0
    assert not outcome.interrupted
    assert ("a", "installing llama.cpp") in heard
    assert ("gone", "unreachable") in heard


def test_limit_tags_check_and_diff_arrive(play: Play, tmp_path: Path) -> None:
    outcome = play(
        f"""\
    - copy: {{content: "new\\n", dest: "{tmp_path}/made"}}
      tags: [one]
    - fail: {{msg: not this one}}
      tags: [two]
""",
        limit="a",
        tags="one",
        check=True,
        diff=True,
    )
    assert list(outcome.progress.hosts) == ["a"]
    assert outcome.progress.hosts["a"].failed == ""
    assert outcome.progress.hosts["a"].diffs[0].endswith("+ new")
    assert not (tmp_path / "made").exists()


def test_a_run_is_private_and_leaves_nothing(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    before, handlers = dict(os.environ), signal.getsignal(signal.SIGINT)
    outcome = play(
        """\
    - shell: |
        env | grep -c s3cret
        grep -rc s3cret $(dirname {{ infra_llm_run.results }}) | grep -vc ':0'
        stat -c %a $(dirname {{ infra_llm_run.results }}) {{ infra_llm_run.results }}/../extra.json
      register: seen
    - fail: {msg: "{{ seen.stdout_lines | join(' ') }}"}
""",
        limit="a",
    )
    assert outcome.progress.hosts["a"].failed == "0 0 700 600"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGINT) is handlers


def test_private_folder_is_gone_after_an_error() -> None:
    with pytest.raises(RuntimeError), run.private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "x").write_text("x")
        raise RuntimeError
    assert not folder.exists()


def test_a_playbook_that_ansible_can_not_run_is_an_error_in_words(play: Play) -> None:
    with pytest.raises(InfraLlmError, match="no_such_module_of_ours") as caught:
        play("    - no_such_module_of_ours:\n")
    assert caught.value.where == "play"


def test_what_a_host_told_is_not_evaluated_on_this_machine(play: Play, tmp_path: Path) -> None:
    """An interrupted run's decision holds the host's own words: names of devices, its state."""
    witness = tmp_path / "evaluated"
    told = f"{{{{ lookup('pipe', 'touch {witness}') }}}}"
    outcome = play(
        "    - recall:\n      register: found\n"
        f"    - assert:\n        that:\n          - found.previous[0] | length == {len(told)}\n",
        limit="a",
        decisions={"a": {"desired": {"name": told}, "previous": [told]}},
    )
    assert outcome.return_code == 0, outcome.progress.hosts["a"].failed
    assert not witness.exists()
    assert outcome.documents["a"]["decision"]["previous"] == [told]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_ansible_and_is_told(
    play: Play, tmp_path: Path, number: signal.Signals
) -> None:
    started = tmp_path / "started"

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begun = time.monotonic()
    outcome = play(f"    - shell: 'touch {started}; sleep 60'\n", limit="a")
    thread.join()
    assert outcome.interrupted
    assert time.monotonic() - begun < 30
