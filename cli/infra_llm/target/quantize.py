"""Quantize a model with llama-quantize: whole or not at all, and once.

Standard library, Python 3.8. llama-quantize writes its header last and leaves a partial file when
it fails; so it writes to a temporary name, which is renamed when the result was read and hashed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from typing import Any, Dict, List

from ..core.errors import HostFailedError
from .artifacts import file_sha256
from .gguf_types import tensor_types

PROGRAM = "llama-quantize"
SCHEMA = "infra-llm/quantized/1"
BUFFER_MIB = 1024
"""Of a tensor that is worked on, where the program can be told; by default 8 GiB, beside a service
that may be serving."""
NICENESS = 10
_SHOWN_LINES = 8


def quantize(params: Dict[str, Any], check_mode: bool = False) -> Dict[str, Any]:
    """Make `dest` the quantized `source`.

    Parameters
    ----------
    params: source, source_sha256, dest, type (Q4_K_M), release (the folder with the program) and
        threads (0 for all).

    Returns changed, path, sha256, size, types (of every tensor; {} in check mode), seconds, msg
    and diff. Raises HostFailedError; a result that was there before stays then.

    """
    dest = str(params["dest"])
    wanted = {"schema": SCHEMA, "source_sha256": params["source_sha256"], "type": params["type"]}
    record = _record(dest)
    known = {key: record.get(key) for key in wanted}
    same = known == wanted and _is_whole(dest, record)
    result = {
        "changed": not same,
        "path": dest,
        "sha256": record.get("sha256", "") if same else "",
        "size": record.get("size", 0) if same else 0,
        "types": tensor_types(dest) if same else {},
        "seconds": 0.0,
        "msg": "",
        "diff": {
            "before_header": dest,
            "after_header": dest,
            "before": "{type} of {source_sha256}\n".format(**known) if record else "",
            "after": "{type} of {source_sha256}\n".format(**wanted),
        },
    }
    if same:
        return result
    if check_mode:
        result["msg"] = "would quantize to {}".format(params["type"])
        return result
    started = time.monotonic()
    result.update(_make(params, wanted))
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def _make(params: Dict[str, Any], wanted: Dict[str, Any]) -> Dict[str, Any]:
    dest = str(params["dest"])
    part = dest + ".part"
    program = find_program(str(params["release"]))
    _remove(part)
    try:
        _run(program, params, part)
        types = tensor_types(part)
        made = {"sha256": file_sha256(part), "size": os.path.getsize(part)}
        os.chmod(part, 0o644)
        os.replace(part, dest)
    finally:
        _remove(part)
    _write(_record_path(dest), {**wanted, **made})
    return {**made, "types": types}


def find_program(release: str) -> str:
    """llama-quantize of a release. Raises HostFailedError where it has none."""
    for name in (PROGRAM, os.path.join("bin", PROGRAM)):
        path = os.path.join(release, name)
        if os.access(path, os.X_OK):
            return path
    raise HostFailedError(
        "this release of llama.cpp has no {}".format(PROGRAM),
        where=release,
        hint="set llama_cpp_install_method: release or source; the wheel is a library only",
    )


def _run(program: str, params: Dict[str, Any], part: str) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": os.path.dirname(os.path.realpath(program))}
    options = _options(program, environment)
    argv = [program, *options, str(params["source"]), part, str(params["type"])]
    if params.get("threads"):
        argv.append(str(params["threads"]))
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_be_nice,
            check=False,
        )
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    if done.returncode != 0:
        said = [line for line in lines if line.strip()][-_SHOWN_LINES:]
        raise HostFailedError(
            "{} ended with {}; nothing of it was kept. Its last lines:\n{}".format(
                PROGRAM, done.returncode, "\n".join(said)
            ),
            where=str(params["source"]),
            hint="see whether the disk is full, and whether the model is one of 16 bits",
        )


def _be_nice() -> None:
    os.nice(NICENESS)


def _options(program: str, environment: Dict[str, str]) -> List[str]:
    """What older releases do not know ends them with their usage."""
    done = subprocess.run(
        [program, "--help"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    knows = b"--max-buffer-size" in done.stdout
    return ["--max-buffer-size", str(BUFFER_MIB)] if knows else []


def _record_path(dest: str) -> str:
    return dest + ".json"


def _record(dest: str) -> Dict[str, Any]:
    try:
        with open(_record_path(dest), encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(dest: str, record: Dict[str, Any]) -> bool:
    try:
        if os.path.getsize(dest) != record.get("size"):
            return False
    except OSError:
        return False
    return bool(file_sha256(dest) == record.get("sha256"))


def _write(path: str, document: Dict[str, Any]) -> None:
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, sort_keys=True)
        stream.write("\n")
    os.replace(path + ".new", path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
