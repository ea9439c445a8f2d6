"""A package docker-ce that is none: enough for a role to find a docker of another source.

    python -m tests.standins.docker_ce FILE.deb

dockerd waits, `docker version` answers while it runs, and the unit is the one of that name.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.standins.apt_repository import Package, archive

DAEMON = """#!/bin/sh
[ "$1" = --version ] && echo "Docker version 28.5.1, build standin" && exit 0
exec sleep infinity
"""
CLIENT = """#!/bin/sh
systemctl --quiet is-active docker.service || exit 1
[ "$1" = version ] && echo 28.5.1
exit 0
"""
UNIT = """[Unit]
Description=Docker of another source (stand-in for tests)

[Service]
ExecStart=/usr/bin/dockerd

[Install]
WantedBy=multi-user.target
"""


def package() -> Package:
    return Package(
        "docker-ce",
        "5:28.5.1-1~debian.12~bookworm",
        files={
            "usr/bin/dockerd": (DAEMON, 0o755),
            "usr/bin/docker": (CLIENT, 0o755),
            "usr/lib/systemd/system/docker.service": (UNIT, 0o644),
        },
        scripts={"postinst": "#!/bin/sh\nsystemctl daemon-reload\n"},
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(archive(package()))
