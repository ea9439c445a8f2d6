"""Addresses of the guests, shared by all labs of the machine through one locked file."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.config import RUN_DIR, LabError
from tests.lab.system import is_alive, locked, read_json, start_time, write_json

NETWORK = ipaddress.IPv4Network(os.environ.get("INFRA_LLM_LAB_NETWORK", "10.231.0.0/24"))
GATEWAY = str(NETWORK[1])


@dataclass(frozen=True)
class Lease:
    """A guest's claim to an address, good for as long as the process lives."""

    address: str
    machine: str
    state_dir: str
    pid: int
    start: int

    def holds(self) -> bool:
        """False when the guest died or its checkout is gone."""
        return is_alive(self.pid, self.start) and Path(self.state_dir).is_dir()


@dataclass
class Table:
    """All leases of the machine. ``settings`` are the machine's values from before the labs."""

    leases: dict[str, Lease] = field(default_factory=dict)
    last: int = 9
    settings: dict[str, str] = field(default_factory=dict)

    def allocate(self, machine: str, state_dir: Path) -> Lease:
        """Claim a free address for this process until the guest takes it over.

        The search goes on from the last address given: an address comes back late, so no SSH
        connection to a removed host can meet a new one.
        """
        usable = NETWORK.num_addresses - 11
        for step in range(1, usable + 1):
            index = 10 + (self.last - 10 + step) % usable
            address = str(NETWORK[index])
            if address not in self.leases:
                self.last = index
                pid = os.getpid()
                lease = Lease(address, machine, str(state_dir), pid, start_time(pid))
                self.leases[address] = lease
                return lease
        raise LabError(f"no free address in {NETWORK}", "python3 -m tests.lab down --all")

    def of(self, machine: str) -> Lease | None:
        """Lease of a guest."""
        return next((item for item in self.leases.values() if item.machine == machine), None)

    def release(self, machine: str) -> None:
        """Forget a guest."""
        self.leases = {key: item for key, item in self.leases.items() if item.machine != machine}

    def prune(self, clean: Callable[[Lease], None]) -> None:
        """Remove what dead guests left behind, and guests whose checkout is gone."""
        for lease in list(self.leases.values()):
            if not lease.holds():
                clean(lease)
                self.release(lease.machine)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load(data: dict[str, Any], boot: str) -> Table:
    """Table out of its file. After a reboot no process of it lives, whatever the numbers say."""
    table = Table(last=int(data.get("last", 9)))
    same_boot = data.get("boot") == boot
    for item in data.get("leases", []):
        lease = Lease(**item)
        table.leases[lease.address] = (
            lease if same_boot else Lease(**{**item, "pid": 0, "start": 0})
        )
    if same_boot:
        table.settings = dict(data.get("settings", {}))
    return table


@contextlib.contextmanager
def table() -> Iterator[Table]:
    """The machine's table, locked, and written back at the end."""
    path = RUN_DIR / "leases.json"
    with locked(RUN_DIR / "leases.lock"):
        boot = _boot_id()
        current = load(read_json(path, {}), boot)
        try:
            yield current
        finally:
            items = [asdict(lease) for lease in current.leases.values()]
            write_json(
                path,
                {
                    "boot": boot,
                    "last": current.last,
                    "leases": items,
                    "settings": current.settings,
                },
            )
