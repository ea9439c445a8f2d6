"""One transaction of dnf, through the Python interface that dnf itself is made of.

Standard library and the host's own `dnf` module, Python 3.8. Documented at dnf.readthedocs.io (API
reference); what is not there is marked. Nothing is parsed out of printed tables, and check mode
solves exactly what the run would.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from ...core.errors import HostFailedError
from .apt import Steps, UnsolvableError
from .dnf_files import matches, pin_of
from .dpkg import process_name

Pins = Sequence[Tuple[Sequence[str], str]]


class Session:
    """dnf over a set of repository files; close it when done.

    Parameters
    ----------
    repositories: folder of *.repo files.
    plugins: folder with a versionlock.conf that names the lock list to honour.
    work: folder for cache and history in check mode; empty for the host's own.
    keys: fingerprints that may sign the index of a repository, by its id.

    """

    def __init__(self, repositories: str, plugins: str, work: str, keys: Mapping[str, str]) -> None:
        dnf = _dnf()
        self.base = dnf.Base()
        conf = self.base.conf
        conf.read()
        conf.assumeyes = True
        conf.install_weak_deps = False
        # Exactly what is named goes: the receipts say what came with us.
        conf.clean_requirements_on_remove = False
        conf.exit_on_lock = True
        conf.reposdir = [repositories]
        conf.pluginconfpath = [*conf.pluginconfpath, plugins]
        conf.substitutions.update_from_etc("/")
        conf.substitutions["releasever"] = dnf.rpm.detect_releasever("/")
        if work:
            conf.cachedir = os.path.join(work, "cache")
            conf.persistdir = os.path.join(work, "persist")
            conf.logdir = work
        self.base.init_plugins()
        self.base.pre_configure_plugins()
        self.base.read_all_repos()
        self.base.configure_plugins()
        self.keys = keys
        self.streams: Mapping[str, str] = {}
        for repository in self.base.repos.iter_enabled():
            if repository.id in keys:
                repository.skip_if_unavailable = False
                # Not documented: how a program confirms the key of an index.
                repository._set_key_import(_PinnedKey(keys[repository.id]))

    def close(self) -> None:
        """Let go of the databases and their locks."""
        self.base.close()

    def load(self, streams: Mapping[str, str], pins: Pins, fresh: bool = False) -> None:
        """Read the repositories; hide what other streams and other versions than pinned bring.

        `streams` are modules to switch, name -> stream. Raises HostFailedError when a repository
        can't be read or is signed by another key, or has no such stream.
        """
        dnf = _dnf()
        self.base.reset(sack=True)
        if fresh:
            for repository in self.base.repos.iter_enabled():
                repository._repo.expire()  # not documented
        try:
            self.base.fill_sack()
        except (dnf.exceptions.LockError, dnf.exceptions.ProcessLockError) as error:
            raise _locked(error) from error
        except dnf.exceptions.RepoError as error:
            raise _unreadable(str(error)) from error
        self.streams = streams
        self._switch_all()
        self._hide(pins)

    def _switch_all(self) -> None:
        for name, stream in self.streams.items():
            self._switch(name, stream)

    def _switch(self, name: str, stream: str) -> None:
        dnf = _dnf()
        module = importlib.import_module("dnf.module.module_base").ModuleBase(self.base)
        try:
            # Not both: dnf counts a reset as one change of the stream, and allows one.
            if stream:
                module.enable(["{}:{}".format(name, stream)])
            else:
                module.reset([name])
        except dnf.exceptions.Error as error:
            raise UnsolvableError(
                "no repository of this host has the module stream {}:{}".format(name, stream),
                [name],
                hint="see `dnf module list {}`: {}".format(name, error),
            ) from error

    def _hide(self, pins: Pins) -> None:
        off = [p for p in self._pinned(pins) if not matches(p.evr, pin_of(p.name, pins))]
        if off:
            self.base.sack.add_excludes(self.base.sack.query().filterm(pkg=off))

    def _pinned(self, pins: Pins) -> List[Any]:
        names = [pattern for patterns, version in pins if version for pattern in patterns]
        return list(self.base.sack.query().available().filterm(name__glob=names)) if names else []

    # -- what there is ----------------------------------------------------------------

    def installed(self, spec: str) -> bool:
        """Whether a package is installed that a name, or name-version-release, finds."""
        query = _dnf().subject.Subject(spec).get_best_query(self.base.sack, with_provides=False)
        return bool(query.installed())

    def candidates(self, name: str) -> List[Any]:
        """The packages that could be installed for a name, the newest first."""
        query = _dnf().subject.Subject(name).get_best_query(self.base.sack, with_provides=False)
        return sorted(query.available(), reverse=True)

    def needs(self, names: Iterable[str]) -> List[str]:
        """Installed packages that these installed ones depend on, directly or not."""
        found, todo = set(), set(names)
        installed = self.base.sack.query().installed()
        while todo:
            packages = installed.filter(name=sorted(todo))
            requires = [r for package in packages for r in package.requires]
            providers = installed.filter(provides=requires) if requires else []
            found |= todo
            todo = {p.name for p in providers} - found
        return sorted(found - set(names))

    # -- the transaction --------------------------------------------------------------

    def solve(
        self, install: Sequence[str], change: Sequence[Tuple[str, str]], remove: Sequence[str]
    ) -> Steps:
        """What it takes to install these, to bring others to a version, and to remove others.

        `change` is (name, version as installed): each goes to the newest that is not hidden, up or
        down. Raises UnsolvableError.
        """
        dnf = _dnf()
        self.base.reset(goal=True)
        # That took the modules back, too.
        self._switch_all()
        unknown = []
        for spec in install:
            try:
                self.base.install(spec)
            except dnf.exceptions.MarkingError:
                unknown.append(spec)
        if unknown:
            raise UnsolvableError(
                "no repository of this host has {}".format(", ".join(unknown)),
                unknown,
                hint="it may have left its repository, be hidden by a module stream or a version "
                "lock: see `dnf list --showduplicates {}`".format(unknown[0]),
            )
        for name, _ in change:
            self._change(name)
        for name in remove:
            self.base.remove(name)
        try:
            self.base.resolve(allow_erasing=True)
        except dnf.exceptions.DepsolveError as error:
            raise UnsolvableError(
                "dnf finds no way to install this together:\n{}".format(str(error).strip()),
                hint="look for version locks that are not infra-llm's (dnf versionlock list), and "
                "for packages of another source (dnf list --extras)",
            ) from error
        return self._steps()

    def _change(self, name: str) -> None:
        now = self.base.sack.query().installed().filter(name=name)
        target = next(iter(self.candidates(name)), None)
        for package in now if target is not None else []:
            if target > package:
                self.base.package_upgrade(target)
            elif target < package:
                self.base.package_downgrade(target)

    def _steps(self) -> Steps:
        transaction = self.base.transaction or _Nothing
        old = {p.name: p.evr for p in transaction.remove_set}
        new = {p.name: p.evr for p in transaction.install_set}
        # A kernel comes beside the old one, under the same name.
        names = sorted({*old, *new})
        return Steps({name: (old.get(name), new.get(name)) for name in names})

    def sizes(self) -> Tuple[int, int]:
        """(bytes to download, bytes more on disk) of what was solved."""
        transaction = self.base.transaction or _Nothing
        download = sum(p.downloadsize for p in transaction.install_set)
        more = sum(p.installsize for p in transaction.install_set)
        less = sum(p.installsize for p in transaction.remove_set)
        return download, max(0, more - less)

    def run(self) -> List[str]:
        """Download, check the signatures, and do it; what scripts of packages said.

        Raises HostFailedError; `gone` of it lists packages that the index names and nobody has.
        """
        dnf = _dnf()
        packages = list((self.base.transaction or _Nothing).install_set)
        display = _display()
        try:
            self.base.download_packages(packages)
            for package in packages:
                self._check_signature(package)
            self.base.do_transaction(display)
        except dnf.exceptions.DownloadError as error:
            raise GoneError(str(error)) from error
        except (dnf.exceptions.LockError, dnf.exceptions.ProcessLockError) as error:
            raise _locked(error) from error
        except dnf.exceptions.Error as error:
            said = "\n".join([*display.said[-8:], str(error).strip()])
            raise HostFailedError("dnf failed:\n{}".format(said)) from error
        return list(display.said)

    def _check_signature(self, package: Any) -> None:
        status, text = self.base.package_signature_check(package)
        # Its repository names a key that rpm does not know yet; those of ours it knows.
        if status == 1 and package.repoid not in self.keys:
            self.base.package_import_key(package, fullaskcb=lambda _: True)
            status, text = self.base.package_signature_check(package)
        if status:
            raise HostFailedError(
                "the package {} is not signed by the key of its repository: {}".format(
                    package, text
                ),
                where=package.repoid,
                hint="if the vendor really changed its key, compare the new fingerprint with the "
                "vendor's page and set key_fingerprint in infra_llm_repositories",
            )


class GoneError(HostFailedError):
    """Packages that the index names can't be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__(
            "packages that the lists name can't be fetched:\n{}".format(text.strip()[-800:]),
            hint="the repository changed or can't be reached; run again, or name a mirror in "
            "infra_llm_repositories",
        )


