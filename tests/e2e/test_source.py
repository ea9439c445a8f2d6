"""llama.cpp compiled on one host, shipped to another, served by its own llama-server on both.

The compiler's cache is kept between runs (tests/e2e/compiler_cache.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.compiler_cache import carry_in, carry_out
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words

HOSTS = ("one", "two")
ENGINE = "/opt/infra-llm/llama_cpp"
EMPTY = ("", f"{ENGINE}/build:\n\n{ENGINE}/source:")
HOUR = 3600
LIST_PACKAGES = "dpkg-query --show --showformat='${Package}\\n'"


class Lab:
    """Two alike hosts, and a controller that keeps no build yet."""

    def __init__(self, inventory: Path, cache: Path) -> None:
        self.inventory, self.cache = inventory, cache
        self.ssh = {host: ssh_words(inventory, host) for host in HOSTS}

    def provision(self, *words: str) -> dict[str, Any]:
        environment = {"XDG_CACHE_HOME": str(self.cache)}
        return Cli(self.inventory)("provision", *words, expect=None, env=environment, timeout=HOUR)

    def on(self, host: str, command: str) -> str:
        return run(*self.ssh[host], command).strip()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("source")
    path = folder / "lab.ini"
    words = ("--name", "source", "--inventory", str(path), "--hosts", "one:bookworm,two:bookworm")
    run(sys.executable, "-m", "tests.lab", "up", *words)
    settings = "\n[all:vars]\nllama_cpp_install_method=source\ninfra_llm_threads=1\n"
    path.write_text(path.read_text() + settings)
    yield Lab(path, folder / "cache")
    run(sys.executable, "-m", "tests.lab", "down", "--name", "source")


def test_one_host_builds_both_serve_and_nothing_is_left(lab: Lab) -> None:
    packages = {host: lab.on(host, LIST_PACKAGES) for host in HOSTS}
    for host in HOSTS:
        carry_in(lab.ssh[host])
    done = lab.provision()
    compiled = [host for host in HOSTS if lab.on(host, "command -v ninja || true")]
    assert len(compiled) == 1, done
    carry_out(lab.ssh[compiled[0]])
    assert done["code"] == 0, done
    kept = list((lab.cache / "infra-llm" / "builds").glob("source-*.tar.gz"))
    assert len(kept) == 1
    for host in HOSTS:
        assert done["report"]["hosts"][host]["result"] == "serving"
        check_release(lab, host)
    assert len({lab.on(host, f"readlink {ENGINE}/current") for host in HOSTS}) == 1

    unchanged(lab)
    # One takes the build that is kept; when nobody has it any more, its builder compiles again.
    other = next(host for host in HOSTS if host not in compiled)
    damage_and_mend(lab, other)
    kept[0].unlink()
    damage_and_mend(lab, compiled[0])
    Cli(lab.inventory)("remove")
    for host in HOSTS:
        assert lab.on(host, "ls -d /opt/infra-llm /var/lib/infra-llm || true") == ""
        assert lab.on(host, LIST_PACKAGES) == packages[host]


def unchanged(lab: Lab) -> None:
    again = lab.provision()
    assert [entry["result"] for entry in again["report"]["hosts"].values()] == ["unchanged"] * 2


def damage_and_mend(lab: Lab, host: str) -> None:
    """A file is edited, another deleted: both are there again, and what runs is what is there."""
    library = lab.on(host, f"ls {ENGINE}/current/libggml-cpu-* | head -1")
    wanted = lab.on(host, f"sha256sum {ENGINE}/current/llama-server {library}")
    pid = lab.on(host, "systemctl show --property MainPID --value infra-llm")
    lab.on(host, f"sudo sed -i 1s/^/x/ $(readlink -f {ENGINE}/current/llama-server)")
    lab.on(host, f"sudo rm {library}")
    done = lab.provision()
    entry = done["report"]["hosts"][host]
    assert entry["result"] == "serving", done
    assert any("llama-server was edited" in change["text"] for change in entry["changes"])
    assert lab.on(host, f"sha256sum {ENGINE}/current/llama-server {library}") == wanted
    assert lab.on(host, "systemctl show --property MainPID --value infra-llm") != pid
    check_release(lab, host)
    unchanged(lab)


def check_release(lab: Lab, host: str) -> None:
    pid = lab.on(host, "systemctl show --property MainPID --value infra-llm")
    program = lab.on(host, f"sudo readlink /proc/{pid}/exe")
    assert program.startswith(f"{ENGINE}/releases/source-") and program.endswith("/llama-server")
    # The CPU backend is chosen at run time among the variants that were compiled.
    mapped = lab.on(host, f"sudo grep -o 'libggml-cpu-[a-z0-9_]*' /proc/{pid}/maps | sort -u")
    assert len(mapped.split()) == 1
    variants = lab.on(host, f"ls {ENGINE}/current/ | grep '^libggml-cpu-'")
    assert len(variants.split()) > 5 and "sapphirerapids" not in variants
    for tool in ("cli", "bench", "quantize", "fit-params"):
        assert lab.on(host, f"test -x {ENGINE}/current/llama-{tool} && echo there") == "there"
    assert lab.on(host, f"ls -A {ENGINE}/build {ENGINE}/source 2>/dev/null || true") in EMPTY
