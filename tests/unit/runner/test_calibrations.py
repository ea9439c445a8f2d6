"""What runs taught is kept for every host, by processes side by side; damaged counts as none."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests import samples

from infra_llm.core.fit.calibration import Calibration, Figure
from infra_llm.readers.calibrations import keep_calibrations, load_calibrations
from infra_llm.runner.host import learned

JUDGE = Path(__file__).parents[3] / "playbooks" / "action_plugins" / "judge.py"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "infra-llm" / "calibrations.json"


def once(value: float) -> Calibration:
    figure = Figure(1, value, value, value)
    return Calibration(figure, {"on": Figure(1, 1.5, 1.5, 1.5)}, None, (f"run {value}",))


def keep_often(value: float) -> None:
    for _ in range(5):
        keep_calibrations({"key": once(value)})


def test_they_come_back_merged(cache: Path) -> None:
    assert load_calibrations() == {}
    keep_calibrations({})
    assert not cache.exists()
    keep_calibrations({"a": once(2.0), "b": once(7.0)})
    keep_calibrations({"a": once(4.0)})
    found = load_calibrations()
    assert found["a"].overhead == Figure(2, 3.0, 2.0, 4.0)
    assert found["a"].apart == ("run 2.0", "run 4.0")
    assert found["b"] == once(7.0)


def test_processes_side_by_side_lose_nothing() -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=keep_often, args=(float(n),)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    overhead = load_calibrations()["key"].overhead
    assert overhead is not None
    assert (overhead.count, overhead.low, overhead.high) == (20, 0.0, 3.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        "null",
        '{"schema": "infra-llm/calibrations/1"}',
        '{"schema": "infra-llm/calibrations/1", "calibrations": [1]}',
        '{"schema": "infra-llm/calibrations/1", "calibrations": {"a": {"overhead": 3}}}',
        '{"schema": "infra-llm/calibrations/1", "calibrations": {"a": {"overhead":'
        ' {"count": 1, "mean": NaN, "low": 0, "high": 1}}}}',
        '{"schema": "infra-llm/calibrations/0", "calibrations": {"a": {}}}',
        "\x00\xff",
    ],
)
def test_damaged_ones_count_as_none_and_are_written_over(cache: Path, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode("latin-1"))
    assert load_calibrations() == {}
    keep_calibrations({"a": once(2.0)})
    assert load_calibrations() == {"a": once(2.0)}
    json.loads(cache.read_text())


def test_a_verified_run_teaches_what_lies_outside_of_the_buffers() -> None:
    """The sample's plan has 200 MiB in all, its run 205."""
    release = samples.desired()["engine"]["methods"][0]["release"]
    found = learned(samples.desired(), samples.hardware().to_dict(), samples.measured(), release)
    [(key, known)] = found.items()
    assert key == "llama|release-b11194|cpu x86_64"
    assert known.overhead == Figure(1, 5.0, 5.0, 5.0)
    assert known.compute == {}


def judge(desired: dict[str, Any], measured: dict[str, Any], link: str) -> list[str]:
    """The action plugin's work on the controller; the modules that it ran."""
    spec = importlib.util.spec_from_file_location("judge", JUDGE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ran: list[str] = []

    def execute(module_name: str, **_: Any) -> dict[str, Any]:
        ran.append(module_name)
        return {"stat": {"lnk_target": link}} if module_name.endswith("stat") else {}

    plugin = object.__new__(module.ActionModule)
    plugin._task = SimpleNamespace(
        args={"desired": desired, "measured": measured, "hardware": samples.hardware().to_dict()},
        async_val=0,
        check_mode=False,
    )
    plugin._execute_module = execute
    module.ActionBase.run = lambda *_: {}
    plugin.run(None, {"inventory_hostname": "node"})
    return ran


def test_judge_keeps_them_under_the_build_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ansible.plugins.action import ActionBase

    monkeypatch.setattr(ActionBase, "run", ActionBase.run)  # put back what `judge` replaces
    assert judge(samples.desired(), samples.measured(), "") == ["host_state"]
    assert list(load_calibrations()) == ["llama|release-b11194|cpu x86_64"]
    several = samples.desired()
    several["engine"]["methods"] *= 2
    link = "/opt/infra-llm/llama_cpp/releases/wheel-2026.10.11549-1a2b3c4d"
    assert judge(several, samples.measured(), link)[-1] == "host_state"
    assert "llama|wheel-2026.10.11549|cpu x86_64" in load_calibrations()


def test_a_verdict_of_no_teaches_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    from ansible.plugins.action import ActionBase

    monkeypatch.setattr(ActionBase, "run", ActionBase.run)
    judge(samples.desired(), samples.measured(answer=None, answered=False), "")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_fails_no_host(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from ansible.plugins.action import ActionBase

    monkeypatch.setattr(ActionBase, "run", ActionBase.run)
    cache.parent.write_text("a file where the folder should be")
    assert judge(samples.desired(), samples.measured(), "") == ["host_state"]
