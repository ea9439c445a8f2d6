from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.standins import machine as standin

from infra_llm.core.gpu_table import complete
from infra_llm.core.hardware import HostHardware
from infra_llm.readers.gpu_table import load_gpu_table
from infra_llm.readers.probe_payload import pynvml_payload
from infra_llm.target.probe import ProbeOptions, probe

Prober = Callable[..., HostHardware]


@pytest.fixture(scope="session")
def standins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return standin.compile_standins(tmp_path_factory.mktemp("standins"))


@pytest.fixture
def probe_machine(
    tmp_path: Path, standins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Prober:
    """Probe a machine (by name, or as a dictionary) with the real readers and real pynvml."""

    def run(wanted: str | dict[str, Any], timeout_s: float = 20.0, **options: Any) -> HostHardware:
        machine = standin.load(wanted) if isinstance(wanted, str) else wanted
        root = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        topology = standin.build(machine, root, *standins)
        monkeypatch.setenv("INFRA_LLM_STANDIN_GPUS", str(topology))
        options.setdefault("pynvml_source", pynvml_payload())
        host = probe(str(root), ProbeOptions(call_timeout_s=timeout_s, **options))
        complete(host, load_gpu_table())
        return host

    return run
