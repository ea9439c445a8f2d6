"""The oracle's comparison: recorded answers pass, one beyond its bound fails the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.accuracy import sweep
from tests.accuracy.headers import write_header
from tests.accuracy.logs import load

from infra_llm.readers.gguf_file import read_gguf

ENTRIES = load("architectures.json")["models"][:40]
MODELS = sweep.in_fixture()[:40]


class StandIn:
    """Tools that answer what the fixture holds."""

    build = "0"
    folder = Path("/nowhere")

    @contextmanager
    def servers(self, count: int) -> Iterator[list[str]]:
        yield [f"127.0.0.1:{n}" for n in range(count)]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    rows = {entry["name"]: [dict(row) for row in entry["rows"]] for entry in ENTRIES}

    def ask_all(_tools: Any, models: Any, _folder: Path) -> Iterator[Any]:
        for name, model, _file in models:
            yield name, model, rows[name]

    monkeypatch.setattr(sweep, "ask_all", ask_all)
    return rows


def test_what_the_engine_answered_passes(
    answers: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.check(StandIn(), MODELS) == 0  # type: ignore[arg-type]
    assert "BEYOND" not in capsys.readouterr().out


@pytest.mark.parametrize(("part", "factor"), [("compute_mib", 1.02), ("cache_mib", 1.01)])
def test_another_answer_fails(
    answers: dict[str, Any], part: str, factor: float, capsys: pytest.CaptureFixture[str]
) -> None:
    row = answers["glm4moe-moe"][0]
    old = row[part]
    row[part] = [old[0] * factor, *old[1:]] if isinstance(old, list) else old * factor
    assert sweep.check(StandIn(), MODELS) == 1  # type: ignore[arg-type]
    (line,) = (t for t in capsys.readouterr().out.splitlines() if t.startswith("BEYOND"))
    assert "glm4moe-moe" in line


def test_too_few_architectures_fail(answers: dict[str, Any]) -> None:
    assert sweep.check(StandIn(), MODELS[:8]) == 1  # type: ignore[arg-type]


def test_a_written_header_is_read_back_as_the_same_model(tmp_path: Path) -> None:
    for name, model, _file in MODELS[:10]:
        write_header(model, tmp_path / "m.gguf")
        found = read_gguf(tmp_path / "m.gguf")
        assert (found.architecture, found.tensors) == (model.architecture, model.tensors), name
        assert {*model.hyper} <= {*found.hyper}
        assert (tmp_path / "m.gguf").stat().st_size >= model.tensor_bytes
