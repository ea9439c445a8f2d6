"""What every reader is handed: file reads under one root, commands with a time-out, and a log.

Nothing here raises. A file that is missing, unreadable or not text reads as an empty string;
what a person should know of lands in `errors`, and `sources` says where each value came from.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional

TOOL_FOLDERS = (
    "usr/local/sbin",
    "usr/local/bin",
    "usr/sbin",
    "usr/bin",
    "sbin",
    "bin",
    "opt/rocm/bin",
    "snap/bin",
)
FILE_LIMIT = 4 * 1024 * 1024
"""Bytes read of one file: sysfs and procfs are far smaller, garbage may not be."""
OUTPUT_LIMIT = 16 * 1024 * 1024


@dataclass
class ProbeOptions:
    """What a caller may ask for beyond the plain probe.

    pynvml_source: text of pynvml.py or the compressed form of `nvml.load_pynvml`; "" if none.
    call_timeout_s: seconds for each external command and for the whole of NVML.
    measure_memory, measure_disks, measure_gpus: run the measurements (seconds each), on request.
    measured: figures of an earlier run, from the host's state:
        {"fingerprint": "<all>", "memory_bandwidth_gbs": 41.0, "disks": {"/": 900.0}, "gpus": {}}.
        They are used in place of a new measurement while the fingerprint is the same.
    """

    pynvml_source: str = ""
    call_timeout_s: float = 10.0
    measure_memory: bool = False
    measure_disks: bool = False
    measure_gpus: bool = False
    measure_timeout_s: float = 30.0
    measured: Dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    """Outcome of a command: `failure` is "" on success, else missing, time-out or the reason."""

    output: str = ""
    failure: str = ""
    status: int = 0


class Context:
    """Root, options, and the two lists that every reader writes to."""

    def __init__(self, root: str = "/", options: Optional[ProbeOptions] = None) -> None:
        self.root = root or "/"
        self.options = options or ProbeOptions()
        self.sources: Dict[str, str] = {}
        self.errors: List[Dict[str, str]] = []

    def path(self, path: str) -> str:
        """`path` (absolute on the machine) under the root."""
        return os.path.join(self.root, path.lstrip("/"))

    def read(self, path: str) -> str:
        """Text of a file, stripped; "" where it can't be read."""
        try:
            with open(self.path(path), "rb") as stream:
                return stream.read(FILE_LIMIT).decode("utf-8", "replace").strip().strip("\0")
        except (OSError, ValueError):
            return ""

    def read_bytes(self, path: str) -> bytes:
        try:
            with open(self.path(path), "rb") as stream:
                return stream.read(FILE_LIMIT)
        except (OSError, ValueError):
            return b""

    def read_int(self, path: str) -> Optional[int]:
        return to_int(self.read(path))

    def names(self, path: str) -> List[str]:
        """Entries of a folder, sorted; none where it can't be read."""
        try:
            return sorted(os.listdir(self.path(path)))
        except (OSError, ValueError):
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def link_name(self, path: str) -> str:
        """Last part of what a symbolic link points to (the driver of a PCI device, say)."""
        try:
            return os.path.basename(os.readlink(self.path(path)))
        except (OSError, ValueError):
            return ""

    def kernel(self) -> str:
        """Release of the running kernel: uname, but only where the root is this machine's."""
        return os.uname().release if self.root == "/" else ""

    def source(self, value: str, came_from: str) -> None:
        self.sources[value] = came_from

    def error(self, part: str, what: str, hint: str = "") -> None:
        entry = {"part": part, "what": what, "hint": hint}
        if entry not in self.errors:
            self.errors.append(entry)

    def tool(self, name: str) -> str:
        """Full path of a command under the root, or ""."""
        for folder in TOOL_FOLDERS:
            candidate = self.path(os.path.join(folder, name))
            if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
                return candidate
        return ""

    def run(self, name: str, *arguments: str, timeout_s: Optional[float] = None) -> Result:
        """Run a command of the machine in the C locale.

        A command that hangs in the kernel can't be killed; it is left behind in its own
        session, with none of our pipes, so that neither the probe nor its SSH session waits.
        """
        tool = self.tool(name)
        if not tool:
            return Result(failure="missing")
        return run_command([tool, *arguments], timeout_s or self.options.call_timeout_s)

    def guard(self, part: str, reader: Callable[[], Any]) -> Any:
        """Run a reader; whatever it raises becomes an error entry."""
        try:
            return reader()
        except Exception as error:  # noqa: BLE001 - a fact that can't be read is not a crash
            self.error(
                part,
                "{}: {}".format(type(error).__name__, error),
                "please report this with the output of infra-llm probe --json",
            )
            return None


