"""Guests for the driver's role: one play, plans, and what the guest says after it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ROOT, run
from tests.e2e.test_fleet import ssh_words

MACHINE = """
# The guest plays a machine: the probe must not see that it is none, and the kernel, none of the
# distribution's, has headers as if somebody had put them there.
rm -f /run/systemd/container
mount --bind /dev/null /proc/1/environ
mkdir -p "/lib/modules/$(uname -r)/build"
touch "/lib/modules/$(uname -r)/build/Makefile"
"""
PINNED = ["nvidia-*", "libnvidia-*", "cuda-drivers"]


@dataclass
class Outcome:
    """A run of the play: the return code, tasks changed on each host, and all that was said."""

    code: int
    changed: dict[str, int]
    text: str


class DriverLab:
    """Guests of one lab."""

    script_seconds = 300
    play_seconds = 900

    def __init__(
        self,
        name: str,
        folder: Path,
        hosts: str,
        gpus: str = "",
        reboots: bool = True,
        containers: bool = False,
    ) -> None:
        self.name = name
        self.inventory = folder / "lab.ini"
        words = ["--name", name, "--inventory", str(self.inventory), "--hosts", hosts]
        words += ["--reboots"] if reboots else []
        words += ["--containers"] if containers else []
        run(sys.executable, "-m", "tests.lab", "up", *words, *(["--gpus", gpus] if gpus else []))

    def down(self) -> None:
        run(sys.executable, "-m", "tests.lab", "down", "--name", self.name)

    def on(self, host: str, script: str, check: bool = True, stdin: bytes = b"") -> str:
        """Output of a script that runs as root."""
        done = subprocess.run(
            [*ssh_words(self.inventory, host), f"sudo bash -c {shlex.quote(script)}"],
            input=stdin,
            capture_output=True,
            timeout=self.script_seconds,
        )
        text = done.stdout.decode()
        assert not check or done.returncode == 0, f"{script}: {text}{done.stderr.decode()}"
        return text.strip()

    def play(self, *words: str, playbook: str = "tests/e2e/driver.yml", **given: Any) -> Outcome:
        """Run the play with the given variables."""
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                       "PYTHONPATH": str(ROOT / "cli"), "ANSIBLE_NOCOLOR": "1"}  # fmt: skip
        tools = Path(sys.executable).parent
        done = subprocess.run(
            [str(tools / "ansible-playbook"), "--inventory", str(self.inventory), playbook,
             "--extra-vars", json.dumps(given), *words],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=self.play_seconds,
        )  # fmt: skip
        recap = re.findall(r"^(\S+)\s+: ok=.*?changed=(\d+)", done.stdout, re.M)
        text = re.sub(r"\s+", " ", done.stdout + done.stderr)
        return Outcome(done.returncode, {host: int(n) for host, n in recap}, text)

    def versions(self, host: str) -> dict[str, str]:
        """Package -> "version hold|install" of NVIDIA's packages that are installed."""
        wish = "${Package} ${Version} ${db:Status-Want} ${db:Status-Status}\\n"
        text = self.on(host, f"dpkg-query --show --showformat='{wish}'")
        rows = (line.split() for line in text.splitlines())
        found = {r[0]: f"{r[1]} {r[2]}" for r in rows if len(r) == 4 and r[3] == "installed"}
        ours = re.compile("nvidia|cuda")
        return {name: version for name, version in found.items() if ours.search(name)}


def vendor_plan(branch: str, modules: str, kernel: str, **more: Any) -> dict[str, Any]:
    """The driver's plan on NVIDIA's repository in the layout of Debian."""
    flavours = {
        "open": ("nvidia-open", ["cuda-drivers", "nvidia-kernel-dkms"]),
        "proprietary": ("cuda-drivers", ["nvidia-open", "nvidia-kernel-open-dkms"]),
    }
    package, conflicts = flavours[modules]
    return {
        "source": "vendor",
        "branch": branch,
        "modules": modules,
        "packages": [package],
        "pin": f"{branch}.*",
        "pinned": PINNED,
        "headers": [f"linux-headers-{kernel}"],
        "conflicts": conflicts,
        **more,
    }
