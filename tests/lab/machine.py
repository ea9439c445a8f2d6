"""Settings that guests take over from this machine: package sources, certificates, pip."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.config import LabError
from tests.lab.system import run

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CA_FOLDER = Path("/usr/local/share/ca-certificates")
_DEBIAN = re.compile(r"(buster|bullseye|bookworm|trixie|forky|sid|stable|oldstable|testing)\b")
_APT_SETTING = re.compile(
    r'^(Acquire::(?:https?|Retries|Check-Valid-Until|Check-Date)\S*) "(.+)";$', re.MULTILINE
)


@dataclass(frozen=True)
class Source:
    """One line of sources.list."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        option = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def parse_sources(text: str) -> list[Source]:
    """Read sources in the one-line and in the deb822 form; disabled entries are left out."""
    found = []
    for line in text.splitlines():
        if match := re.match(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.strip()):
            options, uri, suite, components = match.groups()
            key = re.search(r"signed-by=(\S+)", options or "")
            parts = tuple(components.split("#")[0].split())
            found.append(Source(uri, suite, parts, key[1] if key else ""))
    for stanza in re.split(r"\n\s*\n", text):
        keep = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        pairs = re.findall(r"^([\w-]+):[ \t]*(.*)$", keep, re.MULTILINE)
        field = {key.lower(): value.strip() for key, value in pairs}
        if "deb" not in field.get("types", "").split() or field.get("enabled", "yes") == "no":
            continue
        found += [
            Source(
                uri, suite, tuple(field.get("components", "").split()), field.get("signed-by", "")
            )
            for uri in field.get("uris", "").split()
            for suite in field.get("suites", "").split()
        ]
    return found


def sources_for(suite: str, sources: Iterable[Source]) -> list[Source]:
    """The machine's Debian sources, turned to another suite: same mirror, same components."""
    result: list[Source] = []
    for source in sources:
        match = _DEBIAN.match(source.suite)
        if not match or "backports" in source.suite:
            continue
        rest = source.suite[match.end() :]
        if suite == "sid" and rest:
            continue
        turned = Source(source.uri, suite + rest, source.components, source.signed_by)
        if turned not in result:
            result.append(turned)
    return result


def apt_sources(suite: str) -> list[Source]:
    """Sources for a guest; LabError where this machine knows no Debian mirror."""
    folder = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]
    files += sorted(folder.glob("*.sources"))
    known = [
        source for path in files if path.exists() for source in parse_sources(path.read_text())
    ]
    found = sources_for(suite, known)
    if not found:
        raise LabError(
            "this machine has no Debian package source to build guests from",
            "name one in a file /etc/apt/sources.list.d/*.list",
        )
    return found


def apt_settings(dump: str) -> list[str]:
    """Network settings out of ``apt-config dump``: proxies, retries, date checks."""
    return [f'{key} "{value}";' for key, value in _APT_SETTING.findall(dump)]


def machine_apt_settings() -> list[str]:
    """Network settings of this machine's apt."""
    return apt_settings(run(["apt-config", "dump"]))


def certificates() -> dict[str, bytes]:
    """Certificate authorities that somebody added to this machine, by file name."""
    return {path.name: path.read_bytes() for path in sorted(CA_FOLDER.glob("*.crt"))}


def pip_conf(texts: Sequence[str], environment: Mapping[str, str]) -> str:
    """pip.conf for a guest: the index settings of this machine that mean something elsewhere.

    Paths and file: addresses are left out, and the certificate bundle is the guest's own.
    """
    settings: dict[str, str] = {}
    for text in texts:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        for section in ("global", "install"):
            if parser.has_section(section):
                settings.update(parser.items(section))
    for name, value in environment.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = value
    kept = {}
    for key in ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries"):
        words = settings.get(key, "").split()
        if key.endswith("index-url"):
            words = [word for word in words if word.startswith(("http://", "https://"))]
        if words:
            kept[key] = " ".join(words)
    kept["cert"] = CA_BUNDLE
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in kept.items())


def machine_pip_conf() -> str:
    """pip.conf for a guest, from this machine's files and environment."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", config / "pip/pip.conf"]
    return pip_conf([path.read_text() for path in files if path.is_file()], os.environ)


def resolv_conf() -> str:
    """Name servers as a guest can reach them: not a resolver on this machine's loopback."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    text = Path("/etc/resolv.conf").read_text()
    if re.search(r"^nameserver\s+127\.", text, re.MULTILINE) and upstream.exists():
        text = upstream.read_text()
    return text
