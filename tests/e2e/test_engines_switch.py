"""Switching engines on one systemd guest: llama.cpp, Ollama (a stand-in) and back, by one variable.

The stand-in for Ollama is an archive of the release's layout whose program speaks the used part of
its API over a real llama.cpp server (tests/standins/ollama). The tests run in order, each on the
host that the one before left.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from tests.e2e.clients import talk
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import MODEL, ssh_words, tunnel
from tests.standins.ollama.build import build

CACHE = ROOT / ".lab" / "cache"
QUESTION = [{"role": "user", "content": "What is 1+1?"}]
DROP_IN = "/etc/systemd/system/infra-llm.service.d/own.conf"
Wish = Callable[..., Cli]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("engines") / "lab.ini"
    words = ("--name", "engines", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "node1")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "engines")


@pytest.fixture(scope="module")
def releases(lab: Path) -> dict[str, dict[str, Any]]:
    """Three stand-in releases in a folder on the host, as a site's copied disk would be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    made = {
        "old": build(CACHE, "0.34.4"),
        "new": build(CACHE, "0.35.0"),
        "broken": build(CACHE, "0.35.1", answer="rubbish"),
    }
    on_host(lab, "install -d /srv/artifacts")
    for artifact in made.values():
        line = shlex.join(ssh_words(lab, "node1"))
        path = CACHE / artifact["filename"]
        run("sh", "-c", f"{line} sudo tee /srv/artifacts/{path.name} < {path} > /dev/null")
    return made


@pytest.fixture(scope="module")
def wish(lab: Path, releases: dict[str, dict[str, Any]]) -> Wish:
    """A command whose inventory wishes an engine, and of Ollama a release."""

    def make(engine: str, release: str = "old", **more: Any) -> Cli:
        variables: dict[str, Any] = {
            "infra_llm_engine": engine,
            "infra_llm_threads": 1,
            "infra_llm_context": 2048,
            "infra_llm_parallel": 2,
            "llama_cpp_install_method": "wheel",
            "infra_llm_artifact_folders": ["/srv/artifacts"],
            "infra_llm_engine_artifacts": {
                "ollama": {"release": {platform.machine(): releases[release]}}
            },
            **more,
        }
        folder = lab.with_name("host_vars")
        folder.mkdir(exist_ok=True)
        (folder / "node1.json").write_text(json.dumps(variables))
        return Cli(lab)

    return make


def on_host(lab: Path, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, "node1"), f"sudo sh -c {shlex.quote(script)}", check=check).strip()


