"""Root file system of a suite: built once with mmdebstrap, cached by the hash of its recipe."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import machine, rocky, ubuntu
from tests.lab.config import DATA_DIR, USER, LabError
from tests.lab.system import locked, run, say

PACKAGES = (
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "openssh-server",
    "python3",
    "sudo",
    "ca-certificates",
    "iproute2",
    "procps",
)

# Runs on the machine with the new root as $1. The package lists get an old date, or Ansible's
# cache_valid_time would take them for fresh. Timers that hold the dpkg lock are masked.
CUSTOMIZE = f"""\
set -eu
cp -r "$CERTIFICATES"/. "$1/usr/local/share/ca-certificates/"
chroot "$1" update-ca-certificates >/dev/null 2>&1
chroot "$1" useradd --create-home --shell /bin/bash --uid 1000 --password '*' {USER}
chroot "$1" systemctl --quiet enable systemd-networkd ssh
chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \\
    systemd-networkd-wait-online.service systemd-firstboot.service
rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/resolv.conf" "$1/etc/machine-id"
touch "$1/etc/machine-id"
mkdir -p "$1/var/lib/apt/lists"
touch -d @1 "$1/var/lib/apt/lists"
"""


@dataclass(frozen=True)
class Recipe:
    """All that the content of a root file system depends on."""

    suite: str
    sources: tuple[str, ...]
    apt_settings: tuple[str, ...]
    certificates: tuple[str, ...]
    packages: tuple[str, ...] = PACKAGES
    customize: str = CUSTOMIZE

    @property
    def name(self) -> str:
        """Suite and hash, the name of the cached files."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def recipe(suite: str) -> Recipe:
    """Recipe for a suite on this machine."""
    digests = (hashlib.sha256(data).hexdigest() for data in machine.certificates().values())
    packages, customize = PACKAGES, CUSTOMIZE
    if suite in rocky.DRESSES:
        packages = (*PACKAGES, *rocky.EXTRA_PACKAGES)
        customize += rocky.customize(rocky.DRESSES[suite])
    elif suite in ubuntu.DRESSES:
        customize += ubuntu.customize(ubuntu.DRESSES[suite])
    return Recipe(
        suite=suite,
        sources=tuple(source.line() for source in machine.apt_sources(_debian(suite))),
        apt_settings=tuple(machine.machine_apt_settings()),
        certificates=tuple(digests),
        packages=packages,
        customize=customize,
    )


def _debian(suite: str) -> str:
    """The suite that mmdebstrap is given."""
    dressed = {**rocky.DRESSES, **ubuntu.DRESSES}
    return dressed[suite].base if suite in dressed else suite


def cache_dir() -> Path:
    """Folder of the cached archives, outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "infra-llm" / "rootfs"


def archive(wanted: Recipe) -> Path:
    """Path of the root file system as a tar, building it first where it is not cached."""
    path = cache_dir() / f"{wanted.name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return path
    with locked(path.with_suffix(".lock"), timeout=1200):
        if not path.exists():
            _build(wanted, path)
    return path


def _build(wanted: Recipe, path: Path) -> None:
    say(f"building the {wanted.suite} root file system, once (about two minutes)")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="infra-llm-rootfs-") as name:
        work = Path(name)
        hook, sources, built = work / "customize", work / "sources.list", work / "rootfs.tar"
        (work / "certificates").mkdir()
        for file, data in machine.certificates().items():
            (work / "certificates" / file).write_bytes(data)
        hook.write_text(f"#!/bin/sh\nCERTIFICATES={work / 'certificates'}\n{wanted.customize}")
        hook.chmod(0o755)
        sources.write_text("".join(line + "\n" for line in wanted.sources))
        argv = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(wanted.packages)}",
        ]
        argv += [f"--aptopt={setting}" for setting in wanted.apt_settings]
        # Hosts live for minutes: no fsync for each package, and no manuals.
        argv += ["--dpkgopt=force-unsafe-io", "--skip=cleanup/apt/lists"]
        argv += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")]
        argv += [f"--customize-hook={hook}", _debian(wanted.suite), str(built), str(sources)]
        run(argv, timeout=1200)
        partial = path.with_suffix(".partial")
        shutil.move(built, partial)
        partial.replace(path)
    say(f"built {wanted.name} in {time.monotonic() - started:.0f} s")


def unpacked(wanted: Recipe) -> Path:
    """Folder with the root file system, for overlays; root only."""
    folder = DATA_DIR / "base" / wanted.name
    if folder.exists():
        return folder
    source = archive(wanted)
    with locked(DATA_DIR / "base" / f"{wanted.name}.lock", timeout=300):
        if not folder.exists():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                run(
                    ["tar", "-C", str(partial), "--numeric-owner", "-xpf", str(source)], timeout=300
                )
            except LabError as error:
                source.unlink(missing_ok=True)
                raise LabError(
                    f"{source} is damaged and was removed: {error}", "run again"
                ) from error
            partial.rename(folder)
    return folder
