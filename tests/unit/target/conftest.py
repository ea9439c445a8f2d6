from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra_llm.target.transport import Settings

from .loopback import Loopback


@pytest.fixture
def server() -> Iterator[Loopback]:
    loopback = Loopback()
    yield loopback
    loopback.close()


@pytest.fixture
def settings() -> Settings:
    """Quick: no real waiting between tries."""
    return Settings(connect_seconds=2, read_seconds=10, attempts=3, backoff_seconds=0.01)
