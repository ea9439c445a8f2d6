"""A stand-in for NVIDIA's apt repository: three branches of small packages of its names.

    python -m tests.standins.nvidia_repository FOLDER

writes FOLDER/repository (signed) and FOLDER/guest.tar, to be unpacked in a guest's /srv/standin,
where `sh /srv/standin/setup` puts all in place, and FOLDER/standin.json with {"repositories",
"kernel"}. Names and dependencies follow NVIDIA's driver installation guide, in the
layout of its Debian repositories (names without the branch) and of Ubuntu's, where packages carry
the branch in their name up to 580 and lose it in 590. libnvidia-ml.so.1 and nvidia-smi inside are
the stand-ins of this tree; a "module" is a text file (kernel_tools.py).
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.standins import apt_repository, machine
from tests.standins.apt_repository import Key, Package

VERSIONS = ("580.82.07", "580.95.05", "590.44.01", "595.58.03")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PORT = 8099
TOOL_NAMES = "modprobe modinfo lsmod dkms systemd-detect-virt standin-nvml standin-boot"
TOOLS = Path(__file__).with_name("kernel_tools.py")
LINK = stat.S_IFLNK

_DKMS = {
    "postinst": "#!/bin/sh\n[ ! -x /usr/local/sbin/dkms ] || /usr/local/sbin/dkms autoinstall\n",
    "prerm": "#!/bin/sh\n[ ! -x /usr/local/sbin/dkms ] || /usr/local/sbin/dkms remove\n",
}
_NVML = {
    "postinst": "#!/bin/sh\n[ ! -x /usr/local/sbin/standin-nvml ] || /usr/local/sbin/standin-nvml\n"
}
_UNIT = """[Unit]
Description={name} (stand-in)
[Service]
ExecStart=/bin/sh -c 'exec sleep infinity 3</dev/nvidia0'
[Install]
WantedBy=multi-user.target
"""


def unit_text(name: str) -> str:
    """Unit of a service that holds the card's device open."""
    return _UNIT.format(name=name)


def _service(name: str) -> tuple[dict[str, tuple[str | bytes, int]], dict[str, str]]:
    start = f"#!/bin/sh\nsystemctl daemon-reload\nsystemctl enable --now {name}\n"
    stop = f"#!/bin/sh\nsystemctl disable --now {name}\n"
    unit = f"usr/lib/systemd/system/{name}.service"
    return {unit: (unit_text(name), 0o644)}, {"postinst": start, "prerm": stop}


def driver(version: str, binaries: Path, layout: str = "debian") -> Iterator[Package]:
    """All packages of one driver version, in the layout of debian or ubuntu."""
    full, branch = f"{version}-1", version.partition(".")[0]
    named = layout == "ubuntu" and int(branch) < 590
    ending = f"-{branch}" if named else ""
    old = {"libraries": f"libnvidia-compute{ending}", "smi": f"nvidia-utils{ending}"}
    names = {"libraries": "libnvidia-ml1", "smi": "nvidia-smi"} if layout == "debian" else old
    open_, closed = (
        ("nvidia-kernel-open-dkms", "nvidia-kernel-dkms")
        if layout == "debian"
        else (f"nvidia-dkms{ending}-open", f"nvidia-dkms{ending}")
    )
    library = (binaries / "libnvidia-ml.so.1").read_bytes()
    # Two branches bring the same files: only one of them can be there.
    shared = {"Replaces": "nvidia-libraries"}
    yield Package(
        names["libraries"],
        full,
        provides="nvidia-libraries",
        conflicts="nvidia-libraries",
        fields=shared,
        files={
            f"{LIBRARIES}/libnvidia-ml.so.{version}": (library, 0o644),
            f"{LIBRARIES}/libnvidia-ml.so.1": (f"libnvidia-ml.so.{version}", LINK),
            f"{LIBRARIES}/libcuda.so.{version}": ((binaries / "libcuda.so.1").read_bytes(), 0o644),
            f"{LIBRARIES}/libcuda.so.1": (f"libcuda.so.{version}", LINK),
        },
        scripts=_NVML,
    )
    yield Package(
        names["smi"],
        full,
        depends=f"{names['libraries']} (= {full})",
        provides="nvidia-smi-any",
        conflicts="nvidia-smi-any",
        fields={"Replaces": "nvidia-smi-any"},
        files={"usr/bin/nvidia-smi": ((binaries / "nvidia-smi").read_bytes(), 0o755)},
    )
    for name, flavour in ((open_, "open"), (closed, "proprietary")):
        yield Package(
            name,
            full,
            provides="nvidia-kernel",
            conflicts="nvidia-kernel",
            fields={"Replaces": "nvidia-kernel"},
            files={f"usr/src/nvidia-{version}/module": (f"{version} {flavour}\n", 0o644)},
            scripts=_DKMS,
        )
    files, scripts = _service("nvidia-persistenced")
    yield Package(
        "nvidia-persistenced",
        full,
        depends=f"{names['libraries']} (= {full})",
        files=files,
        scripts=scripts,
    )
    files, scripts = _service("nvidia-fabricmanager")
    said = f"#!/bin/sh\necho 'Fabric Manager version is : {version}'\n"
    yield Package(
        f"nvidia-fabricmanager{ending}",
        full,
        files={**files, "usr/bin/nv-fabricmanager": (said, 0o755)},
        scripts=scripts,
    )
    for meta, modules in (("nvidia-open", open_), ("cuda-drivers", closed)):
        needs = (modules, names["libraries"], names["smi"], "nvidia-persistenced")
        yield Package(meta, full, depends=", ".join(f"{name} (= {full})" for name in needs))


