"""NVIDIA's repository of the container toolkit, as small packages of the same names and layout.

    python -m tests.standins.container_toolkit FOLDER --keys KEYS            # FOLDER/fingerprint
    python -m tests.standins.container_toolkit FOLDER --keys KEYS --key other      # the key changes
    python -m tests.standins.container_toolkit FOLDER --keys KEYS --without libnvidia-container1

Names, dependencies, paths and what the units do follow the packages of 1.17 to 1.20
(NVIDIA/nvidia-container-toolkit: packaging/debian, deployments/systemd); the programs are
nvidia_ctk.py. What is in the folder and is no package of these goes.
"""

from __future__ import annotations

import argparse
import shutil
import stat
from pathlib import Path

from tests.standins.apt_repository import Package, build, create_key

VERSIONS = ("1.17.8-1", "1.18.2-1", "1.20.0-1")
PROGRAM = Path(__file__).with_name("nvidia_ctk.py").read_text(encoding="utf-8")
LINK = stat.S_IFLNK

SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/sbin/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecCondition=/usr/bin/grep -qE '/nvidia.ko' /lib/modules/%v/modules.dep
ExecStart=/usr/bin/nvidia-ctk cdi generate
CapabilityBoundingSet=CAP_SYS_MODULE CAP_SYS_ADMIN CAP_MKNOD

[Install]
WantedBy=multi-user.target
"""
SERVICE_1_20 = SERVICE.replace(
    "ExecStart=",
    "ExecStart=/bin/sh -c '/usr/bin/nvidia-smi -L || /usr/sbin/nvidia-smi -L'\n"
    "ExecStart=-/usr/bin/nvidia-ctk system create-device-nodes --control-devices\n"
    "ExecStart=",
).replace("\n\n[Install]", "\nRestart=on-failure\nRestartSec=1s\n\n[Install]")
PATH_UNIT = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver or toolkit install / upgrade events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/modules.dep.bin
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""
# debhelper's own snippets, shortened: enable at the first installation, start when systemd runs.
POSTINST = """#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
config=/etc/nvidia-container-runtime/config.toml
/usr/bin/nvidia-ctk --quiet config --config-file=$config --in-place
for unit in @UNITS@; do
    deb-systemd-helper unmask "$unit" >/dev/null || true
    if deb-systemd-helper --quiet was-enabled "$unit"; then
        deb-systemd-helper enable "$unit" >/dev/null || true
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    for unit in @UNITS@; do deb-systemd-invoke start "$unit" >/dev/null || true; done
fi
"""
PRERM = """#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    for unit in @UNITS@; do deb-systemd-invoke stop "$unit" >/dev/null || true; done
fi
"""
POSTRM = """#!/bin/sh
set -e
if [ "$1" = purge ]; then
    for unit in @UNITS@; do deb-systemd-helper purge "$unit" >/dev/null || true; done
fi
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || true
fi
"""
LINK_POSTINST = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ ! -e /usr/bin/nvidia-container-toolkit ]; then
    ln -s /usr/bin/nvidia-container-runtime-hook /usr/bin/nvidia-container-toolkit
fi
"""
LINK_POSTRM = """#!/bin/sh
set -e
if [ "$1" = purge ] && [ -L /usr/bin/nvidia-container-toolkit ]; then
    rm /usr/bin/nvidia-container-toolkit
fi
"""
HOOK = "#!/bin/sh\n# Stand-in: GPUs come by CDI, or by nvidia-container-runtime.\nexit 0\n"


def packages(version: str, architecture: str = "amd64") -> list[Package]:
    """The four packages of one version."""
    program = (PROGRAM.replace("@VERSION@", version.partition("-")[0]), 0o755)
    library = f"libnvidia-container.so.{version.partition('-')[0]}"
    folder = "usr/lib/x86_64-linux-gnu"
    base = {f"usr/bin/{name}": program for name in ("nvidia-ctk", "nvidia-container-runtime")}
    base["usr/bin/nvidia-cdi-hook"] = (HOOK, 0o755)
    units = ""
    if version >= "1.18":
        units = "nvidia-cdi-refresh.path nvidia-cdi-refresh.service"
        service = SERVICE_1_20 if version >= "1.20" else SERVICE
        base["lib/systemd/system/nvidia-cdi-refresh.service"] = (service, 0o644)
        base["lib/systemd/system/nvidia-cdi-refresh.path"] = (PATH_UNIT, 0o644)
        base["etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"] = ("# stand-in\n", 0o644)
    scripts = {"postinst": POSTINST, "prerm": PRERM, "postrm": POSTRM}
    scripts = {name: text.replace("@UNITS@", units) for name, text in scripts.items()}
    links = {"postinst": LINK_POSTINST, "postrm": LINK_POSTRM}
    equal = f"(= {version})"
    return [
        Package("libnvidia-container1", version, architecture,
                files={f"{folder}/{library}": ("stand-in", 0o644),
                       f"{folder}/libnvidia-container.so.1": (library, LINK)}),
        Package("libnvidia-container-tools", version, architecture,
                depends=f"libnvidia-container1 {equal}",
                files={"usr/bin/nvidia-container-cli": program}),
        Package("nvidia-container-toolkit-base", version, architecture, files=base,
                depends="python3", scripts=scripts),
        Package("nvidia-container-toolkit", version, architecture, scripts=links,
                depends=f"nvidia-container-toolkit-base {equal}, libnvidia-container-tools {equal}",
                files={"usr/bin/nvidia-container-runtime-hook": (HOOK, 0o755)}),
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keys", type=Path, required=True, help="folder of the key ring")
    parser.add_argument("--key", default="vendor", help="name of the signing key, made when new")
    parser.add_argument("--without", action="append", default=[], help="package to leave out")
    parser.add_argument("--version", nargs="+", default=VERSIONS, help="versions to offer")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    every = [package for version in options.version for package in packages(version)]
    every = [package for package in every if package.name not in options.without]
    key = create_key(options.keys, options.key)
    build(every, options.folder, key)
    # A playbook pins the key by this.
    (options.folder / "fingerprint").write_text(key.fingerprint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
