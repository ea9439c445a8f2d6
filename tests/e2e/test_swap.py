"""Other cards in a living host: a systemd guest with stand-in cards, swapped under it.

Nothing here can compute on such a card. The engine is a stand-in for llama.cpp's source
(tests/standins/gpu_engine) that the host compiles for the card's architecture, with the real CMake,
and that answers with a real llama.cpp server on the CPU. So what is proven is the whole of what
infra-llm does: what it sees, says, plans, compiles, starts, refuses and takes back; not CUDA, and
not that the memory of a card is as planned. Without a card everything is real.

The tests run in order, each on the host that the one before left.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import MODEL, ssh_words, tunnel
from tests.standins.gpu_engine import build

CACHE = ROOT / ".lab" / "cache"
CURRENT = "/opt/infra-llm/llama_cpp/current"
WISHES = {
    # 11.5 GiB of cache as f16, half of that as q8_0: the first needs a card of 24 GiB.
    "infra_llm_context": 262_144,
    "infra_llm_parallel": 2,
    "infra_llm_threads": 1,
    # The site brings its own toolkit: what the stand-in is compiled with.
    "infra_llm_cuda_source": "none",
    "infra_llm_artifact_folders": ["/srv/artifacts"],
}


@dataclass
class Guest:
    """One host, and a controller that has built nothing yet."""

    inventory: Path
    sources: dict[str, Any]

    def wish(self, **changes: Any) -> None:
        """The usual wishes with these changes; None leaves one out."""
        wishes = {**WISHES, "infra_llm_engine_artifacts": self.artifacts("good"), **changes}
        folder = self.inventory.with_name("host_vars")
        folder.mkdir(exist_ok=True)
        kept = {name: value for name, value in wishes.items() if value is not None}
        (folder / "node1.json").write_text(json.dumps(kept))

    def artifacts(self, source: str) -> dict[str, Any]:
        return {"llama.cpp": {"source": {"any": self.sources[source]}}}

    def provision(self, expect: int | None = 0) -> dict[str, Any]:
        cache = {"XDG_CACHE_HOME": str(self.inventory.with_name("cache"))}
        done = Cli(self.inventory)("provision", expect=expect, env=cache)
        found: dict[str, Any] = done["report"]["hosts"]["node1"]
        return found

    def words(self) -> str:
        """The same as a person sees it."""
        cache = {"XDG_CACHE_HOME": str(self.inventory.with_name("cache")), "COLUMNS": "120"}
        done = Cli(self.inventory).raw("provision", env=cache)
        return " ".join(done.stdout.split())

    def builds(self) -> set[str]:
        folder = self.inventory.with_name("cache") / "infra-llm" / "builds"
        return {path.name for path in folder.glob("*.tar.gz")}

    def swap(self, cards: str) -> None:
        words = ("--name", "swap", "node1", cards)
        run(sys.executable, "-m", "tests.lab", "swap", *words)

    def on(self, script: str, check: bool = True) -> str:
        ssh = ssh_words(self.inventory, "node1")
        return run(*ssh, f"sudo sh -c {shlex.quote(script)}", check=check).strip()

    def state(self) -> str:
        return self.on("cat /var/lib/infra-llm/state.json")

    def serves(self) -> bool:
        with tunnel(self.inventory, "node1", 8080) as port:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
            answer = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "What is 1+1?"}],
                temperature=0,
                max_tokens=32,
            )
        return "2" in (answer.choices[0].message.content or "")

    def reboot(self) -> None:
        """Boot it anew and wait until it is up; its /proc tells the machine's boot, not its own."""
        ask = "systemctl show --value -p UserspaceTimestampMonotonic"
        before = self.on(ask)
        self.on("systemd-run --quiet --on-active=1 systemctl reboot")
        deadline = time.monotonic() + 120
        words = ssh_words(self.inventory, "node1")
        words[1:1] = ["-o", "ConnectTimeout=5"]
        up = f"{ask}; systemctl is-system-running --wait"
        while True:
            time.sleep(1)
            done = subprocess.run(
                [*words, up], stdin=subprocess.DEVNULL, capture_output=True, text=True
            )
            lines = done.stdout.split()
            if len(lines) == 2 and lines[0] != before and lines[1] in ("running", "degraded"):
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    inventory = tmp_path_factory.mktemp("swap") / "lab.ini"
    words = ("--name", "swap", "--inventory", str(inventory))
    more = ("--hosts", "node1", "--gpus", "rtx3060", "--reboots")
    run(sys.executable, "-m", "tests.lab", "up", *words, *more)
    CACHE.mkdir(parents=True, exist_ok=True)
    sources = {
        "good": build.source(inventory.parent, "/srv/artifacts"),
        "broken": build.source(inventory.parent, "/srv/artifacts", breaks=True),
    }
    made = Guest(inventory, sources)
    made.on("install -d /srv/artifacts /srv/standin")
    line = shlex.join(ssh_words(inventory, "node1"))
    for artifact in sources.values():
        path = inventory.parent / artifact["filename"]
        run("sh", "-c", f"{line} sudo tee /srv/artifacts/{path.name} < {path} > /dev/null")
    unpack = [*ssh_words(inventory, "node1"), "sudo tar -x --no-same-owner -C /srv/standin"]
    subprocess.run(unpack, input=build.library(CACHE), check=True, timeout=120)
    made.wish()
    yield made
    run(sys.executable, "-m", "tests.lab", "down", "--name", "swap")


