"""llama.cpp as Debian builds it, as a release archive of the site's own.

Real programs within seconds, where upstream's archive can't be reached and a build from source
takes too long: the packages of Debian's unstable branch, from the machine's own mirror, checked by
apt. They need a newer C library than the test hosts have; it lies in the archive, and the programs
name its loader below /opt/d, a path as long as the usual one, where `LOADER` has to be put.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.lab.rootfs import recipe

PACKAGES = (
    "llama.cpp-tools", "libllama0", "libggml0", "libstdc++6", "libgcc-s1", "libgomp1",
    "libssl3t64", "libzstd1", "zlib1g", "libc6",
)  # fmt: skip
PROGRAMS = ("llama-server", "llama-quantize", "llama-cli")
USUAL, LOADER = "/lib64/ld-linux-x86-64.so.2", "/opt/d/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
WANTED = (
    "libggml*.so*", "libllama*.so*", "libmtmd.so*", "llama/*.so", "ggml/backends0/*.so",
    "libstdc++.so.6*", "libgcc_s.so*", "libgomp.so*", "libssl.so*", "libcrypto.so*", "libz.so*",
    "libzstd.so*", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2",
)  # fmt: skip
LEFT_OUT = "libggml-cpu-sapphirerapids.so"
"""See core/engines/llama_cpp.py."""


def archive(folder: Path) -> Path:
    """Make llama-debian.tar.gz and ld-linux-x86-64.so.2 in `folder`; the archive's path."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _download(work)
        for package in (work / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "root")], check=True)
        release = work / "llama-debian"
        release.mkdir()
        for pattern in WANTED:
            for path in (work / "root" / LIBRARIES).glob(pattern):
                shutil.copy2(path, release / path.name, follow_symlinks=True)
        (release / LEFT_OUT).unlink()
        for program in PROGRAMS:
            content = (work / "root/usr/bin" / program).read_bytes()
            assert content.count(USUAL.encode()) == 1, f"{program} names no loader"
            (release / program).write_bytes(content.replace(USUAL.encode(), LOADER.encode()))
            (release / program).chmod(0o755)
        shutil.copy2(release / Path(LOADER).name, folder)
        made = folder / "llama-debian.tar.gz"
        with tarfile.open(made, "w:gz", compresslevel=1) as tar:
            tar.add(release, release.name)
    return made


def artifact(path: Path) -> dict[str, Any]:
    """The archive as infra_llm_engine_artifacts takes it; it lies at the same path on the host."""
    content = path.read_bytes()
    return {
        "name": "llama.cpp of Debian",
        "version": "debian",
        "filename": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "strip_components": 1,
        "licence": "MIT",
        "places": [{"kind": "path", "path": str(path)}],
    }


def _download(work: Path) -> None:
    """Verified packages, with lists and a cache of their own: the machine's stay as they are."""
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    wanted = recipe("sid")
    (work / "sources.list").write_text("\n".join(wanted.sources) + "\n")
    (work / "apt.conf").write_text(
        "\n".join(
            [
                f'Dir::Etc::sourcelist "{work}/sources.list";',
                'Dir::Etc::sourceparts "/dev/null";',
                f'Dir::State::lists "{work}/lists";',
                f'Dir::State::status "{work}/status";',
                f'Dir::Cache "{work}/cache";',
                'Acquire::Languages "none";',
                'APT::Sandbox::User "root";',
                *wanted.apt_settings,
            ]
        )
    )
    environment = {"APT_CONFIG": str(work / "apt.conf"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    for words in (["update"], ["download", *PACKAGES]):
        subprocess.run(
            ["apt-get", "-qq", *words],
            cwd=work / "packages",
            env=environment,
            check=True,
            timeout=600,
        )
