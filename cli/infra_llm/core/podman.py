"""podman as the service's own user: the options that keep its stores apart from everybody's. Pure.

Runs on the controller and on targets: standard library, Python 3.8. The user has no range of
subordinate ids, so that no setuid helper (newuidmap) is needed and a unit can forbid new
privileges: the container's root is the service's user, and every other owner of an image's files
becomes that user, too (containers-storage.conf(5), ignore_chown_errors). Images lie in a store that
only `infra-llm provision` writes to (there, additionalimagestores); the service has one of its own.
"""

from __future__ import annotations

from typing import List

IMAGES, STORAGE = "images", "storage"
"""In the folder of an instance (`containers` of core/layout.py): the images, and what runs."""
PIDFILE = "pid"
"""In the runtime folder of the service: the number of the container's first process."""
RUN = "/run"


def run_folder(service: str, parent: str = RUN) -> str:
    """The runtime folder of a service that podman runs: its unit makes it and takes it away."""
    return "{}/{}-container".format(parent, service)


def images_client(containers: str, run: str) -> List[str]:
    """The client that loads, pulls and inspects images; `run` is a folder of this call alone."""
    return _client("{}/{}".format(containers, IMAGES), run)


def service_client(containers: str, run: str) -> List[str]:
    """The client of the service; `run` is its runtime folder."""
    images = "--storage-opt=overlay.imagestore={}/{}".format(containers, IMAGES)
    return [*_client("{}/{}".format(containers, STORAGE), run), images]


def _client(store: str, run: str) -> List[str]:
    return [
        "/usr/bin/podman",
        # Its events would stand among the engine's own words in the journal; so would two lines at
        # each start about subordinate ids. Errors that end it are printed at every level.
        "--events-backend=none",
        "--log-level=fatal",
        # No bus of a login session is there to ask for a scope.
        "--cgroup-manager=cgroupfs",
        "--root=" + store,
        "--runroot={}/storage".format(run),
        "--tmpdir={}/libpod".format(run),
        "--storage-driver=overlay",
        "--storage-opt=overlay.ignore_chown_errors=true",
    ]
