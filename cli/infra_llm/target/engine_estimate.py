"""Ask the installed engine what a launch would take, without allocating it.

Runs on the target: standard library, Python 3.8. llama-fit-params prints a line a device, "CUDA0 92
180 97" (MiB of model, context and compute; upstream common/fit.cpp, common_fit_print), "Host" last.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import Any, Dict, List

TOOL = "llama-fit-params"
SECONDS = 60
_ROW = re.compile(r"^(\S+) (\d+) (\d+) (\d+) *$", re.MULTILINE)


def engine_estimate(release: str, arguments: List[str], seconds: float = SECONDS) -> Dict[str, Any]:
    """Run the release's llama-fit-params with a server's arguments.

    Returns devices (name, model_mib, context_mib, compute_mib; the host last), seconds, and why:
    empty, or what kept the tool from answering. Never raises: a host that can't be asked is served
    all the same.
    """
    folder = next((f for f in (release, os.path.join(release, "bin")) if _has_tool(f)), None)
    if folder is None:
        return _unanswered("no {} in this release".format(TOOL))
    folder = os.path.realpath(folder)
    # Settings of the engine's own variables would change the launch that is asked about.
    env = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}
    env.update(LD_LIBRARY_PATH=folder, GGML_NO_BACKTRACE="1", LC_ALL="C")
    began = time.monotonic()
    try:
        done = subprocess.run(
            [os.path.join(folder, TOOL), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=seconds,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _unanswered("{} gave no answer in {:.0f} s".format(TOOL, seconds))
    except OSError as error:
        return _unanswered("{} can't run: {}".format(TOOL, error.strerror or error))
    devices = parse(done.stdout.decode("utf-8", "replace"))
    if done.returncode or not devices:
        said = (done.stderr + done.stdout).decode("utf-8", "replace")
        return _unanswered("{} stopped: {}".format(TOOL, _reason(said, done.returncode)))
    return {"devices": devices, "seconds": round(time.monotonic() - began, 2), "why": ""}


def parse(text: str) -> List[Dict[str, Any]]:
    """The rows of its output; empty where the host's, which is the last, is missing."""
    rows = [
        {
            "name": match.group(1),
            "model_mib": int(match.group(2)),
            "context_mib": int(match.group(3)),
            "compute_mib": int(match.group(4)),
        }
        for match in _ROW.finditer(text)
    ]
    return rows if rows and rows[-1]["name"] == "Host" else []


def _has_tool(folder: str) -> bool:
    return os.access(os.path.join(folder, TOOL), os.X_OK)


def _unanswered(why: str) -> Dict[str, Any]:
    return {"devices": [], "seconds": 0.0, "why": why}


def _reason(said: str, code: int) -> str:
    """Its own words of what went wrong: the first line that tells an error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return (told or lines or ["exit code {}".format(code)])[0][-300:]