def to_int(text: str) -> Optional[int]:
    """An integer in decimal or 0x form, else None."""
    try:
        return int(text.strip(), 0)
    except ValueError:
        pass
    try:
        return int(text.strip())
    except ValueError:
        return None


def c_locale() -> Dict[str, str]:
    """The environment for commands: what they print must not depend on the host's language."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_")}
    environment.update({"LC_ALL": "C", "LANG": "C", "LANGUAGE": "C"})
    return environment


def run_command(command: List[str], timeout_s: float) -> Result:
    """Output of a command within a time, never an exception; stderr is kept with stdout."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=c_locale(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Result(failure=str(error), status=-1)
    assert process.stdout is not None
    chunks, finished = _drain(process.stdout.fileno(), timeout_s)
    if not finished:
        _kill_session(process.pid)
        process.stdout.close()
        return Result(failure="no answer within {:g} s".format(timeout_s), status=-1)
    process.stdout.close()
    try:
        status = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        _kill_session(process.pid)
        return Result(failure="did not end", status=-1)
    text = chunks.decode("utf-8", "replace")
    if status != 0:
        last = text.strip().splitlines()[-1:] or [""]
        return Result(text, "exit {}: {}".format(status, last[0]).strip(), status)
    return Result(text)


def _drain(descriptor: int, timeout_s: float) -> Any:
    """Everything until end of file or the deadline: (bytes, reached the end)."""
    deadline = time.monotonic() + timeout_s
    chunks = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or len(chunks) > OUTPUT_LIMIT:
            return bytes(chunks), False
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            return bytes(chunks), False
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return bytes(chunks), True
        chunks += chunk


def _kill_session(pid: int) -> None:
    """Kill and reap, but wait no longer than 0.5 s: a process stuck in the kernel stays."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        for _ in range(50):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
            time.sleep(0.01)


def isolated(function: Callable[[], Any], timeout_s: float) -> Any:
    """Run `function` in a forked child and give what it returns (JSON data), within a time.

    A library call that hangs in a driver can't be interrupted in this process; the child can be
    left behind. It holds no pipe of ours but the answer's. Raises TimeoutError when there is no
    answer in time, RuntimeError with the reason when the child died or its function raised.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - runs in the child
        _child(function, receive, send)
    os.close(send)
    try:
        answer, finished = _drain(receive, timeout_s)
    finally:
        os.close(receive)
    if not finished:
        _kill_session(pid)
        raise TimeoutError("no answer within {:g} s".format(timeout_s))
    _, status = os.waitpid(pid, 0)
    if not answer:
        raise RuntimeError("the reading process died (wait status {})".format(status))
    outcome = json.loads(answer.decode("utf-8"))
    if "raised" in outcome:
        raise RuntimeError(outcome["raised"])
    return outcome["value"]


def _child(function: Callable[[], Any], receive: int, send: int) -> None:  # pragma: no cover
    try:
        os.setsid()
        os.close(receive)
        empty = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(empty, standard)
        try:
            outcome = {"value": function()}
        except BaseException as error:  # noqa: BLE001 - reported to the parent
            outcome = {"raised": "{}: {}".format(type(error).__name__, error)}
        data = json.dumps(outcome).encode("utf-8")
        while data:
            data = data[os.write(send, data) :]
    finally:
        os._exit(0)
