"""Command line of the lab: ``python3 -m tests.lab {up,down,status,swap,molecule}``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import backend as backends
from tests.lab import inventory, operations, scenarios
from tests.lab.config import Lab, LabError, NeedsRootError, parse_hosts, parse_platforms
from tests.lab.system import say


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when done, 1 when it failed, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except NeedsRootError as error:
        return _as_root(error, sys.argv[1:] if arguments is None else arguments)
    except LabError as error:
        say(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""))
        return 1
    except KeyboardInterrupt:
        return 130


def _as_root(error: LabError, arguments: list[str]) -> int:
    """Start again through sudo, which asks for a password where it must."""
    if not shutil.which("sudo") or not os.geteuid():
        say(f"error: {error}\n  {error.hint}")
        return 1
    say(f"{error}: asking sudo")
    kept = f"--preserve-env={backends.VARIABLE},INFRA_LLM_LAB_NETWORK"
    return subprocess.call(["sudo", kept, sys.executable, "-m", "tests.lab", *arguments])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    lab = argparse.ArgumentParser(add_help=False)
    lab.add_argument("--name", default="main", help="which lab of this checkout (default: main)")
    lab.add_argument(
        "--inventory",
        type=Path,
        help="inventory to write (default: lab.ini, for another lab than main .lab/NAME/lab.ini)",
    )

    up = commands.add_parser("up", parents=[lab], help="start hosts, or keep those that run")
    up.add_argument(
        "--hosts", default="node1,node2", help="NAME[:SUITE],... (default: node1,node2)"
    )
    up.add_argument("--platforms", help="the hosts as a JSON list, in place of --hosts")
    up.add_argument(
        "--suite",
        default="bookworm",
        help="bookworm, trixie or sid; rocky9, rocky10, ubuntu2204, ubuntu2404: Debian dressed so",
    )
    up.add_argument("--gpus", default="", help="GPU stand-ins, MACHINE,... one for each host")
    up.add_argument("--memory", default="", help="limit for each host, such as 2G")
    up.add_argument("--no-sudo", action="store_true", help="the user may not use sudo")
    up.add_argument("--python", choices=("yes", "none"), default="yes", help="none: remove python3")
    up.add_argument(
        "--containers", action="store_true", help="let a container engine run in the hosts"
    )
    up.add_argument(
        "--reboots", action="store_true", help="let the hosts come back when they reboot"
    )
    up.add_argument("--instance-config", type=Path, help="file for molecule's default driver")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", parents=[lab], help="remove the hosts of this lab")
    down.add_argument("--all", action="store_true", help="of all labs on this machine")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", parents=[lab], help="what runs, as JSON")
    status.set_defaults(run=_status)

    swap = commands.add_parser("swap", parents=[lab], help="give a running host other GPUs")
    swap.add_argument("host")
    swap.add_argument("gpus", help="machine name of the stand-in, or none")
    swap.set_defaults(run=_swap)

    molecule = commands.add_parser("molecule", help="run scenarios and sum up")
    molecule.add_argument("scenarios", nargs="*", help="default: all")
    molecule.add_argument("--jobs", type=int, default=1, help="scenarios side by side")
    molecule.set_defaults(run=_molecule)
    return parser


def _up(options: argparse.Namespace) -> None:
    started = time.monotonic()
    common = {
        "suite": options.suite,
        "memory": options.memory,
        "sudo": not options.no_sudo,
        "containers": options.containers,
        "reboots": options.reboots,
        "python": options.python == "yes",
    }
    if options.platforms:
        try:
            platforms = json.loads(options.platforms)
        except ValueError as error:
            raise LabError(f"--platforms is not JSON: {error}") from error
        specs = parse_platforms(platforms, **common)
    else:
        specs = parse_hosts(options.hosts, options.gpus, **common)
    lab = Lab(options.name)
    hosts = operations.up(lab, specs)
    place = options.inventory or _default_inventory(lab)
    place.write_text(inventory.render(hosts, lab.key, lab.known_hosts))
    if options.instance_config:
        # JSON is YAML too.
        config = inventory.instance_config(hosts, lab.key)
        options.instance_config.write_text(json.dumps(config, indent=1) + "\n")
    if (owner := os.environ.get("SUDO_UID")) and not os.geteuid():
        os.chown(place, int(owner), int(os.environ.get("SUDO_GID", owner)))
    say(f"{place}: {len(hosts)} hosts in {time.monotonic() - started:.1f} s")


def _default_inventory(lab: Lab) -> Path:
    return lab.tree / "lab.ini" if lab.name == "main" else lab.state_dir / "lab.ini"


def _down(options: argparse.Namespace) -> None:
    if options.all:
        names = backends.make(backends.choose()).destroy_all()
    else:
        names = operations.down(Lab(options.name))
    (options.inventory or _default_inventory(Lab(options.name))).unlink(missing_ok=True)
    say(f"removed: {', '.join(names)}" if names else "nothing to remove")


def _status(options: argparse.Namespace) -> int:
    hosts = operations.status(Lab(options.name))
    print(json.dumps(hosts, indent=1))
    return 0 if all(host["ssh"] for host in hosts) else 1


def _swap(options: argparse.Namespace) -> None:
    operations.swap(Lab(options.name), options.host, options.gpus)
    say(f"{options.host} has the GPUs of {options.gpus}")


def _molecule(options: argparse.Namespace) -> int:
    return scenarios.run_all(options.scenarios, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
