"""Give a living test host the GPUs of a machine that is not here, or swap them.

    python tests/standins/install.py --machine h100x8 --root /path/of/the/guest
    python tests/standins/install.py --remove --root /path/of/the/guest

Puts the compiled stand-ins for libnvidia-ml.so.1 and nvidia-smi, the topology and a tree for /sys
and /proc/driver below the root (of a booted or stopped guest, or "/" inside it), and a systemd
unit that mounts the tree over the guest's own. CPU, RAM and network stay the host's. After a swap
run `systemctl restart infra-llm-standin` in the guest (a stopped guest does it when it boots).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.standins import machine as standin

BASE = "etc/infra-llm-standin"
UNIT = "etc/systemd/system/infra-llm-standin.service"
WANTED = "etc/systemd/system/multi-user.target.wants/infra-llm-standin.service"

UNIT_TEXT = """[Unit]
Description=GPUs that are not there (stand-in for tests)
DefaultDependencies=no
After=local-fs.target
Before=multi-user.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/etc/infra-llm-standin/apply start
ExecStop=/etc/infra-llm-standin/apply stop

[Install]
WantedBy=multi-user.target
"""

# /sys/bus/pci and /proc/driver are replaced: the host's own devices are not the machine's.
# /sys/class and /sys/module keep what the host has; a guest may lack /sys/module.
APPLY_TEXT = """#!/bin/sh
# Mounts the tree of the stand-in machine over this guest's /sys and /proc/driver.
tree=/etc/infra-llm-standin/current
stop() {
    if [ -f /run/infra-llm-standin.mounts ]; then
        xargs -n 1 umount -l </run/infra-llm-standin.mounts
        rm -f /run/infra-llm-standin.mounts
    fi
    if [ -f /run/infra-llm-standin.dev ]; then
        xargs rm -f </run/infra-llm-standin.dev
        rm -f /run/infra-llm-standin.dev
    fi
}
start() {
    tree=$(readlink -f "$tree")
    for place in /sys/bus/pci /proc/driver; do
        [ -d "$tree$place" ] && [ -d "$place" ] && mount --bind "$tree$place" "$place" &&
            echo "$place" >>/run/infra-llm-standin.mounts
    done
    for place in /sys/class /sys/module; do
        [ -d "$tree$place" ] && [ -d "$place" ] &&
            mount -t overlay overlay -o "lowerdir=$tree$place:$place" "$place" &&
            echo "$place" >>/run/infra-llm-standin.mounts
    done
    if [ -f "$tree/devices" ]; then
        cp "$tree/devices" /run/infra-llm-standin.dev
        xargs touch <"$tree/devices"
    fi
    return 0
}
case "$1" in
start) stop; start ;;
stop) stop ;;
remove) stop; xargs rm -f </etc/infra-llm-standin/files; rm -rf /etc/infra-llm-standin ;;
*) echo "usage: apply start|stop|remove" >&2; exit 2 ;;
esac
"""


def install(name: str, root: Path) -> Path:
    """Put the machine `name` below `root`; gives the new tree. The last two trees are kept."""
    machine = standin.load(name)
    base = root / BASE
    tree = base / "trees" / f"{time.time_ns()}-{name}"
    tree.mkdir(parents=True)
    if not machine.get("masked_sys"):
        standin.write_sysfs(live(machine), tree / "sys", tree="bus/pci/tree")
        for unwanted in ("devices", "firmware", "kernel", "class/dmi", "class/iommu", "class/net"):
            shutil.rmtree(tree / "sys" / unwanted, ignore_errors=True)
    (tree / "proc/driver").mkdir(parents=True)
    standin.write_nvrm(machine, tree / "proc")
    (tree / "gpus.topology").write_text(standin.topology(machine), encoding="utf-8")
    devices = device_files(machine)
    if devices:
        (tree / "devices").write_text("\n".join(devices) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        standin.install_tools(machine, root, *standin.compile_standins(Path(folder)))
    _point(base / "current", f"trees/{tree.name}")
    _point(base / "gpus.topology", "current/gpus.topology")
    (base / "machine").write_text(name + "\n", encoding="utf-8")
    (base / "apply").write_text(APPLY_TEXT, encoding="utf-8")
    (base / "apply").chmod(0o755)
    for path in (root / UNIT, root / WANTED):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / UNIT).write_text(UNIT_TEXT, encoding="utf-8")
    _point(root / WANTED, "../infra-llm-standin.service")
    library = root / standin.LIBRARY_FOLDER[machine["cpu"].get("arch", "x86_64")]
    outside = [*library.glob("libnvidia-ml.so.*"), *library.glob("libcuda.so.*")]
    outside.append(root / "usr/bin/nvidia-smi")
    listed = [f"/{path.relative_to(root)}" for path in outside]
    (base / "files").write_text("\n".join([*listed, f"/{WANTED}", f"/{UNIT}"]) + "\n")
    for old in sorted((base / "trees").iterdir())[:-2]:
        shutil.rmtree(old)
    return tree


def live(machine: standin.Machine) -> standin.Machine:
    """The machine without what would hide the guest's own network."""
    nics = [{k: v for k, v in nic.items() if k != "name"} for nic in machine.get("nics", [])]
    return {**machine, "nics": nics, "numa": [], "iommu": None, "secure_boot": None}


def device_files(machine: dict[str, Any]) -> list[str]:
    driver = machine.get("driver", {})
    if not driver.get("version") or not driver.get("loaded", True):
        return []
    cards = range(len(standin.nvidia_cards(machine)))
    names = ["/dev/nvidiactl", "/dev/nvidia-uvm", *(f"/dev/nvidia{n}" for n in cards)]
    if "switch" in machine.get("nvlink", {}):
        names.append("/dev/nvidia-nvswitch0")
    return names


def remove(root: Path) -> None:
    """Take it all away again; stop the unit in the guest first, or boot the guest after."""
    standin.install_tools({"cpu": {}}, root, Path(), Path())
    for path in (root / WANTED, root / UNIT):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / BASE, ignore_errors=True)


def _point(link: Path, target: str) -> None:
    fresh = link.with_name(link.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--root", type=Path, default=Path("/"))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--machine", help="a name of tests/fixtures/machines")
    what.add_argument("--remove", action="store_true")
    what.add_argument("--list", action="store_true")
    given = parser.parse_args(words)
    if given.list:
        print("\n".join(standin.names()))
    elif given.remove:
        remove(given.root)
    else:
        try:
            install(given.machine, given.root)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
