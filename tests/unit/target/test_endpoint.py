from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import BadInputError, HostFailedError
from infra_llm.target import endpoint
from infra_llm.target.chat_client import ChatClient, Completion
from infra_llm.target.endpoint import Request, health_timeout, speed_of, speed_prompt, verify
from infra_llm.target.process_memory import tree_memory

from .engine import Engine
from .supervisord import Supervisord

CAPTURED = (Path(__file__).parent / "logs" / "llama-server-2026-10-cpu.log").read_text()


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[Supervisord]:
    server = Supervisord(str(tmp_path / "s.sock"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def unit(supervisord: Supervisord, tmp_path: Path) -> dict[str, Any]:
    log = tmp_path / "llama.log"
    log.write_text(CAPTURED)
    supervisord.program("llama", pid=os.getpid(), log=str(log))
    return {"name": "llama", "manager": "supervisor", "socket": str(tmp_path / "s.sock")}


def test_everything_is_measured(engine: Engine, unit: dict[str, Any]) -> None:
    found = verify(Request(engine.url, unit))
    assert found["answered"] is True
    assert (found["answer"], found["model"]) == ("1 + 1 = 2", "tiny")
    # 300 tokens in 1.5 s; 63 of 64 tokens came in the 0.63 s after the first one.
    assert found["speed"]["prefill_tokens_per_second"] == 200.0
    assert found["speed"]["decode_tokens_per_second"] == 100.0
    assert found["speed"]["source"] == "engine"
    assert found["speed"]["first_token_seconds"] > 0
    assert found["memory"]["rss_mib"] > 10
    assert found["engine"]["devices"]["CPU"]["kv_cache"] == 180.0
    assert found["service"]["active"] is True
    assert found["notes"] == []
    json.dumps(found)
    question, speed, embedding = engine.asked
    assert "input" in embedding
    assert (question["temperature"], question["max_tokens"]) == (0, 32)
    assert (speed["cache_prompt"], speed["ignore_eos"], speed["max_tokens"]) == (False, True, 64)


def test_of_several_runs_the_fastest_counts(engine: Engine) -> None:
    speeds = iter([500.0, 250.0, 1000.0])
    real = endpoint.speed_of

    def slower(done: Completion) -> dict[str, Any]:
        done.timings["predicted_ms"] = next(speeds)
        return real(done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "speed_of", slower)
        found = verify(Request(engine.url, runs=3))
    assert found["speed"]["decode_tokens_per_second"] == 63 / 0.25


def test_an_empty_log_is_said(tmp_path: Path, supervisord: Supervisord) -> None:
    supervisord.program("llama", "FATAL")
    unit = {"name": "llama", "manager": "supervisor", "socket": str(tmp_path / "s.sock")}
    with pytest.raises(HostFailedError, match="the log of llama is empty"):
        verify(Request("http://127.0.0.1:9", unit))


def test_a_wrong_answer_is_reported_not_hidden(engine: Engine) -> None:
    engine.answer = ["Paris"]
    found = verify(Request(engine.url, measure=False))
    assert (found["answered"], found["answer"], found["speed"]) == (False, "Paris", None)
    assert (found["service"], found["memory"], found["engine"]) == (None, None, None)


def test_a_reasoning_model_may_answer_aloud(engine: Engine) -> None:
    engine.delta = "reasoning_content"
    found = verify(Request(engine.url, measure=False))
    assert (found["answered"], found["answer"], found["reasoning"]) == (True, "", "1 + 1 = 2")


def test_it_waits_while_the_model_loads(engine: Engine, unit: dict[str, Any]) -> None:
    engine.health = [503, 503, 200]
    assert verify(Request(engine.url, unit))["healthy_after_seconds"] >= 0.4


def test_it_gives_up_in_time_with_the_log(engine: Engine, unit: dict[str, Any]) -> None:
    engine.health = [503]
    with pytest.raises(HostFailedError, match=r"not healthy after \d+ s \(HTTP 503\)") as caught:
        verify(Request(engine.url, unit, health_seconds=0.3))
    assert "update_slots: all slots are idle" in str(caught.value)


@pytest.mark.parametrize("state", ["FATAL", "gone"])
def test_a_dead_service_is_not_waited_for(
    state: str, unit: dict[str, Any], supervisord: Supervisord
) -> None:
    supervisord.processes = []
    if state == "FATAL":
        supervisord.program("llama", "FATAL")
    started = time.monotonic()
    with pytest.raises(HostFailedError, match=r"the service llama is (FATAL|not found)"):
        verify(Request("http://127.0.0.1:9", unit, health_seconds=600))
    assert time.monotonic() - started < 5


def test_a_service_that_is_restarted_while_loading_died(
    engine: Engine, unit: dict[str, Any], supervisord: Supervisord, monkeypatch: Any
) -> None:
    engine.health = [503]
    states = iter(range(100, 200))
    real = endpoint.service_state

    def another_pid(*args: Any) -> Any:
        supervisord.program("llama", pid=next(states))
        return real(*args)

    monkeypatch.setattr(endpoint, "service_state", another_pid)
    with pytest.raises(HostFailedError, match="died while it was starting"):
        verify(Request(engine.url, unit, health_seconds=30))


def test_a_service_that_systemd_restarted_died(engine: Engine) -> None:
    engine.health = [503]
    restarts = iter(range(3, 99))

    def run(command: Any) -> tuple[int, str, str]:
        shown = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nMainPID=0\n"
        return 0, f"{shown}NRestarts={next(restarts)}\n" if command[1] == "show" else "oom\n", ""

    started = time.monotonic()
    with pytest.raises(HostFailedError, match="died while it was starting") as caught:
        verify(Request(engine.url, {"name": "llama"}, health_seconds=60), run)
    assert "oom" in str(caught.value)
    assert time.monotonic() - started < 5


def test_the_servers_own_error_is_shown(engine: Engine, unit: dict[str, Any]) -> None:
    engine.refuse = {"message": "Invalid API Key", "code": 401}
    with pytest.raises(HostFailedError, match="HTTP 400: Invalid API Key"):
        verify(Request(engine.url, unit))


def test_a_strict_server_is_asked_again_without_extras(engine: Engine) -> None:
    engine.unknown_fields_refused = True
    engine.final.pop("timings")
    found = verify(Request(engine.url))
    assert found["speed"]["source"] == "clock"
    assert "ignore_eos" not in engine.asked[-1]


def test_speed_that_cannot_be_told_is_a_note(engine: Engine) -> None:
    engine.final = {}
    found = verify(Request(engine.url))
    assert found["speed"] is None
    assert found["notes"] == ["speed was not measured: the server tells neither timings nor usage"]


def test_a_server_that_counts_only_unstreamed_answers_is_counted_by_pieces(engine: Engine) -> None:
    engine.final = {}
    engine.unstreamed = {"usage": {"prompt_tokens": 290, "completion_tokens": 1}}
    speed = verify(Request(engine.url))["speed"]
    assert (speed["prefill_tokens"], speed["decode_tokens"]) == (290, len(engine.answer))
    assert speed["source"] == "clock"
    counted = [asked for asked in engine.asked if "messages" in asked and "stream" not in asked]
    assert [asked["max_tokens"] for asked in counted] == [1]


def test_speed_by_the_clock() -> None:
    done = Completion(
        usage={"prompt_tokens": 300, "completion_tokens": 51}, first_token_seconds=2.0, seconds=7.0
    )
    speed = speed_of(done)
    assert speed["prefill_tokens_per_second"] == 150.0
    assert speed["decode_tokens_per_second"] == 10.0
    assert speed["source"] == "clock"


def test_one_token_tells_no_decode_speed() -> None:
    done = Completion(usage={"prompt_tokens": 3, "completion_tokens": 1}, first_token_seconds=1.0)
    assert speed_of(done)["decode_tokens_per_second"] is None


@pytest.mark.parametrize(("context", "most"), [(None, 700), (8192, 700), (512, 400), (128, 70)])
def test_the_speed_prompt_fits_the_context(context: int | None, most: int) -> None:
    words = speed_prompt(context, 5).split()
    assert len(words) * 2 < most
    assert speed_prompt(context, 5) != speed_prompt(context, 6)


def test_health_is_waited_for_longer_with_a_larger_model() -> None:
    assert health_timeout(94) < 70
    assert health_timeout(400_000) > 3600


def test_the_key_is_sent_and_a_proxy_is_not_used(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "key").write_text("abc\n")
    key = endpoint.read_api_key(str(tmp_path / "key"))
    verify(Request(engine.url, api_key=key, measure=False))
    assert engine.headers[-1]["Authorization"] == "Bearer abc"
    with pytest.raises(BadInputError, match="can't read the API key"):
        endpoint.read_api_key(str(tmp_path / "none"))


def test_an_address_that_is_none() -> None:
    with pytest.raises(BadInputError):
        ChatClient("127.0.0.1:8080")


def test_memory_of_a_tree(tmp_path: Path) -> None:
    for pid, parent, rss in ((10, 1, 2048), (11, 10, 1024), (12, 11, 512), (13, 1, 9999)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1")
        (folder / "status").write_text(
            f"Name:\tx\nVmHWM:\t{rss * 2} kB\nVmRSS:\t{rss} kB\nRssAnon:\t{rss // 2} kB\n"
        )
    found = tree_memory(10, str(tmp_path))
    assert found is not None
    assert (found["processes"], sorted(found["pids"])) == (3, [10, 11, 12])
    assert (found["rss_mib"], found["rss_anon_mib"], found["peak_rss_mib"]) == (3.5, 1.8, 7.0)
    assert tree_memory(99, str(tmp_path)) is None