class _Nothing:
    """The transaction of nothing."""

    install_set: Tuple[Any, ...] = ()
    remove_set: Tuple[Any, ...] = ()


class _PinnedKey:
    """Says yes to the pinned key alone when dnf asks whether an index may be signed by it."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint.replace(" ", "").upper()

    def _confirm(self, _id: str, _user: str, fingerprint: str, _url: str, _time: int) -> bool:
        return bool(fingerprint) and fingerprint.upper() == self.fingerprint


def _display() -> Any:
    """What dnf tells its progress; keeps what the packages' scripts said."""
    progress: Any = importlib.import_module("dnf.callback").TransactionProgress

    class Display(progress):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.said: List[str] = []

        def scriptout(self, messages: Optional[str]) -> None:
            self.said += (messages or "").splitlines()

        def error(self, message: str) -> None:
            self.said.append(message)

    return Display()


def _unreadable(text: str) -> HostFailedError:
    signature = any(word in text for word in ("GPG", "gpg", "ignature", "key"))
    return HostFailedError(
        "a repository can't be used: {}".format(text.strip()),
        hint="its index is not signed by the pinned key; if the vendor changed its key, compare "
        "the new fingerprint with the vendor's page and set key_fingerprint in "
        "infra_llm_repositories"
        if signature
        else "check its address and the network, or name a mirror in infra_llm_repositories",
    )


def _locked(error: Any) -> HostFailedError:
    pid = int(getattr(error, "pid", 0) or 0)
    return HostFailedError(
        "{} holds the package database".format(process_name(pid)),
        hint="wait until it has finished, then run again",
    )


def _dnf() -> Any:
    """The host's dnf module with the parts used here. Raises HostFailedError without it."""
    try:
        for name in ("dnf.exceptions", "dnf.subject", "dnf.rpm", "dnf.callback"):
            importlib.import_module(name)
        return importlib.import_module("dnf")
    except ImportError as error:
        raise HostFailedError(
            "this Python has no dnf: {}".format(error),
            hint="install python3-dnf, or name the interpreter that has it in "
            "ansible_python_interpreter (EL: /usr/bin/python3)",
        ) from error
