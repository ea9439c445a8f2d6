"""A real embedding model (all-MiniLM-L6-v2) on a systemd host: it does not chat, and need not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from tests import minilm_gguf
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel

from infra_llm.target.endpoint_load import cosine

HOST = "e1"
CACHE = Path.home() / ".cache/infra-llm/e2e"
QUESTION = "How do I change my password?"
ANSWERS = (
    "To choose a new password, open the settings and press Reset.",
    "The museum opens at ten and closes at six.",
    "Whales are mammals that live in the sea.",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("embedding") / "lab.ini"
    words = ("--name", "e2e-embedding", "--inventory", str(inventory))
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", f"{HOST}:trixie")
    model = minilm_gguf.write(inventory.with_name("minilm.gguf"), CACHE)
    with model.open("rb") as stream:
        copy = "sudo install -d /srv/models && sudo tee /srv/models/minilm.gguf >/dev/null"
        subprocess.run([*ssh_words(inventory, HOST), copy], stdin=stream, check=True, timeout=120)
    wishes = {
        "infra_llm_model": "minilm",
        "infra_llm_models": {
            "minilm": {
                "filename": "minilm.gguf",
                "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
                "size": model.stat().st_size,
                "licence": "MIT",
                "places": [{"kind": "path", "path": str(model)}],
            }
        },
        "infra_llm_artifact_folders": ["/srv/models"],
        "infra_llm_parallel": 2,
        "llama_cpp_install_method": "wheel",
    }
    (inventory.parent / "host_vars").mkdir()
    (inventory.parent / "host_vars" / f"{HOST}.json").write_text(json.dumps(wishes))
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "e2e-embedding")


@pytest.fixture(scope="module")
def served(lab: Path) -> dict[str, Any]:
    done = Cli(lab)("provision", expect=None)
    host: dict[str, Any] = done["report"]["hosts"][HOST]
    assert done["code"] == 0, host.get("error")
    return host


def test_the_proof_compares_meanings_and_asks_for_no_answer(served: dict[str, Any]) -> None:
    assert served["result"] == "serving"
    checks = {check["name"]: check for check in served["verdict"]["checks"]}
    assert "answer" not in checks
    assert checks["meaning"]["ok"], checks["meaning"]
    meaning = served["measured"]["meaning"]
    assert meaning["length"] == 384
    assert meaning["near"] > meaning["far"] + 0.1, meaning
    assert checks["speed"]["ok"], checks["speed"]
    assert checks["parallel"]["detail"].startswith("2 at once")
    assert checks["layers"]["ok"], checks["layers"]
    assert served["endpoint"]["curl"].count("/v1/embeddings ") == 1


def test_the_plan_knows_that_it_embeds_and_bounds_what_it_takes(served: dict[str, Any]) -> None:
    plan = served["plan"]
    assert plan["flags"]["embeddings"] is True
    # A text in one micro-batch, as many tokens as the model reads.
    assert plan["flags"]["ubatch_size"] == plan["flags"]["batch_size"] == 512
    assert plan["flags"]["ctx_size"] == 1024
    assert plan["host"]["kv_cache_mib"] == 0
    used = served["measured"]["memory"]["rss_mib"]
    assert abs(used / plan["host"]["total_mib"] - 1) < 0.15, (used, plan["host"])
    assert used <= plan["host"]["high_mib"]


def test_a_second_run_finds_nothing(lab: Path, served: dict[str, Any]) -> None:
    host = Cli(lab)("provision")["report"]["hosts"][HOST]
    assert (host["result"], host["changed_tasks"]) == ("unchanged", 0), host["changes"]


def test_real_clients_find_the_right_answer_in_parallel(lab: Path, served: dict[str, Any]) -> None:
    with tunnel(lab, HOST, 8080) as port:
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

        def embed(text: str) -> list[float]:
            return client.embeddings.create(model="minilm", input=text).data[0].embedding

        with ThreadPoolExecutor(4) as pool:
            question, *answers = pool.map(embed, (QUESTION, *ANSWERS))
        nearest = max(range(3), key=lambda n: cosine(question, answers[n]))
        assert nearest == 0
        # langchain would count tokens with a tokenizer that it downloads.
        chain = OpenAIEmbeddings(
            base_url=f"{url}/v1",
            api_key="none",
            model="minilm",
            check_embedding_ctx_length=False,
        )
        again = chain.embed_documents(list(ANSWERS))
        assert cosine(chain.embed_query(QUESTION), again[0]) > cosine(question, answers[1])
        assert all(cosine(a, b) > 0.999 for a, b in zip(answers, again, strict=True))
        chat = httpx.post(
            f"{url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "hello"}]},
            timeout=30,
        )
        assert chat.status_code >= 400


def test_a_killed_server_is_ready_again_by_an_embedding(lab: Path, served: dict[str, Any]) -> None:
    ssh = ssh_words(lab, HOST)
    run(*ssh, "sudo systemctl kill --signal=KILL infra-llm")
    run(*ssh, "sleep 1; sudo systemctl start infra-llm")  # ends when it has answered
    verified = Cli(lab)("verify")["report"]["hosts"][HOST]
    assert verified["measured"]["meaning"]["near"] > verified["measured"]["meaning"]["far"]
