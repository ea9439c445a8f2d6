"""Stand-ins for Rocky Linux 9 and 10: Debian dressed as one of the RHEL family.

No package of Rocky's can be reached from where the tests run. These guests are Debian with the real
rpm, dnf (its versionlock among it), rpm-build and createrepo_c that Debian packages, an os-release
of Rocky's, an rpm database of their own, dnf's settings as Rocky has them, and neither apt nor
dpkg: what calls one of those fails as it would there. Kernel, libraries, systemd and Python are
Debian's.
"""

from __future__ import annotations

from dataclasses import dataclass

EXTRA_PACKAGES = ("rpm", "dnf", "dnf-plugins-core", "createrepo-c", "gnupg", "gpg-agent")


@dataclass(frozen=True)
class Dress:
    """What a guest is to look like, and the Debian below."""

    base: str
    """Suite of Debian."""
    release: str
    """VERSION_ID of os-release."""

    @property
    def major(self) -> str:
        return self.release.partition(".")[0]


DRESSES = {
    # dnf 4.14 on both Debian 12 and EL 9; 4.23 on Debian 13, 4.20 on EL 10.
    "rocky9": Dress("bookworm", "9.6"),
    "rocky10": Dress("trixie", "10.0"),
}

_CUSTOMIZE = """\
cat >"$1/usr/lib/os-release" <<'END'
NAME="Rocky Linux"
VERSION="@RELEASE@"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="@RELEASE@"
PLATFORM_ID="platform:el@MAJOR@"
PRETTY_NAME="Rocky Linux @RELEASE@ (stand-in: Debian dressed as it)"
END
rm -f "$1/etc/debian_version"
mkdir -p "$1/etc/yum.repos.d" "$1/etc/pki/rpm-gpg" "$1/etc/rpm" "$1/tmp/release"
cat >"$1/etc/dnf/dnf.conf" <<'END'
[main]
gpgcheck=1
installonly_limit=3
clean_requirements_on_remove=True
best=True
skip_if_unavailable=False
END
# Debian's rpm looks into root's home for its database, and has no distribution tag.
cat >"$1/etc/rpm/macros.standin" <<'END'
%_dbpath /var/lib/rpm
%dist .el@MAJOR@
END
# The loader of EL looks into /usr/lib64, Debian's does not.
echo /usr/lib64 >"$1/etc/ld.so.conf.d/lib64.conf"
# What Debian brought, as far as packages of EL ask for it.
cat >"$1/tmp/release/release.spec" <<'END'
Name: rocky-release
Version: @RELEASE@
Release: 1%{?dist}
Summary: stand-in for rocky-release
License: none
BuildArch: noarch
Provides: system-release = %{version}-%{release}
Provides: system-release(releasever) = @MAJOR@
Provides: /bin/sh, /usr/bin/sh, bash, systemd, rpm, dnf
%description
%{summary}
%package -n libstdc++
Summary: stand-in
%description -n libstdc++
%{summary}
%package -n libgomp
Summary: stand-in
%description -n libgomp
%{summary}
%files
%files -n libstdc++
%files -n libgomp
END
chroot "$1" rpmbuild -bb --quiet --define '_topdir /tmp/release' /tmp/release/release.spec
chroot "$1" sh -c 'rpm --nodeps --install /tmp/release/RPMS/noarch/*.rpm'
rm -r "$1/tmp/release"
# Rocky installs neither of these by itself; one adds a repository of its own.
rm -f "$1"/usr/lib/python3/dist-packages/dnf-plugins/local.py \\
    "$1"/usr/lib/python3/dist-packages/dnf-plugins/system_upgrade.py
rm -f "$1"/usr/bin/apt* "$1"/usr/bin/dpkg*
"""


def customize(dress: Dress) -> str:
    """Lines of the shell that dress the root file system $1."""
    return _CUSTOMIZE.replace("@RELEASE@", dress.release).replace("@MAJOR@", dress.major)
