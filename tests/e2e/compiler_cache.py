"""The compiler's cache of the hosts that build, kept on this machine between runs.

A tar outside the tree, named by the source's sha256: cold a build of llama.cpp takes ten minutes
or more on two cores (with CUDA over an hour), warm about one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml
from tests.e2e.conftest import ROOT, run

STORE = "/var/lib/infra-llm"
COUNTERS = ("direct_cache_hit", "preprocessed_cache_hit", "cache_miss")


def cache_file() -> Path:
    catalogue = yaml.safe_load((ROOT / "cli/infra_llm/data/catalogue.yml").read_text())
    sha256 = catalogue["engines"]["llama.cpp"]["source"]["any"]["sha256"]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "infra-llm" / "ccache" / f"bookworm-{sha256[:12]}.tar"


def carry_in(ssh: list[str]) -> None:
    """To a host that is to build; nothing where there is no cache yet."""
    if cache_file().exists():
        run(*ssh, f"sudo mkdir -p {STORE}")
        with cache_file().open("rb") as tar:
            subprocess.run([*ssh, f"sudo tar -x -C {STORE}"], stdin=tar, check=True)
        # Counters begin anew: they are files beside the objects.
        run(*ssh, f"sudo find {STORE}/ccache -name stats -delete")


def carry_out(ssh: list[str]) -> None:
    """From a host that has built."""
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    partial = cache_file().with_suffix(f".{os.getpid()}")
    with partial.open("wb") as tar:
        subprocess.run([*ssh, f"sudo tar -c -C {STORE} ccache"], stdout=tar, check=True)
    partial.rename(cache_file())


def compilations(ssh: list[str]) -> dict[str, int]:
    """What the compiler was called for on a host since `carry_in`, by ccache's own counters.

    {"objects": all that were wished, "compiled": those that the cache did not have}; zeros on a
    host that has no ccache, which is one that never built.
    """
    command = f"sudo CCACHE_DIR={STORE}/ccache ccache --print-stats"
    text = run(*ssh, f"command -v ccache >/dev/null && {command} || true")
    found = dict(line.split("\t")[:2] for line in text.splitlines() if "\t" in line)
    direct, preprocessed, misses = (int(found.get(name, 0)) for name in COUNTERS)
    return {"objects": direct + preprocessed + misses, "compiled": misses}
