"""Debian's own CUDA toolkit by the role cuda: gigabytes, so `make test-full` only.

Debian's nvidia-cudnn is not among it: its installation fetches an archive from NVIDIA's site, so it
fails where that can't be reached. No engine needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.driver_lab import DriverLab

HOSTS = {"b2": "bookworm", "t2": "trixie"}
GIVEN: dict[str, Any] = {
    "given_plan": {
        "kind": "toolkit",
        "version": "",
        "packages": ["nvidia-cuda-toolkit", "nvidia-cuda-toolkit-gcc"],
        "cudnn": "",
    },
    "given_repositories": [
        {
            "name": "distribution",
            "kind": "apt",
            "components": ["contrib", "non-free", "non-free-firmware"],
        }
    ],
}
PACKAGES = "dpkg-query --show --showformat='${Package}\\n' | sort"
KERNEL = "__global__ void k(float *x) { x[0] = 1; } int main() { k<<<1, 1>>>(nullptr); }"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DriverLab]:
    hosts = ",".join(f"{host}:{suite}" for host, suite in HOSTS.items())
    made = DriverLab("debian-toolkit", tmp_path_factory.mktemp("toolkit"), hosts)
    yield made
    made.down()


@pytest.mark.parametrize("host", HOSTS)
def test_it_installs_compiles_and_goes(lab: DriverLab, host: str) -> None:
    before = lab.on(host, PACKAGES)
    play = {"playbook": "tests/full/cuda.yml", **GIVEN}
    done = lab.play("--limit", host, **play)
    assert done.code == 0, done.text[-3000:]
    assert lab.play("--limit", host, **play).changed == {host: 0}
    lab.on(host, "cat >/srv/k.cu", stdin=KERNEL.encode())
    # As a build does (`build_environment` in core/stack/desired.py).
    lab.on(host, "cd /srv && nvcc -ccbin cuda-g++ -arch=sm_86 -cubin -o k.cubin k.cu")
    assert lab.on(host, "head -c 4 /srv/k.cubin")[1:] == "ELF"
    removed = lab.play("--limit", host, playbook="tests/e2e/remove.yml")
    assert removed.code == 0, removed.text[-3000:]
    assert lab.on(host, PACKAGES) == before
