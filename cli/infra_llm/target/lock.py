"""One run at a time on a host: a lock file with owner and age.

Standard library, Python 3.8. The file is in /run, so a reboot ends every lock. All changes happen
under flock, so two runs that start together can't both get it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import IO, Any, Dict, Iterator, Optional

from ..core.errors import BadInputError, HostFailedError, RefusedError
from .orphans import processes_of

LOCK_PATH = "/run/infra-llm.lock"
STALE_AFTER = 3600.0


@dataclass(frozen=True)
class Lock:
    """Who holds the host. Times in seconds since the epoch, by the host's own clock."""

    owner: str
    """user@controller."""
    pid: int
    """Of the run, on the controller."""
    run_id: str
    taken_at: float
    renewed_at: float
    process_space: str = ""
    """`process_space()` of the controller: tells whether `pid` can be seen from here."""

    def age(self, now: float) -> float:
        """Seconds since the last sign of life."""
        return max(0.0, now - self.renewed_at)


@dataclass(frozen=True)
class Outcome:
    changed: bool
    lock: Optional[Lock]
    """As it is now."""
    took_over: str = ""
    """In words, when a stale lock was taken over."""


def process_space() -> str:
    """Names the kernel and pid namespace of this process; equal where pids mean the same."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return "{} {}".format(stream.read().strip(), os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""


def acquire(
    path: str,
    owner: str,
    run_id: str,
    pid: int = 0,
    controller_space: str = "",
    stale_after: float = STALE_AFTER,
    check_mode: bool = False,
) -> Outcome:
    """Take the lock for `run_id`, or renew it when it is held by the same run.

    A lock without renewal for `stale_after` seconds of whose run nothing works on the host any
    more, or whose process is seen to be gone, is taken over. Raises RefusedError naming the owner
    and the age when another run holds it.
    """
    if not run_id or not owner:
        raise BadInputError("a lock needs an owner and a run id", where=path)
    if check_mode:
        return _decide(_read_file(path), owner, run_id, pid, controller_space, stale_after, path)
    with _held(path) as stream:
        found = _parse(stream.read())
        outcome = _decide(found, owner, run_id, pid, controller_space, stale_after, path)
        _write(stream, outcome.lock)
        return outcome


def _decide(
    found: Optional[Lock],
    owner: str,
    run_id: str,
    pid: int,
    space: str,
    stale_after: float,
    path: str,
) -> Outcome:
    now = time.time()
    if found is not None and found.run_id == run_id:
        return Outcome(False, Lock(**{**asdict(found), "renewed_at": now}))
    words = ""
    if found is not None:
        words = _why_stale(found, now, stale_after)
        if not words:
            raise RefusedError(_held_by(found, now), where=path, hint=_hint(found, stale_after))
    return Outcome(True, Lock(owner, pid, run_id, now, now, space), words)


def _why_stale(lock: Lock, now: float, stale_after: float) -> str:
    # One step may take longer than that: a compilation, a large model.
    if lock.age(now) > stale_after and not processes_of(lock.run_id.partition(" ")[0]):
        text = "took over the lock of {} (run {}), not renewed for {}"
        return text.format(lock.owner, lock.run_id, _duration(lock.age(now)))
    visible = lock.pid and lock.process_space and lock.process_space == process_space()
    if visible and not os.path.exists("/proc/{}".format(lock.pid)):
        text = "took over the lock of {} (run {}), whose process {} is gone"
        return text.format(lock.owner, lock.run_id, lock.pid)
    return ""


def _held_by(lock: Lock, now: float) -> str:
    return "another run is working on this host: {} (process {}, run {}), started {} ago".format(
        lock.owner, lock.pid, lock.run_id, _duration(now - lock.taken_at)
    )


def _hint(lock: Lock, stale_after: float) -> str:
    left = stale_after - lock.age(time.time())
    return "wait for it to end; if it died, the lock can be taken over in {}".format(
        _duration(left)
    )


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 120:
        return "{} s".format(whole)
    return "{} min".format(whole // 60) if whole < 7200 else "{} h".format(whole // 3600)


def renew(path: str, run_id: str, check_mode: bool = False) -> Outcome:
    """Show that `run_id` still works. Raises RefusedError when it does not hold the lock."""
    found = _read_file(path)
    _must_be_ours(found, run_id, path)
    if check_mode or found is None:
        return Outcome(False, found)
    with _held(path) as stream:
        found = _parse(stream.read())
        _must_be_ours(found, run_id, path)
        renewed = Lock(**{**asdict(found), "renewed_at": time.time()}) if found else None
        _write(stream, renewed)
        return Outcome(False, renewed)


def release(path: str, run_id: str, check_mode: bool = False) -> Outcome:
    """Give the lock back. Nothing to do when there is none; RefusedError when it is another's."""
    found = _read_file(path)
    if found is None:
        return Outcome(False, None)
    _must_be_ours(found, run_id, path)
    if check_mode:
        return Outcome(True, None)
    with _held(path) as stream:
        _must_be_ours(_parse(stream.read()), run_id, path)
        os.unlink(path)
    return Outcome(True, None)


def read(path: str) -> Optional[Lock]:
    """The lock as it is, None when nobody holds it."""
    return _read_file(path)


def _must_be_ours(found: Optional[Lock], run_id: str, path: str) -> None:
    if found is None:
        raise RefusedError(
            "the lock of run {} is gone".format(run_id),
            where=path,
            hint="another run took it over or the host was restarted; start this run again",
        )
    if found.run_id != run_id:
        raise RefusedError(_held_by(found, time.time()), where=path)


def _read_file(path: str) -> Optional[Lock]:
    try:
        with open(path, encoding="utf-8") as stream:
            return _parse(stream.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostFailedError(
            "can't read the lock: {}".format(error.strerror), where=path
        ) from error


def _parse(text: str) -> Optional[Lock]:
    """The lock in a file; None for an empty or damaged one (its writer died at once)."""
    try:
        data: Dict[str, Any] = json.loads(text)
        return Lock(
            owner=str(data["owner"]),
            pid=int(data["pid"]),
            run_id=str(data["run_id"]),
            taken_at=float(data["taken_at"]),
            renewed_at=float(data["renewed_at"]),
            process_space=str(data.get("process_space", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _write(stream: IO[str], lock: Optional[Lock]) -> None:
    if lock is None:
        return
    stream.seek(0)
    stream.truncate()
    json.dump(asdict(lock), stream)
    stream.flush()


@contextlib.contextmanager
def _held(path: str) -> Iterator[IO[str]]:
    """The lock file, opened and flocked, and still the file of that name."""
    while True:
        try:
            stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as error:
            raise HostFailedError(
                "can't write the lock: {}".format(error.strerror), where=path
            ) from error
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # Its last holder may have removed it between our open and our flock.
            if _same_file(stream, path):
                stream.seek(0)
                yield stream
                return


def _same_file(stream: IO[str], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
