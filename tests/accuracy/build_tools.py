"""Build llama-fit-params and ggml-rpc-server of the pinned source, once for this machine.

    python -m tests.accuracy.build_tools

They only lay out graphs, so nothing is optimized: that halves the time (docs/measurements.md).
The programs stay in the cache outside the tree under the source's sha256; the source archive
(77 MB) is fetched as the role does, and unpacked only meanwhile. cmake and ninja come from PATH,
else from the package index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infra_llm.core.errors import InfraLlmError
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifact_tasks import run_fetch
from tests.accuracy.tools import PROGRAMS, Tools, cache_folder, find_tools, source_artifact

BUILD = 11434
"""Upstream's number of the pinned source, which the archive does not carry (it has no history)."""
TOOLS = ("cmake==4.4.4", "ninja==1.13.2")
FLAGS = "-O0 -DNDEBUG"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    f"-DCMAKE_C_FLAGS_RELEASE={FLAGS}",
    f"-DCMAKE_CXX_FLAGS_RELEASE={FLAGS}",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DGGML_RPC=ON",
    "-DGGML_NATIVE=OFF",
    "-DGGML_LLAMAFILE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    f"-DLLAMA_BUILD_NUMBER={BUILD}",
)


def build() -> Tools:
    """The programs, built if they are nowhere.

    Raises OSError or InfraLlmError where they can't be built.
    """
    found = find_tools()
    if found:
        return found
    if not shutil.which("c++"):
        raise OSError("no C++ compiler")
    place = cache_folder()
    place.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=place) as folder:
        work = Path(folder)
        environment = {**os.environ, **_programs(work)}
        artifact = source_artifact()
        run_fetch(
            {
                "artifact": artifact,
                "dest": str(work / "source"),
                "strip_components": 1,
                "extract": True,
                "settings": {"index_urls": package_indexes(), "folders": []},
            }
        )
        source, made = work / "source" / artifact["subfolder"], work / "made"
        launcher = ["ccache"] if shutil.which("ccache") else []
        cached = [f"-DCMAKE_{kind}_COMPILER_LAUNCHER=ccache" for kind in ("C", "CXX") if launcher]
        _run(["cmake", "-G", "Ninja", "-S", source, "-B", made, *OPTIONS, *cached], environment)
        _run(["cmake", "--build", made, "--target", *PROGRAMS], environment)
        (made / "bin").rename(place / "bin")
    seconds = time.monotonic() - started
    print(f"built {' and '.join(PROGRAMS)} in {seconds:.0f} s", file=sys.stderr)
    return Tools(place / "bin")


def _programs(work: Path) -> dict[str, str]:
    """PATH with cmake and ninja; they come from the index where the machine has none."""
    if shutil.which("cmake") and shutil.which("ninja"):
        return {}
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--only-binary", ":all:", "--target", work / "programs", *TOOLS,
    ]  # fmt: skip
    _run(command, dict(os.environ))
    path = os.pathsep.join([str(work / "programs" / "bin"), os.environ.get("PATH", "")])
    return {"PATH": path, "PYTHONPATH": str(work / "programs")}


def _run(command: list[str | Path], environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["nice", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise OSError(f"{Path(command[0]).name} failed:\n{last}")


if __name__ == "__main__":
    try:
        print(build().folder)
    except (OSError, InfraLlmError) as error:
        sys.exit(f"not built: {error}")
