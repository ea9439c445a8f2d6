"""A stand-in for the NVIDIA driver of Ubuntu's own archive: modules that come built and signed.

Names and layout as packages.ubuntu.com has them for noble (linux-restricted-modules,
nvidia-graphics-drivers-580-server): a meta package for each kernel flavour, the modules of one
kernel, libraries and tools without DKMS; persistenced's unit is static, udev wants it. They come
from the server of nvidia_repository.py.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.standins import apt_repository, machine
from tests.standins.apt_repository import Key, Package
from tests.standins.nvidia_repository import LIBRARIES, unit_text

VERSIONS = {"580": "580.95.05", "595": "595.58.03"}
KERNELS = ("6.8.0-60.63", "6.8.0-61.64")
"""Of the kernel's meta package: two, so that there is an upgrade."""
LINK = stat.S_IFLNK
SETTLE = "#!/bin/sh\n[ ! -x /usr/local/sbin/standin-nvml ] || /usr/local/sbin/standin-nvml\n"


def driver(branch: str, binaries: Path, kernel: str) -> Iterator[Package]:
    """All packages of a branch: both flavours of modules for one kernel, libraries, tools."""
    version, name = VERSIONS[branch], f"{branch}-server"
    full = f"{version}-0ubuntu1"
    compute, common = f"libnvidia-compute-{name}", f"nvidia-kernel-common-{name}"
    library = (binaries / "libnvidia-ml.so.1").read_bytes()
    yield Package(
        compute, full, provides="nvidia-libraries", conflicts="nvidia-libraries",
        fields={"Replaces": "nvidia-libraries"},
        files={
            f"{LIBRARIES}/libnvidia-ml.so.{version}": (library, 0o644),
            f"{LIBRARIES}/libnvidia-ml.so.1": (f"libnvidia-ml.so.{version}", LINK),
            f"{LIBRARIES}/libcuda.so.{version}": ((binaries / "libcuda.so.1").read_bytes(), 0o644),
            f"{LIBRARIES}/libcuda.so.1": (f"libcuda.so.{version}", LINK),
        },
        scripts={"postinst": SETTLE},
    )  # fmt: skip
    yield Package(
        f"nvidia-utils-{name}", full, depends=compute,
        provides="nvidia-smi-any", conflicts="nvidia-smi-any",
        fields={"Replaces": "nvidia-smi-any"},
        files={"usr/bin/nvidia-smi": ((binaries / "nvidia-smi").read_bytes(), 0o755)},
    )  # fmt: skip
    unit = unit_text("nvidia-persistenced").partition("[Install]")[0]
    yield Package(
        f"nvidia-compute-utils-{name}", full, depends=compute,
        provides="nvidia-compute-utils", conflicts="nvidia-compute-utils, nvidia-persistenced",
        fields={"Replaces": "nvidia-compute-utils, nvidia-persistenced"},
        files={"usr/lib/systemd/system/nvidia-persistenced.service": (unit, 0o644)},
    )  # fmt: skip
    yield Package(common, full, provides="nvidia-kernel-common", conflicts="nvidia-kernel-common")
    for flavour, end in (("open", "-open"), ("proprietary", "")):
        modules = f"linux-modules-nvidia-{name}{end}"
        path = f"usr/lib/modules/{kernel}/kernel/nvidia-{branch}srv{end}/nvidia.ko"
        yield Package(
            f"{modules}-{kernel}", full, files={path: (f"{version} {flavour}\n", 0o644)},
            provides="nvidia-prebuilt-kernel", conflicts="nvidia-prebuilt-kernel",
        )  # fmt: skip
        yield Package(f"{modules}-generic", full, depends=f"{modules}-{kernel}, {common}")
        yield Package(
            f"nvidia-headless-no-dkms-{name}{end}", full,
            depends=f"{common}, {compute}, nvidia-compute-utils-{name}",
            provides="nvidia-headless-no-dkms", conflicts="nvidia-headless-no-dkms",
        )  # fmt: skip


def build(repository: Path, key: Key) -> None:
    """Write the signed repository."""
    with tempfile.TemporaryDirectory() as name:
        machine.compile_standins(Path(name))
        packages = [
            package
            for branch in VERSIONS
            for package in driver(branch, Path(name), os.uname().release)
        ]
    packages += [Package("linux-image-generic", version) for version in KERNELS]
    apt_repository.build(packages, repository, key)
