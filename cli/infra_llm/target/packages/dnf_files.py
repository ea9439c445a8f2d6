"""The files that tell dnf what to take from where: repositories and version locks. Pure.

Standard library, Python 3.8. Formats: dnf.conf(5), dnf-versionlock(8).
"""

from __future__ import annotations

import configparser
import os
import re
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

REPOSITORIES = "/etc/yum.repos.d"
KEYS = "/etc/pki/rpm-gpg"
LOCKS = "/etc/dnf/plugins/versionlock.list"
PLUGIN = "python3-dnf-plugin-versionlock"
"""Package of EL 9 and 10 that honours version locks."""
DISTRIBUTION = "distribution"
"""Name of the repository that stands for the host's own with further ids (crb)."""
_HEADER = "# Written by infra-llm; removed by infra-llm remove.\n"
_ALIASES = {
    "crb": re.compile(r"^(crb|powertools|codeready-builder-.*-rpms|ol\d+_codeready_builder)$")
}
"""What CRB is called on Rocky and Alma, RHEL, and Oracle Linux."""
_LOCK = re.compile(r"^(?P<not>!?)(?P<name>.+)-(?P<epoch>\d+):(?P<version>[^:]+)$")
_OLD_LOCK = re.compile(r"^(?P<not>!?)(?P<epoch>\d+):(?P<name>.+)-(?P<version>[^-]+-[^-]+)$")


def repository_id(repository: Mapping[str, Any]) -> str:
    """The id in dnf's lists, and the name of the file below /etc/yum.repos.d."""
    return "infra-llm-" + re.sub(r"[^A-Za-z0-9_-]", "-", repository["name"])


def key_path(repository: Mapping[str, Any]) -> str:
    """The file with the repository's key."""
    return os.path.join(KEYS, "RPM-GPG-KEY-" + repository_id(repository))


def render_repository(repository: Mapping[str, Any], key: str) -> str:
    """A vendor's repository, signed by the key in that file and by no other.

    `signed` names what the vendor signs: "packages", "index", or both.
    """
    name = repository_id(repository)
    signed = repository.get("signed") or ["packages", "index"]
    fields = {
        "name": name,
        "baseurl": repository["url"],
        "enabled": "1",
        "gpgcheck": "1" if "packages" in signed else "0",
        "repo_gpgcheck": "1" if "index" in signed else "0",
        "gpgkey": "file://" + key,
    }
    if repository.get("exclude"):
        fields["excludepkgs"] = ",".join(repository["exclude"])
    return _HEADER + _section(name, fields)


def render_distribution(sources: str, components: Sequence[str]) -> str:
    """The host's own repositories of those ids, switched on under ids of ours.

    `sources` is the text of all its repository files. Empty where they are on already, or there
    are none: the transaction then says which package it misses.
    """
    found = []
    for name, fields in parse_repositories(sources).items():
        wanted = [
            c for c in components if _ALIASES.get(c, re.compile(re.escape(c) + "$")).match(name)
        ]
        if wanted and fields.get("enabled", "1") not in ("1", "true", "yes"):
            found.append(_section("infra-llm-" + name, {**fields, "enabled": "1"}))
    return _HEADER + "\n".join(found) if found else ""


def parse_repositories(text: str) -> Dict[str, Dict[str, str]]:
    """Id -> fields of the repositories in the text; what can't be read is left out."""
    found: Dict[str, Dict[str, str]] = {}
    for block in re.split(r"(?m)^(?=\[)", text):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(block)
        except configparser.Error:
            continue
        found.update({name: dict(parser[name]) for name in parser.sections()})
    return found


def _section(name: str, fields: Mapping[str, str]) -> str:
    lines = (pair[0] + "=" + pair[1].replace("\n", "\n  ") for pair in fields.items())
    return "[{}]\n{}\n".format(name, "\n".join(lines))


def locked_name(line: str) -> Optional[str]:
    """The package that a line of the lock list is about; None for a comment or another form."""
    match = _LOCK.match(line.strip()) or _OLD_LOCK.match(line.strip())
    return match.group("name") if match else None


def without_locks(text: str, patterns: Iterable[str]) -> str:
    """The lock list without the lines about packages that one of the glob patterns finds."""
    wanted = list(patterns)
    kept = []
    for line in text.splitlines():
        name = locked_name(line)
        if name is None or not any(fnmatchcase(name, pattern) for pattern in wanted):
            kept.append(line)
    return "".join(line + "\n" for line in kept)


def with_locks(text: str, locks: Sequence[str]) -> str:
    """The lock list with these lines at its end."""
    return text + "".join(lock + "\n" for lock in locks)


def lock(name: str, version: str, pattern: str = "*") -> List[str]:
    """Lines as `dnf versionlock add` writes them, for the version of an installed package.

    `version` is as `rpm.installed` gives it; with a `pattern` ("1.20.*") any version that it finds.
    """
    found = []
    for one in version.split(","):
        epoch, _, rest = one.rpartition(":")
        shown = rest if pattern == "*" else "{}-*".format(pattern.rpartition("-")[0] or pattern)
        found.append("{}-{}:{}.*".format(name, epoch or "0", shown))
    return found


def matches(version: str, pattern: str) -> bool:
    """Whether a version ("3:580.95.05-1.el9") is one of a pattern: "580.*", "1.18.2-*"."""
    rest = version.rpartition(":")[2]
    return fnmatchcase(rest, pattern) or fnmatchcase(rest.rpartition("-")[0], pattern)


def pin_of(name: str, pins: Iterable[Tuple[Sequence[str], str]]) -> str:
    """The version pattern that a package is pinned to, empty for none."""
    for patterns, version in pins:
        if version and any(fnmatchcase(name, pattern) for pattern in patterns):
            return version
    return ""
