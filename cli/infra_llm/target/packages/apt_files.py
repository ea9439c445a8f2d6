"""The files that tell apt what to take from where: sources, preferences, exclusions. Pure.

Standard library, Python 3.8. Formats: sources.list(5), apt_preferences(5), apt.conf(5) and the
configuration of unattended-upgrades.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple
from urllib.parse import urlsplit

DISTRIBUTION = "distribution"
"""Name of the repository that stands for the host's own sources with further components."""
_HEADER = "# Written by infra-llm; removed by infra-llm remove.\n"
_PRIORITY = 1001
"""Above 1000 apt goes back to an older version, too: a branch may change downwards."""


def source_name(repository: Mapping[str, Any]) -> str:
    """File below /etc/apt/sources.list.d."""
    return "infra-llm-{}.sources".format(_file_name(repository["name"]))


def key_name(repository: Mapping[str, Any]) -> str:
    """File below /etc/apt/keyrings."""
    return "infra-llm-{}.gpg".format(_file_name(repository["name"]))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def render_source(repository: Mapping[str, Any], key: str) -> str:
    """deb822 source of a vendor's repository, signed by the key at that path and by no other."""
    # Without components it is a flat repository, whose suite is a folder.
    components = " ".join(repository.get("components") or [])
    suite = repository.get("suite") or "/"
    if not components and not suite.endswith("/"):
        suite += "/"
    fields = {
        "Types": "deb",
        "URIs": repository["url"],
        "Suites": suite,
        "Components": components,
        "Signed-By": key,
    }
    return _HEADER + _stanza(fields)


def render_distribution(sources: str, components: Sequence[str]) -> str:
    """deb822 sources of the distribution's further components, from the host's own sources.

    `sources` is the text of all its source files; the mirror, the suites and the key are taken
    from the entries that serve `main`. Empty where those have the components already.
    """
    stanzas = []
    for entry in parse_sources(sources):
        missing = [c for c in components if c not in entry["Components"].split()]
        if "main" in entry["Components"].split() and missing:
            stanzas.append(_stanza({**entry, "Components": " ".join(missing)}))
    return _HEADER + "\n".join(stanzas) if stanzas else ""


def parse_sources(text: str) -> List[Dict[str, str]]:
    """Entries of type deb, both forms, as deb822 fields; disabled ones are left out."""
    found = []
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line.strip())
        if match:
            options, url, suite, components = match.groups()
            fields = {"Types": "deb", "URIs": url, "Suites": suite}
            fields["Components"] = " ".join(components.split())
            found.append({**fields, **_options(options or "")})
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        on = fields.pop("Enabled", "yes").lower() not in ("no", "false", "off", "0")
        if "deb" in fields.get("Types", "").split() and on and fields.get("Components"):
            found.append({**fields, "Types": "deb"})
    return found


def _options(text: str) -> Dict[str, str]:
    names = {"signed-by": "Signed-By", "arch": "Architectures", "trusted": "Trusted"}
    pairs = (option.partition("=") for option in text.split())
    return {names.get(key, key.title()): value.replace(",", " ") for key, _, value in pairs}


def _fields(stanza: str) -> Dict[str, str]:
    fields: Dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        match = re.match(r"([A-Za-z][\w-]*):\s*(.*)", line)
        if match:
            name = match.group(1)
            fields[name] = match.group(2).strip()
        elif name and line[0] in " \t":
            fields[name] += "\n" + line
    return fields


def _stanza(fields: Mapping[str, str]) -> str:
    return "".join("{}: {}\n".format(name, value) for name, value in fields.items() if value)


def render_preferences(
    pins: Sequence[Tuple[Sequence[str], str]], repositories: Sequence[Mapping[str, Any]] = ()
) -> str:
    """apt preferences that hold packages (glob patterns) to a version pattern such as "580.*".

    What a repository must not give (its `exclude`) gets a negative priority from its host.
    """
    stanzas = [
        _stanza(
            {
                "Package": " ".join(patterns),
                "Pin": "version {}".format(version),
                "Pin-Priority": str(_PRIORITY),
            }
        )
        for patterns, version in pins
        if patterns and version
    ]
    stanzas += [
        _stanza(
            {
                "Package": " ".join(repository["exclude"]),
                "Pin": 'origin "{}"'.format(urlsplit(repository["url"]).hostname or ""),
                "Pin-Priority": "-1",
            }
        )
        for repository in repositories
        if repository.get("exclude") and repository.get("url")
    ]
    return _HEADER + "\n".join(stanzas) if stanzas else ""


def render_exclusion(patterns: Sequence[str]) -> str:
    """apt.conf that keeps unattended-upgrades off packages, glob patterns turned to its regexes."""
    if not patterns:
        return ""
    lines = "".join('    "{}";\n'.format(_regex(pattern)) for pattern in patterns)
    header = _HEADER.replace("#", "//")
    return "{}Unattended-Upgrade::Package-Blacklist {{\n{}}};\n".format(header, lines)


def _regex(pattern: str) -> str:
    words = {"*": ".*", "?": ".", ".": "[.]", "+": "[+]"}
    return "^{}$".format("".join(words.get(letter, letter) for letter in pattern))