def headers(kernel: str) -> Package:
    """Headers of a kernel, as far as DKMS's stand-in looks."""
    path = f"usr/lib/modules/{kernel}/build/Makefile"
    return Package(f"linux-headers-{kernel}", "1.0", files={path: ("# headers\n", 0o644)})


SETUP = f"""#!/bin/sh
# Makes this guest a machine with a kernel of its own and a repository on 127.0.0.1:{PORT}.
set -eu
for name in {TOOL_NAMES}; do
    install -m 0755 /srv/standin/kernel_tools.py "/usr/local/sbin/$name"
done
mkdir -p "/usr/lib/modules/$(uname -r)/kernel" /etc/infra-llm-standin
[ -e /etc/infra-llm-standin/tools.json ] || echo '{{}}' >/etc/infra-llm-standin/tools.json
cat >/etc/systemd/system/standin-repository.service <<'END'
[Service]
ExecStart=python3 -m http.server {PORT} --bind 127.0.0.1 --directory /srv/standin/repository
[Install]
WantedBy=multi-user.target
END
cat >/etc/systemd/system/standin-boot.service <<'END'
[Unit]
After=infra-llm-standin.service
Before=nvidia-persistenced.service nvidia-fabricmanager.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/standin-boot
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl --quiet enable standin-boot.service
systemctl --quiet enable --now standin-repository.service
"""


def build(folder: Path, layout: str = "debian", kernels: tuple[str, ...] = ()) -> Key:
    """Write the repository, and all that a guest needs as a tar, below the folder."""
    with tempfile.TemporaryDirectory() as name:
        binaries = Path(name)
        machine.compile_standins(binaries)
        packages = [p for v in VERSIONS for p in driver(v, binaries, layout)]
    packages += [headers(kernel) for kernel in (os.uname().release, *kernels)]
    key = apt_repository.create_key(folder / "key", "stand-in for NVIDIA")
    apt_repository.build(packages, folder / "repository", key)
    pack(folder)
    return key


def pack(folder: Path) -> bytes:
    """FOLDER/guest.tar again, after the repository changed; its bytes."""
    (folder / "setup").write_text(SETUP)
    path = folder / "guest.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder / "repository", "repository")
        tar.add(folder / "setup", "setup")
        tar.add(TOOLS, "kernel_tools.py")
    return path.read_bytes()


def repositories(key: Key) -> list[dict[str, object]]:
    """The role's variable that names it."""
    url = f"http://127.0.0.1:{PORT}"
    return [
        {
            "name": "nvidia-cuda",
            "kind": "apt",
            "url": url,
            "suite": "/",
            "key_url": f"{url}/gpgkey",
            "key_fingerprint": key.fingerprint,
        }
    ]


if __name__ == "__main__":
    place = Path(sys.argv[1])
    facts = {
        "repositories": repositories(build(place, *sys.argv[2:3])),
        "kernel": os.uname().release,
    }
    (place / "standin.json").write_text(json.dumps(facts))
