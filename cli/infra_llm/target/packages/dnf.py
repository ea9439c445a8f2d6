"""The same wish for dnf: repositories, streams, locks, installation and removal in one transaction.

Standard library, Python 3.8. What apt's pins do here: other versions than the wished are hidden
while the transaction is solved, EL 9 takes the driver's branch from a module stream, and what shall
stay is in dnf's version locks (`dnf versionlock`), on both releases: a stream holds a branch, not a
version, and a new library under a loaded module is what the hold is against. Locks are ours by the
name of the package, as holds are with apt.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from ...core.errors import HostFailedError, InfraLlmError, RefusedError
from . import dnf_files, rpm
from .apt import UnsolvableError, check_space
from .command import call
from .dnf_session import GoneError, Session
from .dpkg import Call, matching, process_name
from .openpgp import pinned_key
from .transaction import SLACK, Done, Wish, fetched, read, shown, write

CACHE = "/var/cache/dnf"
Open = Callable[[str, str, str, Mapping[str, str]], Any]


class DnfTransaction:
    """One wish on one host; `root`, `run` and `open_` (a Session) are replaced by tests."""

    def __init__(
        self,
        wish: Wish,
        stream: str = "",
        check: bool = False,
        root: str = "/",
        run: Call = call,
        open_: Open = Session,
    ) -> None:
        self.wish = wish
        self.stream = stream
        self.check = check
        self.root = root
        self.run = run
        self.open = open_
        self.done = Done()
        self.before: Dict[str, bytes] = {}
        """What was in the files that differ."""
        self.begun = False
        """Whether packages began to change."""

    def apply(self) -> Done:
        """Bring it about. Raises HostFailedError or RefusedError; the files are back then."""
        if not self.check:
            self._wait()
        before = rpm.installed(self.run)
        wanted = self._files()
        self._compare(wanted)
        fresh = any(path.endswith(".repo") or "/rpm-gpg/" in path for path in self.done.files)
        try:
            self._put(wanted)
            # One process can open dnf once: libdnf loads its plugins a single time.
            with self._session(wanted, self._foreign_locks()) as session:
                try:
                    after = self._attempt(session, before, fresh)
                except (UnsolvableError, GoneError) as error:
                    if fresh or (isinstance(error, UnsolvableError) and not error.unknown):
                        raise
                    # The index may be from before.
                    after = self._attempt(session, before, fresh=True)
            self._forget_caches()
        except InfraLlmError:
            for path, content in {} if self.begun or self.check else self.before.items():
                write(path, content)
            raise
        self._lock(after)
        return self.done

    def _wait(self) -> None:
        started = time.monotonic()
        while True:
            taken, waited = rpm.holders(), time.monotonic() - started
            if not taken:
                break
            if waited >= self.wish.lock_timeout_s:
                path, pid = taken[0]
                raise HostFailedError(
                    "{} holds the package database; waited {:.0f} s".format(
                        process_name(pid), waited
                    ),
                    where=path,
                    hint="wait until it has finished, then run again",
                )
            time.sleep(0.5)
        if waited > 1:
            self.done.notes.append("waited {:.0f} s for the package database".format(waited))

    # -- files --------------------------------------------------------------------

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def _files(self) -> Dict[str, bytes]:
        """Path -> content, b"" for a file that shall not be there."""
        files: Dict[str, bytes] = {}
        for repository in self.wish.repositories:
            name = dnf_files.repository_id(repository) + ".repo"
            path = self._path(os.path.join(dnf_files.REPOSITORIES, name))
            if repository["name"] == dnf_files.DISTRIBUTION:
                components = repository.get("components") or []
                files[path] = dnf_files.render_distribution(self._sources(), components).encode()
                continue
            key = self._path(dnf_files.key_path(repository))
            if self._elsewhere(repository["url"]):
                files[path] = files[key] = b""
                self.done.notes.append("the site has {} itself".format(repository["url"]))
                continue
            files[key] = self._key(repository, key)
            files[path] = dnf_files.render_repository(repository, key).encode()
        files.update({self._path(p): text.encode() for p, text in self.wish.files.items()})
        return files

    def _sources(self) -> str:
        """The text of the host's repository files, without those that we write."""
        folder = self._path(dnf_files.REPOSITORIES)
        paths = sorted(glob.glob(os.path.join(glob.escape(folder), "*.repo")))
        theirs = [p for p in paths if not os.path.basename(p).startswith("infra-llm-")]
        return "\n".join(read(path).decode("utf-8", "replace") for path in theirs)

    def _elsewhere(self, url: str) -> bool:
        there = dnf_files.parse_repositories(self._sources()).values()
        return any(
            fields.get("baseurl", "").rstrip("/") == url.rstrip("/")
            and fields.get("enabled", "1") in ("1", "true", "yes")
            for fields in there
        )

    def _key(self, repository: Mapping[str, Any], path: str) -> bytes:
        """The key as its vendor gives it (rpm wants the armour), if it is the pinned one."""
        fingerprint = repository["key_fingerprint"]
        there = read(path)
        with contextlib.suppress(RefusedError):
            pinned_key(there, fingerprint, path)
            return there
        data = fetched(repository["key_url"])
        pinned_key(data, fingerprint, repository["key_url"])
        return data

    def _compare(self, wanted: Dict[str, bytes]) -> None:
        for path, content in sorted(wanted.items()):
            there = read(path)
            if content:
                self.done.paths.append(path)
            if there != content:
                self.before[path] = there
                self.done.files[path] = (shown(there), shown(content))
        self.done.changed = bool(self.done.files)

    def _put(self, wanted: Dict[str, bytes]) -> None:
        for path in [] if self.check else self.done.files:
            write(path, wanted[path])

    @contextlib.contextmanager
    def _session(self, wanted: Dict[str, bytes], foreign: str) -> Iterator[Any]:
        """dnf over the wished files: the host's own, or in check mode a copy beside them."""
        with tempfile.TemporaryDirectory(prefix="infra-llm-dnf-") as work:
            locks = os.path.join(work, "versionlock.list")
            write(locks, foreign.encode() or b"#\n")
            plugins = os.path.join(work, "plugins")
            text = "[main]\nenabled=1\nlocklist={}\n".format(locks)
            write(os.path.join(plugins, "versionlock.conf"), text.encode())
            repositories, cache = self._path(dnf_files.REPOSITORIES), ""
            if self.check:
                cache = work
                repositories = self._copied(repositories, wanted, work)
            session = self.open(repositories, plugins, cache, self._pins_of_keys())
            try:
                yield session
            finally:
                session.close()

    def _copied(self, repositories: str, wanted: Dict[str, bytes], work: str) -> str:
        copy = os.path.join(work, "repositories")
        shutil.copytree(repositories, copy)
        for path, content in wanted.items():
            if path.endswith(".repo"):
                text = content
                for key in wanted:
                    if "/rpm-gpg/" in key:
                        text = text.replace(key.encode(), os.path.join(work, key[1:]).encode())
                write(os.path.join(copy, os.path.basename(path)), text)
            elif "/rpm-gpg/" in path:
                write(os.path.join(work, path[1:]), content)
        return copy

    def _pins_of_keys(self) -> Dict[str, str]:
        return {
            dnf_files.repository_id(r): r["key_fingerprint"]
            for r in self.wish.repositories
            if r.get("key_fingerprint")
        }

    # -- packages -----------------------------------------------------------------

    def _ours(self) -> List[str]:
        """Glob patterns of the packages that this wish decides on."""
        pinned = [p for patterns, version in self.wish.pins if version for p in patterns]
        return [*self.wish.purge, *self.wish.hold, *pinned]

    def _foreign_locks(self) -> str:
        text = read(self._path(dnf_files.LOCKS)).decode("utf-8", "replace")
        return dnf_files.without_locks(text, self._ours())

    def _attempt(self, session: Any, before: Dict[str, str], fresh: bool) -> Dict[str, str]:
        """The packages after it (in check mode: as they would be)."""
        gone = [n for n in matching(before, self.wish.purge) if n not in self.wish.install]
        streams = self._streams(before, gone)
        session.load(streams, self.wish.pins, fresh)
        change = self._off_pin(session, before)
        missing = [name for name in self._install() if not session.installed(name)]
        remove = [name for name in gone if not name.startswith((rpm.KEY, rpm.STREAM))]
        if self.wish.keep_needed and remove:
            remove = self._without_needed(session, remove)
        self.done.steps = session.solve(missing, change, remove)
        self._refuse_surprises(before)
        for name, stream in streams.items():
            self.done.steps.changes[rpm.STREAM + name] = (
                before.get(rpm.STREAM + name),
                stream or None,
            )
        keys = [name for name in gone if name.startswith(rpm.KEY)]
        self.done.steps.changes.update({name: (before[name], None) for name in keys})
        self.done.changed = self.done.changed or bool(self.done.steps.changes)
        if self.check:
            return self._predicted(before)
        self._run(session, streams, keys)
        after = rpm.installed(self.run)
        self.done.added = sorted(set(after) - set(before))
        return after

    def _install(self) -> List[str]:
        locks = self.wish.hold or any(version for _, version in self.wish.pins)
        return [*self.wish.install, *([dnf_files.PLUGIN] if locks and self.wish.install else [])]

    def _streams(self, before: Dict[str, str], gone: List[str]) -> Dict[str, str]:
        """Modules to switch: name -> stream, empty to leave it to the distribution."""
        found = {n[len(rpm.STREAM) :]: "" for n in gone if n.startswith(rpm.STREAM)}
        name, _, stream = self.stream.partition(":")
        if stream and before.get(rpm.STREAM + name) != stream:
            found[name] = stream
        return found

    def _off_pin(self, session: Any, before: Dict[str, str]) -> List[Tuple[str, str]]:
        """Installed packages whose version is not the pinned one although that can be had."""
        found = []
        for patterns, version in self.wish.pins:
            names = [n for n in matching(before, patterns) if not matching([n], self.wish.purge)]
            off = [n for n in names if version and not dnf_files.matches(before[n], version)]
            found += [(name, before[name]) for name in off if session.candidates(name)]
        return found

    def _without_needed(self, session: Any, remove: List[str]) -> List[str]:
        """The removals without those that would take a package of somebody else's with them."""
        others = [n for n in session.solve([], [], remove).removes() if n not in remove]
        if not others:
            return remove
        needed = set(remove) & set(session.needs(others))
        self.done.notes.append(
            "{} stay: {} need them".format(", ".join(sorted(needed)), ", ".join(others))
        )
        return [name for name in remove if name not in needed]

    def _refuse_surprises(self, before: Dict[str, str]) -> None:
        steps, wish = self.done.steps, self.wish
        surprises = [n for n in steps.removes() if not matching([n], self._ours())]
        surprises += [n for n in steps.removes() if n in wish.install]
        if surprises:
            raise RefusedError(
                "dnf would remove {}, which nobody asked for".format(", ".join(surprises)),
                hint="see why with dnf --assumeno install {}".format(" ".join(wish.install)),
            )
        for name in wish.install:
            version = dnf_files.pin_of(name, wish.pins)
            taken = steps.changes.get(name, (None, None))[1] or before.get(name, "")
            if version and taken and not dnf_files.matches(taken, version):
                raise HostFailedError(
                    "no version {} can be had; there is {} {}".format(version, name, taken),
                    where="the repositories",
                    hint="wish a version that is there, or name a mirror in infra_llm_repositories",
                )

    def _predicted(self, before: Dict[str, str]) -> Dict[str, str]:
        after = dict(before)
        for name, (_, new) in self.done.steps.changes.items():
            after[name] = new or ""
        self.done.added = self.done.steps.installs()
        return {name: version for name, version in after.items() if version}

    def _run(self, session: Any, streams: Dict[str, str], keys: List[str]) -> None:
        packages = [n for n in self.done.steps.changes if not n.startswith((rpm.KEY, rpm.STREAM))]
        if packages:
            self._room(session)
        trusted: List[str] = []
        try:
            for repository in self.wish.repositories if packages else []:
                if "packages" in (repository.get("signed") or ["packages"]):
                    trusted += self._trust(repository)
            if packages or streams:
                self.begun = True
                session.run()
        except GoneError:
            self.begun = False
            rpm.forget_keys(trusted, self.run)
            raise
        except InfraLlmError:
            rpm.forget_keys(trusted, self.run)
            raise
        rpm.forget_keys(keys, self.run)
        rpm.forget_streams([name for name, stream in streams.items() if not stream])

    def _trust(self, repository: Mapping[str, Any]) -> List[str]:
        path = self._path(dnf_files.key_path(repository))
        return rpm.import_key(path, self.run) if os.path.exists(path) else []

    def _room(self, session: Any) -> None:
        download, space = session.sizes()
        needs = [(CACHE, download + SLACK), ("/usr", space + SLACK)]
        images = [os.path.getsize(path) for path in glob.glob("/boot/initramfs-*.img")]
        if self.wish.initramfs and images:
            needs.append(("/boot", max(images) * 5 // 4))
        check_space(needs)

    def _forget_caches(self) -> None:
        """dnf keeps what it read of repositories that are gone."""
        if self.check:
            return
        cache = self._path(CACHE)
        for path in glob.glob(os.path.join(glob.escape(cache), "infra-llm-*")):
            name = os.path.basename(path)
            kept = glob.glob(os.path.join(self._path(dnf_files.REPOSITORIES), "infra-llm-*.repo"))
            ids = [i for p in kept for i in dnf_files.parse_repositories(read(p).decode())]
            if not any(name.startswith((i + "-", i + ".")) for i in ids):
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    # -- locks --------------------------------------------------------------------

    def _lock(self, after: Dict[str, str]) -> None:
        """The lock list as it is to be, with the versions that are installed now."""
        path = self._path(dnf_files.LOCKS)
        held = matching(after, self.wish.hold)
        lines = [line for name in held for line in dnf_files.lock(name, after[name])]
        for patterns, version in self.wish.pins:
            for name in matching(after, patterns) if version else []:
                if name not in held:
                    lines += dnf_files.lock(name, after[name], version)
        there = read(path).decode("utf-8", "replace")
        text = dnf_files.with_locks(self._foreign_locks(), lines)
        self.done.held = held
        if sorted(text.splitlines()) == sorted(there.splitlines()):
            return
        self.done.changed = True
        self.done.files[path] = (there, text)
        if self.check:
            return
        if text:
            write(path, text.encode())
        else:
            # The list is the plugin's own file, which it wants to find.
            open(path, "wb").close()


def apply(wish: Wish, module_stream: str = "", check: bool = False) -> Done:
    """See `DnfTransaction.apply`."""
    return DnfTransaction(wish, module_stream, check).apply()
