"""Measured figures are kept a host, and damaged ones count as none."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra_llm.readers.measurements import keep_measured, load_measured


def test_they_come_back_for_the_host_that_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_measured("a") == {}
    keep_measured("a", {"fingerprint": "f", "memory_bandwidth_gbs": 40.0})
    keep_measured("../../b", {"fingerprint": "g"})
    assert load_measured("a") == {"fingerprint": "f", "memory_bandwidth_gbs": 40.0}
    assert load_measured("../../b") == {"fingerprint": "g"}
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"measured"}


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_damaged_ones_count_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_measured("a", {"fingerprint": "f"})
    [path] = tmp_path.rglob("*.json")
    path.write_text(text)
    assert load_measured("a") == {}
