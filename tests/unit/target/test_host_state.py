"""What a host remembers holds addresses with passwords: nobody but root reads it, at no moment."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.layout import layout_of
from infra_llm.target import audit

MODULE = Path(__file__).parents[3] / "playbooks" / "library" / "host_state.py"


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The module's, where the umask takes nothing away; the mode is checked on the way, too."""
    before = os.umask(0)
    module = runpy.run_path(str(MODULE))
    dump = json.dump

    def watched(document: Any, file: Any, **more: Any) -> None:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600, "could be read while it is written"
        dump(document, file, **more)

    monkeypatch.setattr(json, "dump", watched)
    yield module["write"]
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_root_reads_the_state(write: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "infra-llm" / "state.json"
    write(str(path), {"site": "https://user:secret@index"})
    assert mode(path) == 0o600
    assert json.loads(path.read_text()) == {"site": "https://user:secret@index"}
    # The engine's own folder is in it.
    assert mode(path.parent) == 0o755


@pytest.mark.parametrize("left", ["state.json", "state.json.new"])
def test_one_that_others_could_read_is_closed(
    left: str, write: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / left).write_text("old")
    (tmp_path / left).chmod(0o644)
    write(str(tmp_path / "state.json"), {})
    assert [(path.name, mode(path)) for path in tmp_path.iterdir()] == [("state.json", 0o600)]


def test_the_audit_names_what_others_can_read(tmp_path: Path) -> None:
    state, stack = tmp_path / "state.json", tmp_path / "stack.json"
    layout = {**layout_of(), "state": str(state), "stack_state": str(stack)}
    assert audit._readable(layout) == []
    for path, bits in ((state, 0o600), (stack, 0o640)):
        path.write_text("{}")
        path.chmod(bits)
    assert audit._readable(layout) == [str(stack)]
    state.chmod(0o604)
    assert audit._readable(layout) == [str(state), str(stack)]
