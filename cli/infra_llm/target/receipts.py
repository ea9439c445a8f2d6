"""Receipts: what each role manages on this host, and how that differs from what is there now.

Standard library, Python 3.8. A receipt is
`{"schema", "role", "recorded_at", "inputs", "files": [{path, sha256, owner, group, mode, size,
mtime_ns}], "links": [{path, target}], "directories": [{path, owner, group, mode}],
"packages": [{name, version}], "packages_added": [name], "users": [{name, uid, shell, home,
groups}], "units": [{name, manager, enabled, active, socket}]}`, one file a role, readable by root
alone: the hash of a short secret can be guessed.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from ..core.errors import BadInputError, HostFailedError
from .inspect_host import (
    HASHED_ALWAYS,
    below,
    inspect_directory,
    inspect_file,
    inspect_link,
    inspect_units,
    inspect_user,
)
from .packages.family import package_versions
from .service import Run, manager_of, run_command

SCHEMA = "infra-llm/receipt/1"
DIRECTORY = "/var/lib/infra-llm/receipts"
SECTIONS = ("files", "links", "directories", "packages", "users", "units")
_KINDS = {"files": "file", "links": "link", "directories": "folder", "": "file, folder or link"}
_SHORTCUTS = ("size", "mtime_ns")
"""Only there to spare reading large files; a change of these alone is no difference."""

Receipt = Dict[str, Any]


@dataclass
class Managed:
    """What a role says it manages."""

    files: List[str] = field(default_factory=list)
    """Files, or patterns, which may find folders and links, too. One that ends in / or /** means
    the folder and all below."""
    links: List[str] = field(default_factory=list)
    directories: List[str] = field(default_factory=list)
    packages: List[str] = field(default_factory=list)
    packages_added: List[str] = field(default_factory=list)
    """Those that were not there before; added to what earlier receipts say, for the removal."""
    users: List[str] = field(default_factory=list)
    units: List[Dict[str, Any]] = field(default_factory=list)
    """Each {"name", "manager", "socket"}."""
    inputs: Dict[str, Any] = field(default_factory=dict)
    """The role's own record, e.g. a hash of its wishes; compared, never interpreted."""


def receipt_path(role: str, directory: str = DIRECTORY) -> str:
    """Where the receipt of `role` is kept. Raises BadInputError for a name that is no name."""
    if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]*$", role):
        raise BadInputError("{!r} is no role name".format(role), where="receipt")
    return os.path.join(directory, role + ".json")


def read_receipt(path: str) -> Optional[Receipt]:
    """The receipt in a file, None when there is none. Raises HostFailedError when damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            data = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise HostFailedError("the receipt can't be read: {}".format(error), where=path) from error
    lists = isinstance(data, dict) and all(_is_section(data.get(name, [])) for name in SECTIONS)
    if not lists or data.get("schema") != SCHEMA:
        raise HostFailedError("the receipt is not of the form {}".format(SCHEMA), where=path)
    return {**{name: [] for name in SECTIONS}, **data}


def read_quietly(path: str) -> Optional[Receipt]:
    """The receipt in a file, None when there is none or it is damaged."""
    with contextlib.suppress(HostFailedError):
        return read_receipt(path)
    return None


def _is_section(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and ("path" in item or "name" in item) for item in value
    )


def describe(
    role: str, managed: Managed, previous: Optional[Receipt] = None, run: Run = run_command
) -> Tuple[Receipt, List[str]]:
    """The receipt of how things are now, and in words what is missing.

    `previous` spares hashing large files that did not change.
    """
    receipt: Receipt = {"schema": SCHEMA, "role": role, "inputs": managed.inputs}
    receipt.update({name: [] for name in SECTIONS})
    known = {item["path"]: item for item in (previous or {}).get("files", [])}
    missing = _describe_paths(managed, known, receipt)
    missing += _describe_packages(managed, (previous or {}).get("packages_added", []), receipt, run)
    units = inspect_units(managed.units, run)
    for name in managed.users:
        user = inspect_user(name)
        if user:
            receipt["users"].append(user)
        else:
            missing.append("user {} is missing".format(name))
    for unit in managed.units:
        state = units.get((manager_of(unit), unit["name"]))
        if state:
            receipt["units"].append(state)
        else:
            missing.append("service {} does not exist".format(unit["name"]))
    return receipt, missing


def _describe_packages(
    managed: Managed, added_before: List[str], receipt: Receipt, run: Run
) -> List[str]:
    wanted = sorted({*managed.packages, *managed.packages_added})
    installed = package_versions([*wanted, *added_before], run)
    # One of ours that somebody removed since is no longer ours to remove.
    added = {name for name in added_before if name in installed} | set(managed.packages_added)
    receipt["packages_added"] = sorted(added)
    for name in sorted({*wanted, *added} & set(installed)):
        receipt["packages"].append({"name": name, "version": installed[name]})
    return ["package {} is missing".format(name) for name in wanted if name not in installed]


def _describe_paths(
    managed: Managed, known: Dict[str, Dict[str, Any]], receipt: Receipt
) -> List[str]:
    missing: List[str] = []
    sections: Dict[str, str] = dict.fromkeys(managed.links, "links")
    sections.update(dict.fromkeys(managed.directories, "directories"))
    for pattern in managed.files:
        found = _found(pattern)
        if not found:
            missing.append("{} does not exist".format(pattern))
        for path in found:
            sections.setdefault(path, "files" if path == pattern else "")
    for path, wanted in sorted(sections.items()):
        section, item = _inspect(path, known.get(path))
        if item is None or (wanted and wanted != section):
            word = "is no {}".format(_KINDS[wanted]) if os.path.lexists(path) else "does not exist"
            missing.append("{} {}".format(path, word))
        else:
            receipt[section].append(item)
    return missing


def _found(pattern: str) -> List[str]:
    """What a pattern names. Links are found, never followed."""
    base = pattern[:-2] if pattern.endswith("/**") else pattern
    whole, base = base.endswith("/"), base.rstrip("/")
    tops = [base] if os.path.lexists(base) else sorted(glob.glob(base))
    return [path for top in tops for path in (below(top) if whole else [top])]


def _inspect(path: str, known: Optional[Dict[str, Any]]) -> Tuple[str, Optional[Dict[str, Any]]]:
    """The section that a path belongs to, and what it is."""
    link = inspect_link(path)
    if link is not None:
        return "links", link
    directory = inspect_directory(path)
    if directory is not None:
        return "directories", directory
    return "files", inspect_file(path, known)


def same(one: Optional[Receipt], other: Optional[Receipt]) -> bool:
    """Whether two receipts say the same; times are no content."""
    return bool(content(one) == content(other))


def content(receipt: Optional[Receipt]) -> Any:
    """The receipt without times, as two are compared and shown."""
    if receipt is None:
        return None
    kept = {key: value for key, value in receipt.items() if key != "recorded_at"}
    kept["files"] = [
        {key: value for key, value in item.items() if key not in _SHORTCUTS}
        for item in receipt.get("files", [])
    ]
    return kept


def record(
    role: str,
    managed: Managed,
    directory: str = DIRECTORY,
    check_mode: bool = False,
    run: Run = run_command,
) -> Dict[str, Any]:
    """Write the receipt of `role`; {"changed", "path", "receipt", "before", "missing"}.

    Raises HostFailedError when something that the role manages is not there; in check mode,
    where earlier tasks made nothing, that is only listed.
    """
    path = receipt_path(role, directory)
    before = read_quietly(path)  # a damaged one is written anew
    after, missing = describe(role, managed, before, run)
    if missing and not check_mode:
        raise HostFailedError(
            "role {} manages what is not there: {}".format(role, "; ".join(missing)), where=path
        )
    changed = bool(missing) or not same(before, after)
    if not check_mode and (changed or before is None or before["files"] != after["files"]):
        after["recorded_at"] = time.time()
        _write(path, after)
    return {"changed": changed, "path": path, "receipt": after, "before": before,
            "missing": missing}  # fmt: skip


def note_packages(
    role: str,
    names: List[str],
    directory: str = DIRECTORY,
    check_mode: bool = False,
    run: Run = run_command,
) -> bool:
    """Add packages to those that came with `role`; True when the receipt changes.

    What else the receipt says stands: a role that fails after this has certified nothing.
    """
    path = receipt_path(role, directory)
    receipt = read_quietly(path) or describe(role, Managed(), None, run)[0]
    added = sorted({*receipt.get("packages_added", []), *names})
    if added == receipt.get("packages_added"):
        return False
    known = [item for item in receipt["packages"] if item["name"] not in names]
    new = [{"name": n, "version": v} for n, v in sorted(package_versions(names, run).items())]
    after = {**receipt, "packages": known + new, "packages_added": added}
    if not check_mode:
        _write(path, {**after, "recorded_at": time.time()})
    return True


def remove(role: str, directory: str = DIRECTORY, check_mode: bool = False) -> bool:
    """Remove the receipt of `role`; True when there was one."""
    path = receipt_path(role, directory)
    if not os.path.lexists(path):
        return False
    if not check_mode:
        os.unlink(path)
    return True


def _write(path: str, receipt: Receipt) -> None:
    temporary = path + ".new"
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(receipt, stream, indent=1, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise HostFailedError(
            "can't write the receipt: {}".format(error.strerror), where=path
        ) from error


def packages_added(directory: str = DIRECTORY, check_mode: bool = False) -> List[str]:
    """Names of the packages that came with any role and that no other instance counts on.

    Those that another instance's receipts name are handed over to it: they go when it goes.
    """
    found = {name for receipt in _all(directory) for name in receipt.get("packages_added", [])}
    for path in _receipts_of_others(directory):
        receipt = read_quietly(path)
        used = found & {package["name"] for package in (receipt or {}).get("packages", [])}
        if receipt and used:
            found -= used
            receipt["packages_added"] = sorted(used | {*receipt.get("packages_added", [])})
            if not check_mode:
                _write(path, receipt)
    return sorted(found)


def _receipts_of_others(directory: str) -> List[str]:
    own = os.path.dirname(os.path.abspath(directory))
    pattern = os.path.join(glob.escape(os.path.dirname(own)), "infra-llm*", "receipts", "*.json")
    return sorted(path for path in glob.glob(pattern) if not path.startswith(own + os.sep))


def clear(directory: str = DIRECTORY, check_mode: bool = False) -> List[str]:
    """Remove the files that roles left in folders of others (/etc/apt, drop-ins ...).

    Only those whose name says that they are ours: a role may keep watch over a file of the
    site's, too. Gives their paths; drop-in folders that are empty then go with them.
    """
    items = [item for receipt in _all(directory) for item in receipt["files"] + receipt["links"]]
    paths = sorted({i["path"] for i in items if "infra-llm" in os.path.basename(i["path"])})
    found = [path for path in paths if os.path.lexists(path)]
    for path in [] if check_mode else found:
        os.unlink(path)
        folder = os.path.dirname(path)
        if folder.startswith("/etc/systemd/") and folder.endswith(".d"):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    return found


def _all(directory: str) -> List[Receipt]:
    paths = sorted(glob.glob(os.path.join(glob.escape(directory), "*.json")))
    return [receipt for receipt in map(read_quietly, paths) if receipt]


def audit_receipts(
    directory: str = DIRECTORY,
    thorough: bool = False,
    notes: Optional[List[str]] = None,
    run: Run = run_command,
) -> Dict[str, List[str]]:
    """{role: what differs from its receipt, in words}, [] for a role that is as it was left.

    One call of dpkg-query or rpm, and of the service manager, for all roles. Files over 1 MiB are
    read only when their size or time changed, or with `thorough`; `notes` is told which were.
    """
    receipts: Dict[str, Receipt] = {}
    found: Dict[str, List[str]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), "*.json"))):
        role = os.path.basename(path)[: -len(".json")]
        try:
            receipt = read_receipt(path)
        except HostFailedError as error:
            found[role] = [error.what]
            continue
        if receipt is not None:
            receipts[role] = receipt
    host = _Host(list(receipts.values()), run)
    for role, receipt in receipts.items():
        try:
            found[role] = differences(receipt, host, thorough, notes)
        except (KeyError, TypeError) as error:
            found[role] = ["the receipt is damaged: {!r}".format(error)]
    return dict(sorted(found.items()))


class _Host:
    """Packages and units of several receipts, asked for once."""

    def __init__(self, receipts: List[Receipt], run: Run) -> None:
        names = [item["name"] for receipt in receipts for item in receipt["packages"]]
        units = [item for receipt in receipts for item in receipt["units"]]
        self.packages = package_versions(names, run)
        self.units = inspect_units(units, run)


def compare(
    receipt: Receipt,
    thorough: bool = False,
    notes: Optional[List[str]] = None,
    run: Run = run_command,
) -> List[str]:
    """What differs from one receipt, in words for people."""
    return differences(receipt, _Host([receipt], run), thorough, notes)


def differences(
    receipt: Receipt, host: _Host, thorough: bool = False, notes: Optional[List[str]] = None
) -> List[str]:
    """See `compare`; `host` may serve many receipts."""
    found: List[str] = []
    for item in receipt["files"]:
        found += _file_differences(item, thorough, notes)
    for item in receipt["links"]:
        found += _link_differences(item)
    for item in receipt["directories"]:
        now = inspect_directory(item["path"])
        found += _rights_differences("folder", item, now)
    for item in receipt["packages"]:
        found += _package_differences(item, host.packages.get(item["name"]))
    for item in receipt["users"]:
        found += _user_differences(item)
    for item in receipt["units"]:
        found += _unit_differences(item, host.units.get((manager_of(item), item["name"])))
    return found


def _file_differences(
    item: Dict[str, Any], thorough: bool, notes: Optional[List[str]]
) -> List[str]:
    try:
        now = inspect_file(item["path"], None if thorough else item)
    except OSError as error:
        return ["file {} can't be read: {}".format(item["path"], error.strerror)]
    found = _rights_differences("file", item, now)
    if now is None:
        return found
    touched = any(now[key] != item.get(key) for key in _SHORTCUTS)
    if notes is not None and now["size"] > HASHED_ALWAYS and (touched or thorough):
        notes.append("{} was read again{}".format(
            item["path"], ", its size or time changed" if touched else ""))  # fmt: skip
    if now["sha256"] != item["sha256"]:
        found.append("file {} was edited (sha256 differs)".format(item["path"]))
    return found


def _rights_differences(
    kind: str, item: Dict[str, Any], now: Optional[Dict[str, Any]]
) -> List[str]:
    path = item["path"]
    if now is None:
        word = "is no {} any more" if os.path.lexists(path) else "is missing"
        return ["{} {} {}".format(kind, path, word.format(kind))]
    found = []
    owners = ["{owner}:{group}".format(**one) for one in (item, now)]
    if owners[0] != owners[1]:
        found.append("{} {} belongs to {}, was {}".format(kind, path, owners[1], owners[0]))
    if item["mode"] != now["mode"]:
        text = "{} {} has mode {}, was {}"
        found.append(text.format(kind, path, now["mode"], item["mode"]))
    return found


def _link_differences(item: Dict[str, Any]) -> List[str]:
    path, now = item["path"], inspect_link(item["path"])
    if now is None:
        word = "is no link any more" if os.path.lexists(path) else "is missing"
        return ["link {} {}".format(path, word)]
    if now["target"] != item["target"]:
        return ["link {} points to {}, was {}".format(path, now["target"], item["target"])]
    return []


def _package_differences(item: Dict[str, Any], version: Optional[str]) -> List[str]:
    if version is None:
        return ["package {} is missing".format(item["name"])]
    if version != item["version"]:
        text = "package {} is version {}, was {}"
        return [text.format(item["name"], version, item["version"])]
    return []


def _user_differences(item: Dict[str, Any]) -> List[str]:
    now = inspect_user(item["name"])
    if now is None:
        return ["user {} is missing".format(item["name"])]
    return [
        "user {} has {} {}, was {}".format(item["name"], key, now[key], item[key])
        for key in ("uid", "shell", "home", "groups")
        if now[key] != item[key]
    ]


def _unit_differences(item: Dict[str, Any], now: Optional[Dict[str, Any]]) -> List[str]:
    name = item["name"]
    if now is None:
        return ["service {} does not exist or its manager does not answer".format(name)]
    found = []
    if item["active"] != now["active"]:
        found.append("service {} {}".format(name, "runs" if now["active"] else "is stopped"))
    if item["enabled"] != now["enabled"]:
        word = "starts by itself" if now["enabled"] else "does not start by itself any more"
        found.append("service {} {}".format(name, word))
    return found
