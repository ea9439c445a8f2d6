"""Stand-ins for Ubuntu 22.04 and 24.04: Debian that says it is Ubuntu.

No package of Ubuntu's can be reached from where the tests run. These guests are Debian with the
os-release and lsb-release of Ubuntu: what asks which distribution it is on takes
Ubuntu's way. Packages, kernel, libraries, systemd and Python are Debian's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dress:
    """What a guest is to look like, and the Debian below."""

    base: str
    """Suite of Debian."""
    release: str
    """VERSION_ID of os-release."""
    codename: str


DRESSES = {
    # The Debian whose apt and systemd are nearest: 2.6 and 252 for 2.4 and 249, 3.0 and 257 for 2.7
    # and 255.
    "ubuntu2204": Dress("bookworm", "22.04", "jammy"),
    "ubuntu2404": Dress("trixie", "24.04", "noble"),
}

_CUSTOMIZE = """\
cat >"$1/usr/lib/os-release" <<'END'
PRETTY_NAME="Ubuntu @RELEASE@ LTS (stand-in: Debian dressed as it)"
NAME="Ubuntu"
VERSION_ID="@RELEASE@"
VERSION="@RELEASE@ LTS"
VERSION_CODENAME=@CODENAME@
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=@CODENAME@
END
cat >"$1/etc/lsb-release" <<'END'
DISTRIB_ID=Ubuntu
DISTRIB_RELEASE=@RELEASE@
DISTRIB_CODENAME=@CODENAME@
DISTRIB_DESCRIPTION="Ubuntu @RELEASE@ LTS"
END
"""


def customize(dress: Dress) -> str:
    """Lines of the shell that dress the root file system $1."""
    return _CUSTOMIZE.replace("@RELEASE@", dress.release).replace("@CODENAME@", dress.codename)
