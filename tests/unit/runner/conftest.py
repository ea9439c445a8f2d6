"""What a decision about a host takes, with a model whose header is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests import descriptors, samples

from infra_llm.core.model import ModelProfile
from infra_llm.runner.host import (
    Decision,
    decide_host,
)

Decide = Callable[..., Decision]


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return descriptors.profile("tinyllama-1.1b.Q4_K_M", tmp_path_factory.mktemp("model"))


@pytest.fixture
def headers(profile: ModelProfile) -> list[str]:
    """Names of the models whose headers were read."""
    return []


@pytest.fixture
def decide(profile: ModelProfile, headers: list[str]) -> Decide:
    def read(artifact: Mapping[str, Any], site: Mapping[str, Any]) -> ModelProfile:
        headers.append(artifact["filename"])
        return profile

    def decide(
        audit: dict[str, Any] | None = None,
        wishes: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        name: str = "node",
    ) -> Decision:
        return decide_host(
            name, audit or samples.audit(), wishes or samples.wishes(), run or {}, read
        )

    return decide