def node(done: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = done["report"]["hosts"]["node1"]
    return found


def version(lab: Path) -> str:
    with tunnel(lab, "node1", 8080) as port:
        told = run("curl", "-sS", f"http://127.0.0.1:{port}/api/version")
    return str(json.loads(told)["version"])


def test_llama_cpp_serves_first(wish: Wish) -> None:
    host = node(wish("llama.cpp")("provision"))
    assert host["result"] == "serving", host["error"]


def test_real_clients_talk_to_llama_cpp(lab: Path) -> None:
    with tunnel(lab, "node1", 8080) as port:
        talk(f"http://127.0.0.1:{port}/v1", MODEL, "2")


def test_one_variable_switches_to_ollama_and_a_second_run_finds_nothing(
    wish: Wish, lab: Path
) -> None:
    host = node(wish("ollama")("provision"))
    assert host["result"] == "serving", host["error"]
    assert "engine llama.cpp -> ollama" in [change["text"] for change in host["changes"]]
    assert version(lab) == "0.34.4"
    checks = {check["name"]: check for check in host["verdict"]["checks"]}
    assert checks["placement"]["ok"]
    assert "on the CPU, as planned" in checks["placement"]["detail"]
    again = node(wish("ollama")("provision"))
    assert again["result"] == "unchanged", again["changes"]
    assert on_host(lab, "test -L /opt/infra-llm/llama_cpp/current && echo kept") == "kept"


def test_the_plan_reaches_the_server_that_ollama_starts(lab: Path) -> None:
    said = on_host(lab, "journalctl -u infra-llm -o cat | grep 'starting .*llama-server' | tail -1")
    for words in ("-c 4096 -np 2", "-ngl 0", "-t 1", "--cache-type-k f16", "--flash-attn on"):
        assert words in said
    told = on_host(lab, "journalctl -u infra-llm -o cat | grep 'server config' | tail -1")
    environment = json.loads(told.partition("server config ")[2])
    assert environment["LLAMA_ARG_CACHE_RAM"] == "0"
    assert environment["LLAMA_ARG_FIT"] == "off"
    assert environment["OLLAMA_KEEP_ALIVE"] == "-1"
    assert environment["OLLAMA_MODELS"] == "/var/lib/infra-llm/ollama/models"


def test_the_service_user_owns_what_ollama_writes_and_nothing_else(lab: Path) -> None:
    assert on_host(lab, "stat -c %U:%a /var/lib/infra-llm/ollama") == "infra-llm:750"
    others = "find /opt/infra-llm /etc/infra-llm /var/lib/infra-llm/models -user infra-llm"
    assert on_host(lab, others) == ""
    # The file that was sent is not kept beside the copy that Ollama made of it.
    large = "find /var/lib/infra-llm/ollama -size +50M | wc -l"
    assert on_host(lab, large) == "1"


def test_openai_and_langchain_stream_from_it_in_parallel(lab: Path) -> None:
    with tunnel(lab, "node1", 8080) as port:
        talk(f"http://127.0.0.1:{port}/v1", MODEL, "2")


def test_the_ollama_client_works_with_it(lab: Path) -> None:
    with tunnel(lab, "node1", 8080) as port:
        client = ollama.Client(host=f"http://127.0.0.1:{port}")
        assert [model.model for model in client.list().models] == [f"{MODEL}:latest"]
        options = {"temperature": 0, "num_predict": 32}
        stream = client.chat(model=MODEL, messages=QUESTION, options=options, stream=True)
        parts = [part.message.content or "" for part in stream]
        assert "2" in "".join(parts)
        assert len(parts) > 3
        once = client.generate(model=MODEL, prompt="What is 1+1?", options=options)
        assert "2" in once.response
        shown = client.show(MODEL)
        assert "num_ctx" in str(shown.parameters)
        loaded = client.ps().models
        assert [model.name for model in loaded] == [f"{MODEL}:latest"]
        assert loaded[0].size_vram == 0
        with pytest.raises(ollama.ResponseError, match="not found"):
            client.show("nothing-of-that-name")


def test_an_upgrade_keeps_drop_ins_and_models_and_the_old_release(wish: Wish, lab: Path) -> None:
    on_host(lab, f"mkdir -p {Path(DROP_IN).parent} && printf '[Service]\\nNice=5\\n' > {DROP_IN}")
    before = on_host(lab, "ls -i /var/lib/infra-llm/ollama/models/blobs")
    host = node(wish("ollama", "new")("provision"))
    assert host["result"] == "serving", host["error"]
    assert version(lab) == "0.35.0"
    assert on_host(lab, "systemctl show -p Nice infra-llm") == "Nice=5"
    assert on_host(lab, "ls -i /var/lib/infra-llm/ollama/models/blobs") == before
    assert len(on_host(lab, "ls /opt/infra-llm/ollama/releases").split()) == 2
    assert node(wish("ollama", "new")("provision"))["result"] == "unchanged"


def test_a_release_that_answers_rubbish_is_taken_back_by_itself(wish: Wish, lab: Path) -> None:
    host = node(wish("ollama", "broken")("provision", expect=6))
    assert "rubbish" in host["error"]
    assert version(lab) == "0.35.0"
    assert node(wish("ollama", "new")("provision"))["result"] == "unchanged"


def test_a_downgrade_needs_no_download(wish: Wish, lab: Path) -> None:
    on_host(lab, "mv /srv/artifacts /srv/gone")
    try:
        host = node(wish("ollama", "old")("provision"))
    finally:
        on_host(lab, "mv /srv/gone /srv/artifacts")
    assert host["result"] == "serving", host["error"]
    assert version(lab) == "0.34.4"


def test_a_model_that_somebody_deleted_comes_back(wish: Wish, lab: Path) -> None:
    with tunnel(lab, "node1", 8080) as port:
        ollama.Client(host=f"http://127.0.0.1:{port}").delete(MODEL)
    host = node(wish("ollama")("provision"))
    assert host["roles"] == ["preflight", "ollama_model", "llm_verify"]
    assert host["result"] == "serving", host["error"]


def test_back_to_llama_cpp_and_nothing_is_lost(wish: Wish, lab: Path) -> None:
    host = node(wish("llama.cpp")("provision"))
    assert host["result"] == "serving", host["error"]
    assert "llama_cpp" in host["roles"]
    assert node(wish("llama.cpp")("provision"))["result"] == "unchanged"
    assert on_host(lab, "find /var/lib/infra-llm/ollama -size +50M | wc -l") == "1"


def test_an_engine_that_answers_rubbish_gives_the_old_engine_its_place_back(
    wish: Wish, lab: Path
) -> None:
    host = node(wish("ollama", "broken")("provision", expect=6))
    assert "rubbish" in host["error"]
    with tunnel(lab, "node1", 8080) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        answer = client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=32,
        )
    assert "2" in (answer.choices[0].message.content or "")
    assert node(wish("llama.cpp")("provision"))["result"] == "unchanged"


def test_with_a_key_its_models_answer_but_are_not_to_be_changed(wish: Wish, lab: Path) -> None:
    host = node(wish("ollama", infra_llm_api_key="auto")("provision"))
    assert host["result"] == "serving", host["error"]
    key = on_host(lab, "cat /etc/infra-llm/api-key")
    with tunnel(lab, "node1", 8080) as port:
        named = {"Authorization": f"Bearer {key}"}
        client = ollama.Client(host=f"http://127.0.0.1:{port}", headers=named)
        answer = client.chat(model=MODEL, messages=QUESTION, options={"temperature": 0})
        assert "2" in (answer.message.content or "")
        for change in (lambda: client.delete(MODEL), lambda: client.pull("other")):
            with pytest.raises(ollama.ResponseError) as refused:
                change()
            assert refused.value.status_code == 403
        with pytest.raises(ollama.ResponseError) as stranger:
            ollama.Client(host=f"http://127.0.0.1:{port}").list()
        assert stranger.value.status_code == 401


def test_removal_takes_both_engines_away(wish: Wish, lab: Path) -> None:
    wish("ollama")("remove")
    left = "ls -d /opt/infra-llm /etc/infra-llm /var/lib/infra-llm 2>/dev/null"
    assert on_host(lab, left, check=False) == ""
    assert on_host(lab, "id infra-llm 2>&1", check=False).endswith("no such user")
