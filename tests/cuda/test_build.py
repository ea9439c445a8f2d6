"""llama.cpp compiled and linked with CUDA by the product's own path; `make test-cuda`, not for CI.

A Debian 12 guest with a stand-in for an RTX 4090 (compute capability 8.9): the toolkit comes out of
wheels, the build is the role's. There is no GPU: what is proven is that it compiles, links, holds
code for just that card, starts without a driver, and that a host whose card does not compute is
not called serving. The compiler's cache is kept (tests/e2e/compiler_cache.py), also of a build that
was cut off.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.compiler_cache import carry_in, carry_out
from tests.e2e.conftest import Cli, run
from tests.e2e.test_fleet import ssh_words

from infra_llm.target.cuda_images import images_of

HOURS = 4 * 3600
RELEASE = "/srv/release"
"""Where the finished build is looked at: its own place is empty again, as its proof must fail."""
SETTINGS = """
[all:vars]
llama_cpp_install_method=source
infra_llm_cuda_source=wheels
infra_llm_driver_source=present
"""


class Host:
    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        self.ssh = ssh_words(inventory, "gpu")

    def on(self, script: str, check: bool = True) -> str:
        return run(*self.ssh, f"sudo sh -c '{script}'", check=check).strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("cuda-build")
    inventory = folder / "lab.ini"
    words = ("--name", "cuda-build", "--inventory", str(inventory), "--hosts", "gpu:bookworm")
    run(sys.executable, "-m", "tests.lab", "up", *words, "--gpus", "rtx4090")
    inventory.write_text(inventory.read_text() + SETTINGS)
    host = Host(inventory)
    carry_in(host.ssh)
    started = time.monotonic()
    environment = {"XDG_CACHE_HOME": str(folder / "cache")}
    try:
        done = Cli(inventory)("provision", expect=None, env=environment, timeout=HOURS)
    finally:
        carry_out(host.ssh)
    print(f"\n{time.monotonic() - started:.0f} s")
    (archive,) = (folder / "cache/infra-llm/builds").glob("source-*.tar.gz")
    print(f"{archive.name}: {archive.stat().st_size / 2**20:.0f} MiB")
    with archive.open("rb") as tar:
        unpack = f"sudo mkdir {RELEASE} && sudo tar -xz -C {RELEASE}"
        subprocess.run([*host.ssh, unpack], stdin=tar, check=True)
    # The role brings it for the release and took it away with it.
    host.on("apt-get -qq -y --no-install-recommends install libgomp1")
    yield host, done
    run(sys.executable, "-m", "tests.lab", "down", "--name", "cuda-build")


def test_it_links_and_holds_code_for_the_card_and_nothing_else(
    built: tuple[Host, dict[str, Any]], tmp_path: Path
) -> None:
    host, _ = built
    library = tmp_path / "libggml-cuda.so"
    with library.open("wb") as file:
        command = [*host.ssh, f"sudo cat {RELEASE}/libggml-cuda.so"]
        subprocess.run(command, stdout=file, check=True)
    print(f"libggml-cuda.so: {library.stat().st_size / 2**20:.0f} MiB")
    assert images_of(str(library)) == {"machine": ["89"], "ptx": []}
    # NVIDIA's own reader says the same.
    said = subprocess.run(
        [cuobjdump(tmp_path), "--list-elf", str(library)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert set(re.findall(r"\.sm_(\w+)\.cubin", said.stdout)) == {"89"}


def cuobjdump(folder: Path) -> str:
    """NVIDIA's program out of its wheel."""
    target = folder / "cuobjdump"
    wheel = "nvidia-cuda-cuobjdump==13.3.73"
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), wheel]
    subprocess.run([sys.executable, *words], check=True, timeout=300)
    (program,) = target.rglob("bin/cuobjdump")
    program.chmod(0o755)
    return str(program)


def test_its_libraries_are_found_where_the_toolkit_is(built: tuple[Host, dict[str, Any]]) -> None:
    host, _ = built
    linked = host.on(f"ldd {RELEASE}/libggml-cuda.so")
    assert "not found" not in linked, linked
    assert "/opt/infra-llm_host/cuda/13.0/lib64/libcublas.so.13" in linked
    # Without the driver's library in it, it starts on a machine that has none.
    assert "libcuda.so.1" not in linked


def test_a_card_that_does_not_compute_is_not_called_serving(
    built: tuple[Host, dict[str, Any]],
) -> None:
    """The stand-in is found by the probe, and computes nothing."""
    _, done = built
    host = done["report"]["hosts"]["gpu"]
    print(f"exit {done['code']}: {host['error']}")
    assert done["code"] in (3, 6), host["error"]
    assert host["result"] not in ("serving", "unchanged")


def test_it_starts_on_a_machine_without_a_gpu_and_says_so(
    built: tuple[Host, dict[str, Any]],
) -> None:
    host, _ = built
    run(sys.executable, "-m", "tests.lab", "swap", "--name", "cuda-build", "gpu", "none")
    said = host.on(f"{RELEASE}/llama-server --list-devices 2>&1")
    print(said)
    assert "failed to initialize CUDA: " in said