def texts(host: dict[str, Any]) -> list[str]:
    return [change["text"] for change in host["changes"]]


def checks(host: dict[str, Any]) -> dict[str, Any]:
    return {check["name"]: check for check in host["verdict"]["checks"]}


def test_the_first_card_gets_a_build_of_its_own_and_serves(guest: Guest) -> None:
    host = guest.provision()
    assert host["result"] == "serving", host["error"]
    assert host["plan"]["flags"]["cache_type_k"] == "q8_0"
    assert guest.on(f"{CURRENT}/llama-server --architectures") == "86-real"
    assert checks(host)["layers"]["detail"] == "31 of 31 planned layers on the GPU"
    assert guest.provision()["result"] == "unchanged"


def test_a_card_that_does_not_come_up_gives_the_previous_release_back(guest: Guest) -> None:
    before, release = guest.state(), guest.on(f"readlink {CURRENT}")
    guest.swap("rtx4090")
    guest.on("touch /run/cuda-does-not-come-up")
    host = guest.provision(expect=6)
    guest.on("rm /run/cuda-does-not-come-up")
    assert "layers" in host["error"]
    assert guest.on(f"readlink {CURRENT}") == release
    assert guest.state() == before
    assert guest.serves()


def test_a_larger_card_is_named_compared_and_compiled_for(guest: Guest) -> None:
    builds = guest.builds()
    host = guest.provision()
    assert host["result"] == "serving", host["error"]
    cards = "NVIDIA GeForce RTX 3060 12 GiB -> NVIDIA GeForce RTX 4090 24 GiB"
    assert f"hardware: GPU 0000:01:00.0: {cards}" in texts(host)
    assert "llama.cpp compiled for 86 -> 89" in texts(host)
    assert host["plan"]["flags"]["cache_type_k"] == "f16"
    assert guest.on(f"{CURRENT}/llama-server --architectures") == "89-real"
    assert len(guest.builds()) == len(builds) == 2
    # Another program holds 1,234 MiB of this card.
    assert any("1,234 MiB are held by" in text for text in host["plan"]["warnings"])
    assert "model_store" not in host["roles"]
    assert guest.serves()
    assert guest.provision()["result"] == "unchanged"


def test_a_card_of_the_same_architecture_is_not_compiled_for(guest: Guest) -> None:
    release, builds = guest.on(f"readlink {CURRENT}"), guest.builds()
    guest.swap("l40s")
    said = guest.words()
    assert "RTX 4090 24 GiB -> NVIDIA L40S 45 GiB" in said
    assert "before now" in said
    assert guest.on(f"readlink {CURRENT}") == release
    assert guest.builds() == builds
    assert guest.provision()["result"] == "unchanged"


def test_a_build_that_fails_shows_its_last_lines_and_changes_nothing(guest: Guest) -> None:
    release = guest.on(f"readlink {CURRENT}")
    guest.wish(infra_llm_engine_artifacts=guest.artifacts("broken"))
    host = guest.provision(expect=5)
    guest.wish()
    assert "the previous release stays" in host["error"]
    assert "#error the test's own error" in host["error"]
    assert guest.on(f"readlink {CURRENT}") == release
    assert guest.on("systemctl is-active infra-llm") == "active"
    assert guest.provision()["result"] == "unchanged"


def test_a_smaller_card_gets_alternatives_and_is_not_started_into_a_crash(guest: Guest) -> None:
    guest.wish(infra_llm_gpu_layers=31, infra_llm_kv_cache_type="f16")
    assert guest.provision()["result"] == "serving"
    state, launch = guest.state(), guest.on("cat /etc/infra-llm/launch.json")
    guest.swap("rtx3060")
    host = guest.provision(expect=3)
    for words in (
        "NVIDIA L40S 45 GiB -> NVIDIA GeForce RTX 3060 12 GiB",
        "memory are missing",
        "The host keeps what it has",
        "a smaller cache type",
    ):
        assert words in host["error"]
    assert guest.state() == state
    assert guest.on("cat /etc/infra-llm/launch.json") == launch
    guest.reboot()
    shown = "systemctl show infra-llm -p ActiveState,NRestarts,ExecMainStatus"
    assert set(guest.on(shown).split()) == {
        "ActiveState=failed",
        "NRestarts=0",
        "ExecMainStatus=78",
    }
    log = guest.on("journalctl -b -u infra-llm -o cat")
    assert "hardware changed: run infra-llm provision (gpu" in log


def test_with_less_wished_it_serves_by_the_build_that_is_still_there(guest: Guest) -> None:
    builds = guest.builds()
    guest.wish()
    host = guest.provision()
    assert host["result"] == "serving", host["error"]
    assert host["plan"]["flags"]["cache_type_k"] == "q8_0"
    assert guest.on(f"{CURRENT}/llama-server --architectures") == "86-real"
    assert guest.builds() == builds
    assert guest.serves()


def test_without_a_card_it_serves_on_the_cpu(guest: Guest) -> None:
    guest.swap("none")
    guest.wish(infra_llm_context=1024)
    host = guest.provision()
    assert host["result"] == "serving", host["error"]
    assert "hardware: GPU 0000:01:00.0: NVIDIA GeForce RTX 3060 12 GiB -> none" in texts(host)
    assert host["plan"]["devices"] == []
    assert checks(host)["layers"]["detail"] == "all on the CPU, as planned"
    assert guest.on(f"readlink {CURRENT}").rpartition("/")[2].startswith("wheel-")
    assert guest.provision()["result"] == "unchanged"
