"""Guests dressed as Rocky Linux 9 and 10 (tests/lab/rocky.py) with stand-in repositories."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tests.e2e.driver_lab import DriverLab, Outcome
from tests.standins import rpm_repository

HOSTS = {"r9": "9", "r10": "10"}
GLOBS = ["cuda-drivers*", "kmod-nvidia*", "libnvidia-ml*", "nvidia-driver*", "nvidia-kmod*",
         "nvidia-open*", "nvidia-persistenced*"]  # fmt: skip


class RockyLab(DriverLab):
    """Both guests, each with a repository of its own on 127.0.0.1; a play runs on both."""

    def __init__(self, name: str, folder: Path) -> None:
        card = "no-driver-rtx5060ti"
        super().__init__(name, folder, "r9:rocky9,r10:rocky10", gpus=f"{card},{card}")
        self.keys = {}
        self.clean = {}
        for host, release in HOSTS.items():
            place = folder / host
            place.mkdir()
            self.keys[host] = rpm_repository.build(place, release)
            tar = (place / "guest.tar").read_bytes()
            self.on(host, "mkdir -p /srv/standin; tar -xC /srv/standin", stdin=tar)
            self.on(
                host,
                "sh /srv/standin/setup >/srv/standin/log 2>&1 || { cat /srv/standin/log; exit 1; }",
            )
            self.clean[host] = self.state(host)

    def driver(self, branch: str, modules: str, *words: str, **more: Any) -> Outcome:
        """Run the driver's role on both hosts with a plan as the solver makes it for EL."""
        given = more.pop("plan", {})
        plans, repositories = {}, {}
        for host, release in HOSTS.items():
            plans[host] = {**plan(branch, modules, release), **given}
            repositories[host] = rpm_repository.repositories(self.keys[host])
        return self.play(
            *words,
            driver_plans=plans,
            driver_places=repositories,
            driver_repositories="{{ driver_places[inventory_hostname] }}",
            os_family="redhat",
            **more,
        )

    def mirrors(self, host: str) -> dict[str, Any]:
        """The same repositories as `infra_llm_repositories` has them."""
        keys = ("url", "key_url", "key_fingerprint")
        named = [r for r in rpm_repository.repositories(self.keys[host]) if "url" in r]
        return {r["name"]: {key: r[key] for key in keys} for r in named}

    def installed(self, host: str) -> dict[str, str]:
        """Name -> version-release of all packages."""
        text = self.on(host, r"rpm -qa --qf '%{NAME} %{VERSION}\n'")
        return dict(line.split() for line in text.splitlines())

    def nvidia(self, host: str) -> dict[str, str]:
        """The same of NVIDIA's driver; packages of CUDA are named after their release (-13-0)."""
        found = self.installed(host).items()
        return {n: v for n, v in found if re.search(r"(nvidia|cuda)(?!.*-\d+-\d+$)", n)}

    def locks(self, host: str) -> dict[str, str]:
        """Locked package -> version, out of `dnf versionlock list`."""
        text = self.on(host, "dnf -q versionlock list")
        found = re.findall(r"^(.+)-\d+:(\S+?)-1\.el\d+\.\*$", text, re.M)
        return dict(found)

    def state(self, host: str) -> str:
        """All that a removal must bring back: packages, keys, files of dnf and of systemd."""
        return self.on(
            host,
            "rpm -qa | sort; find /etc/yum.repos.d /etc/dnf /etc/pki /etc/systemd/system "
            "/etc/modprobe.d /usr/src /usr/lib64 -not -type d | sort | xargs sha256sum 2>&1; "
            "ls -A /opt /var/cache/dnf | grep infra-llm; "
            "ls -d /etc/infra-llm* /var/lib/infra-llm* 2>/dev/null; true",
        )


def plan(branch: str, modules: str, release: str) -> dict[str, Any]:
    """The driver's plan, as core/stack makes it for rocky9 and rocky10."""
    package, gone = {
        "open": ("nvidia-open", ["cuda-drivers*", "kmod-nvidia-latest-dkms"]),
        "proprietary": ("cuda-drivers", ["nvidia-open*", "kmod-nvidia-open-dkms"]),
    }[modules]
    stream = f"nvidia-driver:{branch}-{'open' if modules == 'open' else 'dkms'}"
    return {
        "source": "vendor",
        "branch": branch,
        "modules": modules,
        "packages": [package],
        "pin": f"{branch}.*",
        "pinned": GLOBS,
        "headers": [f"kernel-devel-{os.uname().release}", "kernel-devel-matched", "kernel-headers"],
        "conflicts": gone,
        "module_stream": stream if release == "9" else "",
    }
