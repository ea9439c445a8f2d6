"""nvcc out of wheels compiles a kernel for every architecture that the solver may name.

No guest, no GPU: what compiles is the same everywhere. Downloads 105 MB; the linking against
cuBLAS (420 MB more) is in `make test-full`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra_llm.core.catalogue import cuda_wheels
from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.cuda_images import images_of
from infra_llm.target.cuda_wheels import install

RELEASE = "13.0"
FULL = bool(os.environ.get("INFRA_LLM_TEST_FULL"))
RUNTIME_ONLY = {"nvidia-cublas"}
ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "100", "103", "110", "120", "121")
KERNEL = """
#include <cub/block/block_reduce.cuh>
#include <cuda_fp16.h>
__global__ void sum(const half *x, float *y) {
    typedef cub::BlockReduce<float, 128> Reduce;
    __shared__ typename Reduce::TempStorage storage;
    float all = Reduce(storage).Sum(__half2float(x[threadIdx.x]));
    if (threadIdx.x == 0) *y = all;
}
int main() { sum<<<1, 128>>>(nullptr, nullptr); return cudaGetLastError() == cudaSuccess; }
"""
WITH_CUBLAS = """
#include <cublas_v2.h>
int main() { cublasHandle_t handle; return cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS; }
"""


@pytest.fixture(scope="module")
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cuda") / RELEASE
    wheels = cuda_wheels(load_catalogue(), RELEASE, platform.machine())
    wanted = [w for w in wheels if FULL or w["name"] not in RUNTIME_ONLY]
    settings = {"index_urls": package_indexes()}
    done = install(wanted, str(folder), settings)
    assert done["changed"]
    assert done["bytes_downloaded"] == sum(wheel["size"] for wheel in wanted)
    again = install(wanted, str(folder), {"index_urls": ["http://127.0.0.1:9/simple"]})
    assert not again["changed"]
    yield folder
    shutil.rmtree(folder)


def nvcc(toolkit: Path, source: str, *words: str) -> subprocess.CompletedProcess[str]:
    # An environment without a trace of CUDA: nothing may depend on PATH.
    environment: dict[str, Any] = {"PATH": "/usr/bin:/bin", "TMPDIR": str(toolkit.parent)}
    path = toolkit.parent / "kernel.cu"
    path.write_text(source)
    command = [str(toolkit / "bin/nvcc"), *words, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_kernel_compiles_for(toolkit: Path, architecture: str) -> None:
    made = toolkit.parent / f"{architecture}.cubin"
    done = nvcc(toolkit, KERNEL, f"-arch=sm_{architecture}", "-cubin", "-o", str(made))
    assert done.returncode == 0, done.stderr
    # e_machine of the ELF header is EM_CUDA.
    assert made.read_bytes()[:4] == b"\x7fELF"
    assert int.from_bytes(made.read_bytes()[18:20], "little") == 190


def test_what_is_older_than_turing_is_refused_by_the_compiler(toolkit: Path) -> None:
    done = nvcc(toolkit, KERNEL, "-arch=sm_70", "-cubin", "-o", str(toolkit.parent / "no"))
    assert done.returncode != 0
    assert "Unsupported gpu architecture" in done.stderr


def test_a_program_links_and_runs_as_far_as_it_can_without_a_driver(toolkit: Path) -> None:
    program = toolkit.parent / "program"
    done = nvcc(toolkit, KERNEL, "-arch=sm_86", "-o", str(program))
    assert done.returncode == 0, done.stderr
    # Without a driver the launch fails, which is 0 here.
    assert subprocess.run([program], timeout=60).returncode == 0


def test_the_architectures_of_a_library_are_read_back(toolkit: Path) -> None:
    """Compressed as llama.cpp has them, of two sources, linked."""
    library = str(toolkit.parent / "library.so")
    codes = ["arch=compute_75,code=compute_75", "arch=compute_86,code=sm_86"]
    codes.append("arch=compute_120a,code=sm_120a")
    words = ["-shared", "-Xcompiler", "-fPIC", "-compress-mode=size", "-o", library]
    other = toolkit.parent / "other.cu"
    other.write_text("__global__ void twice(float *x) { x[threadIdx.x] *= 2; }")
    done = nvcc(toolkit, KERNEL, *[w for c in codes for w in ("-gencode", c)], *words, str(other))
    assert done.returncode == 0, done.stderr
    assert images_of(library) == {"machine": ["86", "120"], "ptx": ["75"]}


def test_linkers_find_the_libraries_by_their_short_names(toolkit: Path) -> None:
    assert (toolkit / "lib64/libcudart.so").resolve().name.startswith("libcudart.so.13")
    assert not list(toolkit.parent.glob("*.parts"))


if FULL:

    def test_cublas_links(toolkit: Path) -> None:
        program = str(toolkit.parent / "cublas")
        done = nvcc(toolkit, WITH_CUBLAS, "-lcublas", "-lcublasLt", "-o", program)
        assert done.returncode == 0, done.stderr
