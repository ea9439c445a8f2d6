"""The launcher of the wheel takes every flag that a plan for a host without a GPU may hold."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.descriptors import profile

from infra_llm.content import PACKAGE, content_root
from infra_llm.core.fit import FitWishes, plan_launch
from infra_llm.core.hardware import Cpu, HostHardware, Memory

SCRIPT = content_root() / "roles" / "llm_service" / "files" / "launch.py"


def launcher() -> Any:
    spec = importlib.util.spec_from_file_location("launch", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Names:
    """Stand-in for xllamacpp's enums: every name is its own value."""

    def __getattr__(self, name: str) -> str:
        return name


def library() -> Any:
    """Stand-in for the module xllamacpp."""
    return SimpleNamespace(
        CommonParams=lambda: SimpleNamespace(
            model=SimpleNamespace(),
            cpuparams=SimpleNamespace(),
            cpuparams_batch=SimpleNamespace(),
            mmproj=SimpleNamespace(),
            speculative=SimpleNamespace(draft=SimpleNamespace(mparams=SimpleNamespace())),
        ),
        common_speculative_type=Names(),
        ggml_type=Names(),
        llama_flash_attn_type=Names(),
        llama_load_mode=Names(),
        ggml_numa_strategy=Names(),
    )


def launch(flags: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m.gguf", "alias": "m", "host": "127.0.0.1", "port": 8080, "flags": flags}


@pytest.mark.parametrize("ram", [4600, 6000, 65536])
@pytest.mark.parametrize("kv_type", [None, "q8_0"])
def test_every_planned_flag_is_taken(tmp_path: Path, ram: int, kv_type: str | None) -> None:
    machine = HostHardware(
        cpu=Cpu(cores=4, threads=4, usable_threads=4, instruction_sets=["avx2", "fma", "f16c"]),
        memory=Memory(total_mib=ram),
    )
    wishes = FitWishes(context=1024, kv_type=kv_type)
    plan = plan_launch(machine, profile("llama-2-7b.Q4_0", tmp_path), wishes)
    params = launcher().parameters(library(), launch(json.loads(json.dumps(plan.flags))))
    assert params.n_ctx == 1024
    assert params.cpuparams.n_threads == 4
    assert params.fit_params is False
    assert params.cache_type_k == f"GGML_TYPE_{plan.flags['cache_type_k'].upper()}"
    assert getattr(params, "no_extra_bufts", False) is (plan.flags.get("repack") is False)


def test_a_draft_model_and_an_encoder_are_loaded_beside_it() -> None:
    flags = {"spec_type": "draft-simple", "spec_draft_n_max": 3, "n_gpu_layers_draft": 0}
    beside = {"projector": "eye.gguf", "draft": "small.gguf"}
    params = launcher().parameters(library(), {**launch(flags), "companions": beside})
    assert params.mmproj.path == "eye.gguf"
    assert params.speculative.draft.mparams.path == "small.gguf"
    assert params.speculative.types == ["COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE"]
    assert params.speculative.draft.n_max == 3


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ({"mmap": True, "mlock": False}, "LLAMA_LOAD_MODE_MMAP"),
        ({"mmap": True, "mlock": True}, "LLAMA_LOAD_MODE_MMAP_MLOCK"),
        ({"mmap": False, "mlock": True}, "LLAMA_LOAD_MODE_MLOCK"),
        ({"mmap": False, "mlock": False}, "LLAMA_LOAD_MODE_NONE"),
    ],
)
def test_mmap_and_mlock_are_one_load_mode(flags: dict[str, bool], mode: str) -> None:
    assert launcher().parameters(library(), launch(flags)).load_mode == mode


def test_an_unknown_flag_stops_the_start() -> None:
    with pytest.raises(SystemExit, match="no flag tensor_split"):
        launcher().parameters(library(), launch({"tensor_split": [1, 1]}))


def test_other_hardware_stops_the_start_with_78(tmp_path: Path) -> None:
    """As on a host: launch.py and identity.py in one folder, run isolated."""
    for source in (SCRIPT, PACKAGE / "target" / "probe" / "identity.py"):
        shutil.copy(source, tmp_path)
    (tmp_path / "launch.json").write_text(json.dumps(launch({}) | {"release": str(tmp_path)}))
    (tmp_path / "hardware.json").write_text(json.dumps({"memory": "7 GiB"}))
    command = [sys.executable, "-I", str(tmp_path / SCRIPT.name), str(tmp_path / "launch.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 78
    assert "hardware changed: run infra-llm provision (memory 7 GiB -> " in done.stderr
    (tmp_path / "hardware.json").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "no llama-server and no xllamacpp" in done.stderr


def test_a_container_is_told_its_image_and_the_users_number(tmp_path: Path) -> None:
    """The client is executed with what only the host knows; a stand-in for it says its words."""
    (tmp_path / "image.json").write_text(json.dumps({"runtime": "docker", "id": "sha256:abc"}))
    wished = launch({}) | {
        "release": str(tmp_path),
        "program": ["/bin/echo"],
        "arguments": [
            "run", "--user={user}", "--ulimit=nofile={nofile}", "--env={x}", "{image}", "serve",
        ],
        "container": {"engine": "docker", "name": "x", "user": "root"},
    }  # fmt: skip
    (tmp_path / "launch.json").write_text(json.dumps(wished))
    command = [sys.executable, "-I", str(SCRIPT), str(tmp_path / "launch.json")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    expected = f"run --user=0:0 --ulimit=nofile={most}:{most} --env={{x}} sha256:abc serve\n"
    assert said == expected


ENGINE = """
import subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(inner.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Runs; a process that ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(launch_file: Path) -> tuple[subprocess.Popen[str], int]:
    """An engine with a server of its own below it, as the launcher starts it; that one's pid."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT), str(launch_file)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    return process, int(process.stdout.readline())


def test_what_a_killed_engine_left_is_ended_by_the_next_start(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "launch.json")
        engine = {"program": [sys.executable, "-c", ENGINE], "arguments": []}
        files[-1].write_text(json.dumps(engine))
    first, left = start(files[0])
    other, beside = start(files[1])
    again = None
    try:
        first.kill()
        first.wait()
        assert alive(left), "this test needs a server that outlives its engine"
        again, inner = start(files[0])
        deadline = time.monotonic() + 10
        while alive(left):
            assert time.monotonic() < deadline, "the server of the killed engine still runs"
            time.sleep(0.05)
        assert alive(inner)
        assert alive(beside), "another service's was ended, too"
    finally:
        for process in filter(None, (first, other, again)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
