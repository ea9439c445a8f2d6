"""A set of packages in one transaction: repository, pins, holds, installation and removal together.

Standard library, Python 3.8. One call in place of a dozen tasks: a change of branch or flavour
works only when apt sees all of it at once, and nothing is half done when it is refused.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
import urllib.request
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ...core.errors import HostFailedError, InfraLlmError, RefusedError
from . import apt_files, dpkg
from .apt import Apt, Steps, UnsolvableError, check_space, run_failure
from .command import call
from .dpkg import Call, Installed, matching
from .openpgp import pinned_key

ETC = "/etc/apt"
ARCHIVES = "/var/cache/apt/archives"
_KEY_LIMIT = 1024 * 1024
SLACK = 32 * 1024 * 1024
"""Bytes on top of what apt asks for: logs, caches, dpkg's own journal."""


@dataclass
class Wish:
    """What a role wants of apt."""

    name: str
    """Names our files: /etc/apt/preferences.d/infra-llm-NAME and the like."""
    repositories: List[Dict[str, Any]] = field(default_factory=list)
    """As core.stack.model.Repository."""
    install: List[str] = field(default_factory=list)
    purge: List[str] = field(default_factory=list)
    """Glob patterns."""
    pins: List[Tuple[List[str], str]] = field(default_factory=list)
    """(glob patterns, version pattern)."""
    hold: List[str] = field(default_factory=list)
    """Glob patterns; what is installed of them is held, and kept from unattended upgrades."""
    exclude: List[str] = field(default_factory=list)
    """Glob patterns that are kept from unattended upgrades only. Not for dnf."""
    lock_timeout_s: float = 300.0
    initramfs: bool = False
    """Whether the packages make a new initramfs, which needs room in /boot."""
    files: Dict[str, str] = field(default_factory=dict)
    """Path -> text of files that must be there before: packages start their services at once."""
    keep_needed: bool = False
    """Leave those of `purge` that packages of others need by now, in place of refusing."""


@dataclass
class Done:
    """What was changed, or would be."""

    changed: bool = False
    steps: Steps = field(default_factory=Steps)
    files: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    """Path -> (text before, text after) of files that differ; "" for none."""
    held: List[str] = field(default_factory=list)
    added: List[str] = field(default_factory=list)
    """Packages that were not there before."""
    notes: List[str] = field(default_factory=list)
    paths: List[str] = field(default_factory=list)
    """All files that the wish keeps."""


