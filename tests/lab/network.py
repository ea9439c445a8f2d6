"""The bridge that guests hang on, and the way from it to the package indexes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tests.lab.config import LabError
from tests.lab.leases import GATEWAY, NETWORK, Table
from tests.lab.system import run

BRIDGE = "infrallm0"
NFT_TABLE = "infra_llm_lab"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_PROPAGATE = Path("/run/systemd/nspawn")

MASQUERADE = f"""\
table ip {NFT_TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {NETWORK} oifname != "{BRIDGE}" masquerade
  }}
}}
"""


def mtu() -> int:
    """MTU of the default route in bytes: larger packets would vanish on the way out."""
    routes = json.loads(run(["ip", "-json", "route", "show", "default"]) or "[]")
    if not routes:
        return 1500
    path = Path("/sys/class/net") / routes[0]["dev"] / "mtu"
    return min(1500, int(path.read_text()))


def up(table: Table) -> None:
    """Make bridge, address translation and the mount that nspawn needs, where they are missing."""
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        _refuse_conflict()
        run(["ip", "link", "add", BRIDGE, "mtu", str(mtu()), "type", "bridge"])
        run(["ip", "address", "add", f"{GATEWAY}/{NETWORK.prefixlen}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    if NFT_TABLE not in run(["nft", "list", "tables"]):
        run(["nft", "-f", "-"], stdin=MASQUERADE.encode())
    before = _FORWARD.read_text().strip()
    if before != "1":
        table.settings["ip_forward"] = before
        _FORWARD.write_text("1")
    # nspawn refuses a propagation folder on a disk, where /run is no tmpfs.
    if run(["stat", "-f", "-c", "%T", "/run"]).strip() != "tmpfs" and not _PROPAGATE.is_mount():
        _PROPAGATE.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(_PROPAGATE)])


def _refuse_conflict() -> None:
    routes = json.loads(run(["ip", "-json", "route"]) or "[]")
    for route in routes:
        if str(route.get("dst", "")) == str(NETWORK):
            raise LabError(
                f"{NETWORK} is in use here, by {route.get('dev')}",
                "set INFRA_LLM_LAB_NETWORK to a free /24, for example 10.232.0.0/24",
            )


def down(table: Table) -> None:
    """Undo ``up``; for when the last guest is gone."""
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        run(["ip", "link", "delete", BRIDGE])
    if NFT_TABLE in run(["nft", "list", "tables"]):
        run(["nft", "delete", "table", "ip", NFT_TABLE])
    if value := table.settings.pop("ip_forward", ""):
        _FORWARD.write_text(value)
    if _PROPAGATE.is_mount():
        with contextlib.suppress(LabError):
            run(["umount", str(_PROPAGATE)])
