"""The same wish for dnf, as data: files and commands. Rendered and tested, never run for real.

Standard library, Python 3.8. Sources: NVIDIA's driver installation guide for RHEL 9 and 10 (module
streams, and version lock where there are none), dnf(8), dnf-versionlock(8).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence

from ...core.errors import HostFailedError
from .command import call
from .dpkg import Call, matching
from .openpgp import pinned_key
from .transaction import Done, Wish, fetched, read, write

REPOSITORIES = "/etc/yum.repos.d"
KEYS = "/etc/pki/rpm-gpg"


@dataclass
class Rendered:
    """What dnf is to be given."""

    files: Dict[str, str] = field(default_factory=dict)
    keys: Dict[str, Dict[str, str]] = field(default_factory=dict)
    """Path -> {"url", "fingerprint"}."""
    commands: List[List[str]] = field(default_factory=list)


def render(wish: Wish, module_stream: str, installed: Sequence[str]) -> Rendered:
    """Files, keys and commands for a wish; `installed` are the names of all packages there are.

    EL 9 takes the driver's branch and flavour from a module stream, EL 10 has none: there the
    version lock holds the branch.
    """
    rendered = Rendered()
    for repository in wish.repositories:
        if repository["name"] == "distribution":
            # CRB and such: components are repository ids here.
            for name in repository.get("components") or []:
                rendered.commands.append(["dnf", "config-manager", "--set-enabled", name])
            continue
        _repository(repository, rendered)
    gone = [n for n in matching(installed, wish.purge) if n not in wish.install]
    if module_stream:
        name = module_stream.partition(":")[0]
        rendered.commands.append(["dnf", "-y", "module", "reset", name])
        rendered.commands.append(["dnf", "-y", "module", "enable", module_stream])
    elif wish.hold:
        rendered.commands.append(["dnf", "versionlock", "delete", *wish.hold])
    # dnf's shell is the one way to remove and install in one transaction.
    lines = ["remove {}".format(" ".join(gone))] if gone else []
    lines += ["install {}".format(" ".join(_with_version(wish))), "run"]
    script = "/run/infra-llm-{}.dnf".format(wish.name)
    rendered.files[script] = "\n".join(lines) + "\n"
    rendered.commands.append(["dnf", "-y", "--setopt=install_weak_deps=False", "shell", script])
    if wish.hold and not module_stream:
        rendered.commands.append(["dnf", "versionlock", "add", *wish.hold])
    return rendered


def _repository(repository: Mapping[str, Any], rendered: Rendered) -> None:
    name = "infra-llm-{}".format(repository["name"])
    key = os.path.join(KEYS, "RPM-GPG-KEY-" + name)
    rendered.keys[key] = {
        "url": repository["key_url"],
        "fingerprint": repository["key_fingerprint"],
    }
    fields = {
        "name": name,
        "baseurl": repository["url"],
        "enabled": "1",
        "gpgcheck": "1",
        "repo_gpgcheck": "1",
        "gpgkey": "file://" + key,
    }
    if repository.get("exclude"):
        fields["excludepkgs"] = ",".join(repository["exclude"])
    text = "[{}]\n".format(name) + "".join("{}={}\n".format(*pair) for pair in fields.items())
    rendered.files[os.path.join(REPOSITORIES, name + ".repo")] = text


def _with_version(wish: Wish) -> List[str]:
    versions = {n: version for patterns, version in wish.pins
                for n in matching(wish.install, patterns)}  # fmt: skip
    return ["{}-{}".format(n, versions[n]) if versions.get(n) else n for n in wish.install]


def apply(wish: Wish, module_stream: str, check: bool, run: Call = call) -> Done:
    """Run what `render` says where a package is missing. Raises HostFailedError."""
    done = Done()
    before = _installed(run)
    rendered = render(wish, module_stream, before)
    done.paths = [*(p for p in rendered.files if not p.startswith("/run/")), *rendered.keys]
    for path, text in rendered.files.items():
        if path.startswith("/run/"):
            continue
        there = read(path).decode("utf-8", "replace")
        if there != text:
            done.files[path] = (there, text)
    gone = [n for n in matching(before, wish.purge) if n not in wish.install]
    missing = [n for n in wish.install if n not in before]
    done.changed = bool(done.files or gone or missing)
    done.steps.changes.update(dict.fromkeys(missing, (None, "wished")))
    done.steps.changes.update(dict.fromkeys(gone, ("there", None)))
    if done.changed and not check:
        _run(rendered, run)
        done.added = sorted(set(_installed(run)) - set(before))
    return done


def _run(rendered: Rendered, run: Call) -> None:
    for path, key in rendered.keys.items():
        data = fetched(key["url"])
        pinned_key(data, key["fingerprint"], key["url"])
        write(path, data)
    for path, text in rendered.files.items():
        write(path, text.encode())
    for command in rendered.commands:
        done = run(command)
        if done.status and "versionlock" not in command:
            tail = "\n".join(done.lines()[-10:])
            raise HostFailedError("{} failed:\n{}".format(" ".join(command[:4]), tail))


def _installed(run: Call) -> List[str]:
    done = run(["rpm", "--query", "--all", "--queryformat", "%{NAME}\\n"])
    if done.status:
        raise HostFailedError("can't ask for packages: {}".format(done.text.strip()))
    return sorted(set(done.lines()))