class Transaction:
    """One wish on one host; `etc` and `run` are replaced by tests."""

    def __init__(self, wish: Wish, check: bool = False, etc: str = ETC, run: Call = call) -> None:
        self.wish = wish
        self.check = check
        self.etc = etc
        self.run = run
        self.done = Done()
        self.before: Dict[str, bytes] = {}
        """What was in the files that differ."""
        self.begun = False
        """Whether apt began to change packages."""

    def apply(self) -> Done:
        """Bring it about. Raises HostFailedError or RefusedError; the holds are back then."""
        waited = 0.0 if self.check else dpkg.wait_for_locks(self.wish.lock_timeout_s)
        if waited > 1:
            self.done.notes.append("waited {:.0f} s for the package database".format(waited))
        before = self._mended(dpkg.installed(self.run))
        wanted = self._files()
        self._compare(wanted)
        sources_changed = any("/sources.list.d/" in p or "/keyrings/" in p for p in self.done.files)
        try:
            with self._view(wanted) as apt:
                if sources_changed:
                    self.done.notes += apt.update(self._urls())
                self._transact(apt, before)
        except UnsolvableError as error:
            if not self.check or not error.unknown or sources_changed:
                raise
            # The lists were never read, and a look must not read them: into a folder beside them.
            with self._copy(wanted) as apt:
                self.done.notes += apt.update(self._urls())
                self._transact(apt, before)
        return self.done

    def _mended(self, packages: Dict[str, Installed]) -> Dict[str, Installed]:
        broken, journal = dpkg.half_installed(packages), dpkg.has_journal()
        if not broken and not journal:
            return packages
        self.done.changed = True
        if not journal and broken == dpkg.matching(broken, self.wish.purge):
            # A module that does not compile keeps its package so; it must not bar the way out.
            self.done.notes.append("{}: half installed, and not wanted".format(", ".join(broken)))
            return packages
        if self.check:
            self.done.notes.append("dpkg was interrupted before; would run dpkg --configure -a")
            return packages
        self.done.notes.append(dpkg.repair(self.run))
        return dpkg.installed(self.run)

    # -- files --------------------------------------------------------------------

    def _files(self) -> Dict[str, bytes]:
        """Path below etc -> content, b"" for a file that shall not be there."""
        wish, files = self.wish, {}
        for repository in wish.repositories:
            source = os.path.join("sources.list.d", apt_files.source_name(repository))
            if repository["name"] == apt_files.DISTRIBUTION:
                components = repository.get("components") or []
                text = apt_files.render_distribution(self._sources(source), components)
            else:
                key = os.path.join("keyrings", apt_files.key_name(repository))
                if self._elsewhere(repository["url"], source):
                    files[source] = files[key] = b""
                    self.done.notes.append("the site has {} itself".format(repository["url"]))
                    continue
                files[key] = self._key(repository, key)
                text = apt_files.render_source(repository, os.path.join(self.etc, key))
            files[source] = text.encode()
        name = "infra-llm-{}".format(wish.name)
        preferences = apt_files.render_preferences(wish.pins, wish.repositories)
        files[os.path.join("preferences.d", name)] = preferences.encode()
        exclusion = apt_files.render_exclusion([*wish.hold, *wish.exclude])
        files[os.path.join("apt.conf.d", "52" + name)] = exclusion.encode()
        # An absolute path stays as it is when it is joined to a folder.
        files.update({path: text.encode() for path, text in wish.files.items()})
        return files

    def _sources(self, own: str) -> str:
        """The text of the host's source files, without the one that we write."""
        paths = [os.path.join(self.etc, "sources.list")]
        for ending in ("list", "sources"):
            paths += sorted(glob.glob(os.path.join(self.etc, "sources.list.d", "*." + ending)))
        texts = (read(p) for p in paths if p != os.path.join(self.etc, own))
        return "\n\n".join(text.decode("utf-8", "replace") for text in texts)

    def _elsewhere(self, url: str, own: str) -> bool:
        """Whether another source has that address: apt refuses two with different keys."""
        lines = (line.strip() for line in self._sources(own).splitlines())
        words = (word for line in lines if not line.startswith("#") for word in line.split())
        return any("://" in word and _same_address(word, url) for word in words)

    def _key(self, repository: Mapping[str, Any], name: str) -> bytes:
        fingerprint = repository["key_fingerprint"]
        there = read(os.path.join(self.etc, name))
        with contextlib.suppress(RefusedError):
            return pinned_key(there, fingerprint, name)
        return pinned_key(fetched(repository["key_url"]), fingerprint, repository["key_url"])

    def _compare(self, wanted: Dict[str, bytes]) -> None:
        for name, content in sorted(wanted.items()):
            path = os.path.join(self.etc, name)
            there = read(path)
            if content:
                self.done.paths.append(path)
            if there != content:
                self.before[path] = there
                self.done.files[path] = (shown(there), shown(content))
        self.done.changed = self.done.changed or bool(self.done.files)

    @contextlib.contextmanager
    def _view(self, wanted: Dict[str, bytes]) -> Iterator[Apt]:
        """apt over the wished files: the host's own, or in check mode a copy beside them."""
        if not self.check or not self.done.files:
            for name, content in wanted.items():
                if os.path.join(self.etc, name) in self.done.files:
                    write(os.path.join(self.etc, name), content)
            try:
                yield Apt(self.run)
            except InfraLlmError:
                # A source that apt can't read or verify would fail the administrator's runs, too.
                for path, content in [] if self.begun else self.before.items():
                    write(path, content)
                raise
            return
        with self._copy(wanted) as apt:
            yield apt

    @contextlib.contextmanager
    def _copy(self, wanted: Dict[str, bytes]) -> Iterator[Apt]:
        """apt over a copy of its settings with the wished files, and lists of its own."""
        with tempfile.TemporaryDirectory(prefix="infra-llm-apt-") as folder:
            copy, lists = os.path.join(folder, "apt"), os.path.join(folder, "lists")
            shutil.copytree(self.etc, copy, symlinks=True)
            os.makedirs(os.path.join(lists, "partial"))
            for name, content in wanted.items():
                text = content.replace(self.etc.encode() + b"/", copy.encode() + b"/")
                if not os.path.isabs(name):
                    path = os.path.join(copy, name)
                    write(path, text if name.endswith(".sources") else content)
            options = {
                "Dir::Etc": copy,
                "Dir::State::Lists": lists,
                "Dir::Cache": folder,
                "APT::Sandbox::User": "root",
                "Debug::NoLocking": "1",
            }
            words = [w for key, value in options.items() for w in ("-o", key + "=" + value)]
            yield Apt(self.run, words)

    def _urls(self) -> List[str]:
        found = [r.get("url", "") for r in self.wish.repositories]
        return [url for url in found if url]

    # -- packages -----------------------------------------------------------------

    def _transact(self, apt: Apt, before: Dict[str, Installed]) -> None:
        words = self._words(apt, before)
        if words and self.wish.keep_needed:
            words = self._without_needed(apt, words)
        if words:
            words = self._solve(apt, words, before)
        steps = self.done.steps
        self.done.changed = self.done.changed or bool(steps.changes)
        if self.check or not steps.changes:
            there = set(before) | set(steps.installs()) - set(steps.removes())
            self._hold(before, sorted(there))
            self.done.added = steps.installs()
            return
        self._room(apt, words)
        after = self._install(apt, words, [n for n, p in before.items() if p.held])
        self.done.added = sorted(set(after) - set(before))

    def _install(self, apt: Apt, words: List[str], held: List[str]) -> Dict[str, Installed]:
        """Run it; the packages after it. The holds are back whatever happens."""
        self._select("unhold", [name for name in held if name in self.done.steps.changes])
        self.begun = True
        try:
            done = apt.install(words, self.wish.lock_timeout_s)
            if done.status and "404" in done.text:
                # The mirror moved on since the lists were read.
                apt.update([])
                done = apt.install(words, self.wish.lock_timeout_s)
            if done.status:
                raise run_failure(done)
        finally:
            after = dpkg.installed(self.run)
            self._hold(after, sorted(after))
            self._select("hold", [n for n in held if n in after and not after[n].held])
        return after

    def _words(self, apt: Apt, before: Dict[str, Installed]) -> List[str]:
        """Arguments of apt-get install; none where nothing has to change."""
        missing = [name for name in self.wish.install if name not in before]
        off = self._off_pin(apt, before)
        gone = [n for n in matching(before, self.wish.purge) if n not in self.wish.install]
        if not missing and not off and not gone:
            return []
        # What shall stay is named with its version, so that apt neither removes nor upgrades it.
        kept = ["{}={}".format(name, before[name].version) for name in self.wish.install
                if name in before and name not in off]  # fmt: skip
        return [*missing, *off, *kept, *[name + "-" for name in gone]]

    def _off_pin(self, apt: Apt, before: Dict[str, Installed]) -> List[str]:
        """Installed packages whose version is not the pinned one although that can be had."""
        found = {}
        for patterns, version in self.wish.pins:
            for name in matching(before, patterns):
                if version and not fnmatchcase(before[name].version, version):
                    found[name] = version
        found = {n: v for n, v in found.items() if not matching([n], self.wish.purge)}
        candidates = apt.candidates(sorted(found))
        return [n for n in sorted(found) if fnmatchcase(candidates.get(n, ""), found[n])]

    def _solve(self, apt: Apt, words: List[str], before: Dict[str, Installed]) -> List[str]:
        try:
            self.done.steps = apt.simulate(words)
        except UnsolvableError as error:
            if not error.unknown or self.check:
                raise
            # The lists may be from before, or have never been read.
            self.done.notes += apt.update(self._urls())
            words = self._words(apt, before)
            self.done.steps = apt.simulate(words)
        self._refuse_surprises(before)
        return words

    def _without_needed(self, apt: Apt, words: List[str]) -> List[str]:
        """The removals without those that would take a package of somebody else's with them."""
        gone = {word[:-1] for word in words}
        others = [n for n in apt.simulate(words).removes() if n not in gone]
        if not others:
            return words
        needed = gone & set(apt.needs(others))
        self.done.notes.append(
            "{} stay: {} need them".format(", ".join(sorted(needed)), ", ".join(others))
        )
        return [word for word in words if word[:-1] not in needed]

    def _refuse_surprises(self, before: Dict[str, Installed]) -> None:
        steps, wish = self.done.steps, self.wish
        ours = [*wish.purge, *wish.hold, *(p for patterns, _ in wish.pins for p in patterns)]
        surprises = [n for n in steps.removes() if not matching([n], ours)]
        surprises += [n for n in steps.removes() if n in wish.install]
        if surprises:
            raise RefusedError(
                "apt would remove {}, which nobody asked for".format(", ".join(surprises)),
                hint="see why with apt-get --simulate install {}".format(" ".join(wish.install)),
            )
        for patterns, version in wish.pins:
            named = [n for n in matching(steps.changes, patterns) if n in wish.install]
            taken = {n: steps.changes[n][1] or "" for n in named}
            off = ["{} {}".format(n, v) for n, v in taken.items() if not fnmatchcase(v, version)]
            if version and off:
                raise HostFailedError(
                    "no version {} can be had; apt would take {}".format(version, ", ".join(off)),
                    where="the package sources",
                    hint="wish a version that is there, or name a mirror in infra_llm_repositories",
                )
        held = [n for n in steps.changes if n in before and before[n].held]
        foreign = [n for n in held if not matching([n], ours)]
        if foreign:
            raise RefusedError(
                "{} is on hold, and not by infra-llm".format(", ".join(foreign)),
                hint="apt-mark unhold {}".format(" ".join(foreign)),
            )

    def _room(self, apt: Apt, words: List[str]) -> None:
        download, space = apt.sizes(words)
        needs = [(ARCHIVES, download + SLACK), ("/usr", space + SLACK)]
        images = [os.path.getsize(path) for path in glob.glob("/boot/initrd.img-*")]
        if self.wish.initramfs and images:
            # The new image is written beside the old one, kernel after kernel.
            needs.append(("/boot", max(images) * 5 // 4))
        check_space(needs)

    def _hold(self, packages: Dict[str, Installed], names: List[str]) -> None:
        wanted = matching(names, self.wish.hold)
        new = [n for n in wanted if n not in packages or not packages[n].held]
        self.done.held = wanted
        if new:
            self.done.changed = True
            self.done.notes.append("hold: {}".format(", ".join(new)))
            self._select("hold", [] if self.check else new)

    def _select(self, verb: str, names: List[str]) -> None:
        if not names:
            return
        done = self.run(["apt-mark", verb, *names])
        if done.status:
            raise HostFailedError("apt-mark {} failed: {}".format(verb, done.text.strip()))


def _same_address(one: str, other: str) -> bool:
    """Whether two addresses are one when apt has put the architecture in."""
    pairs = list(zip(one.rstrip("/").split("/"), other.rstrip("/").split("/")))
    whole = one.rstrip("/").count("/") == other.rstrip("/").count("/")
    return whole and all(a == b or "$(ARCH)" in (a, b) for a, b in pairs)


def fetched(url: str) -> bytes:
    """What is at a url. Raises HostFailedError."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the site's own url
            data: bytes = answer.read(_KEY_LIMIT)
    except (OSError, ValueError) as error:
        raise HostFailedError(
            "the repository's key can't be fetched: {}".format(error),
            where=url,
            hint="check the network, or name a mirror in infra_llm_repositories",
        ) from error
    return data


def read(path: str) -> bytes:
    """A file's content, empty where it can't be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""


def write(path: str, content: bytes) -> None:
    """Give a file its content at once, with its folder; empty content removes it."""
    if not content:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = path + ".infra-llm-new"
    with open(temporary, "wb") as stream:
        stream.write(content)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def shown(content: bytes) -> str:
    """The content of a file as text for people."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "(a key of {} bytes)\n".format(len(content))


def diff(done: Done) -> List[Dict[str, str]]:
    """Ansible's diff of it: one entry a file, one for the packages."""
    entries = [
        {"before_header": path, "after_header": path, "before": old, "after": new}
        for path, (old, new) in sorted(done.files.items())
    ]
    if done.steps.changes:
        entries.append(
            {
                "before_header": "packages",
                "after_header": "packages",
                "before": _versions({n: old for n, (old, _) in done.steps.changes.items()}),
                "after": _versions({n: new for n, (_, new) in done.steps.changes.items()}),
            }
        )
    return entries


def _versions(packages: Mapping[str, Optional[str]]) -> str:
    return "".join("{} {}\n".format(n, v) for n, v in sorted(packages.items()) if v)
