"""Out of memory is told from other ends by the engines' own words, from public logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.errors import HostFailedError
from infra_llm.target import unit_start
from infra_llm.target.service import ServiceState
from infra_llm.target.start_failure import out_of_memory
from infra_llm.target.unit_start import StartFailedError, has_unit, remove_unit, start_unit

# From ggml-org/llama.cpp#20431, #26297, #11476, ollama/ollama#6860, abetlen/llama-cpp-python#1944.
ENDS = [
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 0: "
    "cudaMalloc failed: out of memory",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624",
    "1.06.520.086 E graph_reserve: failed to allocate compute buffers",
    "llama_kv_cache_init: failed to allocate buffer for kv cache",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "oom-kill, exit status 9",
]
OTHERS = [
    "error while loading shared libraries: libgomp.so.1: cannot open shared object file",
    "llama_model_load: error loading model: tensor 'blk.1' data is not within the file bounds",
    "CUDA error: no kernel image is available for execution on the device",
    "couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
    "infra-llm: the engine did not answer within 60 s (HTTP 503)",
    "exit-code, exit status 1",
]


@pytest.mark.parametrize("line", ENDS)
def test_the_line_that_says_it_is_found(line: str) -> None:
    assert out_of_memory([*OTHERS, line, "infra-llm: the engine ended"]) == line


def test_other_ends_are_none() -> None:
    assert out_of_memory(OTHERS) == ""


class Systemd:
    """A stand-in for systemctl and the journal."""

    def __init__(self, status: int, lines: list[str], active: bool = False) -> None:
        self.status, self.lines, self.asked = status, lines, [""][:0]
        self.stops = True
        self.state = ServiceState("u", "systemd", exists=True, active=active, enabled=active)

    def __call__(self, command: Sequence[str], seconds: float) -> tuple[int, str]:
        self.asked.append(" ".join(command[1:]))
        if command[1] == "stop" and not self.stops:
            return -9, "{} did not end within {:.0f} s".format(" ".join(command), seconds)
        starts = command[1] in ("start", "restart")
        return (self.status, "Job for u.service failed.") if starts else (0, "")


def use(monkeypatch: pytest.MonkeyPatch, systemd: Systemd) -> None:
    monkeypatch.setattr(unit_start, "service_state", lambda _: systemd.state)
    monkeypatch.setattr(unit_start, "last_log_lines", lambda *_: systemd.lines)


def test_a_unit_that_runs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(0, [], active=True)
    use(monkeypatch, systemd)
    assert start_unit("u", "started", 60, systemd) is False
    assert systemd.asked == []
    assert start_unit("u", "restarted", 60, systemd) is True
    assert systemd.asked == ["daemon-reload", "enable u", "reset-failed u", "restart u"]


def test_a_start_that_fails_is_stopped_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["loading", ENDS[0], "infra-llm: the engine ended before it answered"]
    systemd = Systemd(1, lines)
    use(monkeypatch, systemd)
    with pytest.raises(StartFailedError) as caught:
        start_unit("u", "started", 60, systemd)
    assert caught.value.out_of_memory == ENDS[0]
    said: Any = str(caught.value)
    assert "u did not start: the engine ended before it answered" in said
    assert "loading" in said
    assert systemd.asked[-2:] == ["stop u", "reset-failed u"]


def test_a_unit_without_a_word_names_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(1, [])
    use(monkeypatch, systemd)
    with pytest.raises(StartFailedError, match="journalctl -u u") as caught:
        start_unit("u", "started", 60, systemd)
    assert caught.value.out_of_memory == ""


def test_a_unit_that_does_not_stop_either_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd = Systemd(1, ["loading"])
    systemd.stops = False
    use(monkeypatch, systemd)
    with pytest.raises(StartFailedError, match="nor does it stop: systemctl stop u did not end"):
        start_unit("u", "started", 60, systemd)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """/etc/systemd/system with our unit, a drop-in of the administrator, and another's unit."""
    wants = tmp_path / "multi-user.target.wants"
    for name in ("u.service", "u.service.d/mine.conf", "other.service"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[Service]\n")
    wants.mkdir()
    for name in ("u.service", "other.service"):
        (wants / name).symlink_to(tmp_path / name)
    return tmp_path


def left(units: Path) -> list[str]:
    return sorted(str(path.relative_to(units)) for path in units.rglob("*") if not path.is_dir())


LEFT = ["multi-user.target.wants/other.service", "other.service", "u.service.d/mine.conf"]


def test_a_unit_is_stopped_before_its_files_go(units: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def run(command: Sequence[str], _: float) -> tuple[int, str]:
        seen.append((" ".join(command[1:]), (units / "u.service").exists()))
        return 0, ""

    assert has_unit("u", str(units))
    assert remove_unit("u", str(units), str(units), run) is True
    assert seen == [("stop u", True), ("daemon-reload", False), ("reset-failed u", False)]
    assert left(units) == LEFT
    assert not has_unit("u", str(units))
    assert remove_unit("u", str(units), str(units), run) is False
    assert len(seen) == 3


def test_where_systemd_is_not_pid_1_only_the_files_go(units: Path) -> None:
    systemd = Systemd(1, [])
    assert remove_unit("u", str(units), str(units / "none"), systemd) is True
    assert systemd.asked == []
    assert left(units) == LEFT


def test_a_unit_that_does_not_stop_keeps_its_files(units: Path) -> None:
    systemd = Systemd(0, [])
    systemd.stops = False
    with pytest.raises(HostFailedError, match="systemctl stop u did not end within") as caught:
        remove_unit("u", str(units), str(units), systemd)
    assert "stop it by hand" in str(caught.value)
    assert (units / "u.service").exists()
