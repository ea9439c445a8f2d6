"""Run a playbook through ansible-runner and come back with what happened to each host.

Events are queued by the runner's thread and reduced here; results are read from files that the
plays write into the run folder, never from event payloads (runner empties large ones).
"""

from __future__ import annotations

import getpass
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from infra_llm.content import playbook
from infra_llm.core.errors import InfraLlmError
from infra_llm.runner.environment import ansible_environment
from infra_llm.runner.index import asked
from infra_llm.runner.progress import RunProgress, reduce
from infra_llm.target.lock import process_space

Listener = Callable[[RunProgress, str], None]
"""Called with the progress so far and the host whose stage changed."""

SYSTEM_PYTHONS = (
    *(f"/usr/bin/python3.{minor}" for minor in range(14, 7, -1)),
    "/usr/bin/python3",
    "python3",
)
"""Where Ansible looks for Python on a host: the system's own before whatever a user's PATH holds
(a shim of pyenv answers "command -v" for versions that it can't run)."""

_SIGINT_GRACE_SECONDS = 15
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Request:
    """One run of one playbook."""

    name: str
    inventory: Path
    limit: str | None = None
    tags: str | None = None
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    forks: int = 20
    options: dict[str, Any] = field(default_factory=dict)
    """What the plays and the action plugins need to know of this run (infra_llm_run)."""
    secrets: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, Any] = field(default_factory=dict)
    """Host -> what an earlier run decided. Files of the run, no variables: what hosts told stands
    in them, and Ansible would evaluate it as templates on this machine."""


@dataclass
class Outcome:
    progress: RunProgress
    documents: dict[str, dict[str, Any]]
    """What the plays wrote: host -> document name -> document."""
    return_code: int
    interrupted: bool = False
    run_id: str = ""


def owner() -> str:
    """Who runs this, for locks and reports: user@controller."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A fresh folder that only we can read, gone afterwards: runner's artifacts hold variables."""
    path = Path(tempfile.mkdtemp(prefix="infra-llm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_playbook(request: Request, listener: Listener | None = None) -> Outcome:
    """Run it to the end, or to an orderly stop after Ctrl-C (interrupted is then true).

    Raises InfraLlmError when Ansible itself could not run (no play was reached).
    """
    with private_folder() as folder:
        results = folder / "results"
        results.mkdir()
        for host, decision in request.decisions.items():
            (results / f"{host}@decision.json").write_text(json.dumps(decision))
        extra = folder / "extra.json"
        run: dict[str, Any] = {
            "id": uuid.uuid4().hex[:12],
            "owner": owner(),
            "pid": os.getpid(),
            "process_space": process_space(),
            "results": str(results),
        }
        document = {
            "infra_llm_run": run | request.options,
            "ansible_interpreter_python_fallback": list(SYSTEM_PYTHONS),
            **request.secrets,
        }
        extra.touch(mode=0o600)
        extra.write_text(json.dumps(document))
        outcome = _supervise(
            _arguments(request, folder, extra),
            listener or (lambda *_: None),
            _show_event if request.verbosity else (lambda _: None),
        )
        outcome.documents = _read_documents(results)
        outcome.run_id = run["id"]
    if not outcome.progress.stats_seen and not outcome.interrupted:
        raise InfraLlmError(
            "\n".join(outcome.progress.complaints) or "Ansible stopped before it reached a host",
            where=request.name,
            hint="run again with -vv to see what Ansible prints",
        )
    return outcome


def _arguments(request: Request, folder: Path, extra: Path) -> dict[str, Any]:
    command = ["-e", f"@{extra}"]
    command += ["--check"] if request.check else []
    command += ["--diff"] if request.diff else []
    return {
        "private_data_dir": str(folder),
        "playbook": str(playbook(request.name)),
        "inventory": str(request.inventory.resolve()),
        "limit": request.limit,
        "tags": request.tags,
        "forks": request.forks,
        "verbosity": request.verbosity or None,
        "cmdline": shlex.join(command),
        "envvars": {},
        "settings": {"idle_timeout": 0, "job_timeout": 0, "pexpect_timeout": 1},
        "quiet": True,  # runner would print to stdout, which is for results
    }


@contextmanager
def _pruned_environment() -> Iterator[None]:
    """Runner hands its whole environment on and stores it; give it only what Ansible needs."""
    before, pruned = dict(os.environ), ansible_environment() | asked()
    os.environ.clear()
    os.environ.update(pruned)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _show_event(event: dict[str, Any]) -> None:
    if event.get("stdout"):
        print(event["stdout"], file=sys.stderr, flush=True)  # noqa: T201


def _supervise(
    arguments: dict[str, Any], listener: Listener, show: Callable[[dict[str, Any]], None]
) -> Outcome:
    import ansible_runner

    events: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = threading.Event()
    finished: list[Any] = []

    def take(event: dict[str, Any]) -> bool:
        events.put(event)
        return True  # without it runner keeps no events and no stats

    def work() -> None:
        try:
            finished.append(
                ansible_runner.run(event_handler=take, cancel_callback=stop.is_set, **arguments)
            )
        except Exception as error:  # noqa: BLE001 - handed to the main thread below
            finished.append(error)

    progress = RunProgress()
    with _pruned_environment(), _interruptible() as interrupts:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        interrupted_at = 0.0
        while thread.is_alive() or not events.empty():
            _drain(events, progress, listener, show)
            if interrupts and not interrupted_at:
                interrupted_at = time.monotonic()
                _interrupt_children()
            if interrupted_at and time.monotonic() - interrupted_at > _SIGINT_GRACE_SECONDS:
                stop.set()
        thread.join()
    result = finished[0]
    if isinstance(result, Exception):
        raise InfraLlmError(f"ansible-runner failed: {result}") from result
    return Outcome(progress, {}, int(result.rc or 0), interrupted=bool(interrupts))


def _drain(
    events: queue.Queue[dict[str, Any]],
    progress: RunProgress,
    listener: Listener,
    show: Callable[[dict[str, Any]], None],
) -> None:
    try:
        event = events.get(timeout=0.1)
    except queue.Empty:
        return
    show(event)
    host = reduce(progress, event)
    if host:
        with suppress(OSError):  # a terminal that went away must not end the run
            listener(progress, host)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect the signals that end a run, and a terminal that goes away, instead of dying of them;
    the handlers are put back after."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in _ENDS}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_children() -> None:
    """SIGINT to Ansible's process groups: it sits on a terminal of its own, Ctrl-C misses it."""
    own_group = os.getpgid(0)
    for pid in _children(os.getpid()):
        try:
            group = os.getpgid(pid)
            if group != own_group:
                os.killpg(group, signal.SIGINT)
        except (ProcessLookupError, PermissionError):
            continue


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in listing.read_text().split()]
        except OSError:
            continue
    return found


def _read_documents(results: Path) -> dict[str, dict[str, Any]]:
    documents: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("*.json")):
        host, _, name = path.stem.rpartition("@")
        documents.setdefault(host, {})[name] = json.loads(path.read_text())
    return documents
