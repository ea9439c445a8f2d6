"""What gcc answers to DKMS, compiled natively once, for emulated machines.

Under emulation a compilation takes ten times as long, and DKMS calls gcc some 1,700 times a kernel.
So the modules are built once in a root file system of the same packages through ccache, and the
machine's gcc is ccache with that store. What runs in the machine is DKMS, make, modpost, ld and
each call of the compiler; the answer to a call that differs in anything (compiler, flags, source,
any header) is not in the store, and is computed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.lab import rootfs

COMPILER = "gcc-12"
"""The one that bookworm's kernel headers name."""
STORE = "/var/cache/ccache"
USE = f"""\
mkdir -p "$1/usr/lib/compiler"
ln -s /usr/bin/x86_64-linux-gnu-{COMPILER} "$1/usr/lib/compiler/{COMPILER}"
chroot "$1" dpkg-divert --quiet --local --rename --divert /usr/bin/{COMPILER}.package \\
    --add /usr/bin/{COMPILER}
printf '#!/bin/sh\\nexec /usr/bin/ccache /usr/lib/compiler/{COMPILER} "$@"\\n' \\
    >"$1/usr/bin/{COMPILER}"
chmod 755 "$1/usr/bin/{COMPILER}"
printf 'cache_dir = {STORE}\\nsloppiness = include_file_mtime,include_file_ctime\\n' \\
    >"$1/etc/ccache.conf"
"""
"""Root file system with ccache -> one whose compiler is ccache. DKMS searches /usr/bin only, so the
compiler's own name is taken there."""
BUILD = """\
cp /etc/resolv.conf "$1/etc/"
sed -i 's/ main$/ main contrib non-free/' "$1"/etc/apt/sources.list.d/*.list
chroot "$1" apt-get -qq update
chroot "$1" sh -euc '
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    cd /tmp && apt-get -qq download nvidia-open-kernel-dkms
    dpkg --unpack --force-depends nvidia-open-kernel-dkms_*.deb
    source=$(basename /usr/src/nvidia-current-open-*)
    module=nvidia-current-open version=${{source#nvidia-current-open-}}
    dkms add $module/$version
    for kernel in {kernels}; do dkms build $module/$version -k $kernel; done
' >&2
mkdir -p "{folder}"
tar -C "$1" --numeric-owner -cf "{store}" .{place}
"""


def store(suite: str, kernels: Sequence[str]) -> Path:
    """A tar with ccache's store of both kernels' modules, built once (five minutes a kernel)."""
    base = rootfs.recipe(suite)
    headers = [f"linux-headers-{kernel}" for kernel in kernels]
    wanted = replace(base, packages=(*base.packages, "ccache", "dkms", COMPILER, *headers))
    path = rootfs.cache_dir().parent / "vm" / f"compiled-{wanted.name}.tar"
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    build = BUILD.format(kernels=" ".join(kernels), folder=path.parent, store=partial, place=STORE)
    # The root file system itself is of no use afterwards.
    rootfs.archive(replace(wanted, customize=base.customize + USE + build)).unlink()
    partial.replace(path)
    return path
