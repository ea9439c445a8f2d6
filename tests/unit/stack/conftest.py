from __future__ import annotations

import pytest
from tests.unit.stack.golden import probe_all

from infra_llm.core.hardware import HostHardware


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HostHardware]:
    """Every machine fixture, probed."""
    return probe_all(tmp_path_factory.mktemp("machines"))
