"""A stand-in for NVIDIA's dnf repository, and for what the driver needs of Rocky's and EPEL's.

    key = build(Path("folder"), "9")      # FOLDER/guest.tar

The tar is unpacked in a guest's /srv/standin; `sh /srv/standin/setup` there builds the packages
with the guest's real rpmbuild, signs packages and index with gpg, indexes with createrepo_c and
serves all on 127.0.0.1. Names, epochs and dependencies follow NVIDIA's repositories for RHEL: the
driver's packages have epoch 3, nvidia-open and cuda-drivers none; for EL 9 every branch is there
as the module streams BRANCH-open and BRANCH-dkms, EL 10 has no streams. libnvidia-ml.so.1 and
nvidia-smi inside are the stand-ins of this tree; a "module" is a text file (kernel_tools.py).
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.standins import apt_repository, machine
from tests.standins.apt_repository import Key
from tests.standins.nvidia_repository import SETUP, TOOLS, VERSIONS, unit_text

PORT = 8099
URL = f"http://127.0.0.1:{PORT}"
FOLDERS = ("nvidia", "baseos", "crb", "epel")
DKMS = "[ ! -x /usr/local/sbin/dkms ] || "


@dataclass(frozen=True)
class Rpm:
    """One binary package: relations as in a spec, files as path -> file below /srv/standin/files.

    A file that begins with ">" is text to write, one with "@" the target of a link.
    """

    name: str
    version: str
    epoch: str = ""
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    post: str = ""
    preun: str = ""

    def spec(self) -> str:
        """The spec file."""
        tags = {"Name": self.name, "Version": self.version, "Release": "1%{?dist}"}
        tags |= {"Epoch": self.epoch} if self.epoch else {}
        tags |= {"Summary": f"stand-in for {self.name}", "License": "none", "AutoReqProv": "no"}
        for tag in ("requires", "provides", "conflicts"):
            for number, value in enumerate(getattr(self, tag)):
                tags[f"{tag.title()}{' ' * number}"] = value
        head = "".join(f"{tag.strip()}: {value}\n" for tag, value in tags.items())
        makes = "".join(_make(path, source) for path, source in self.files.items())
        scripts = "".join(
            f"%{name}\n{text}\n"
            for name, text in (("post", self.post), ("preun", self.preun))
            if text
        )
        listed = "".join(f"{path}\n" for path in self.files)
        listed += "".join(f"%dir {Path(p).parent}\n" for p in self.files if "/usr/src" in p)
        return f"{head}%description\n%{{summary}}\n%install\n{makes}%files\n{listed}{scripts}"


def _make(path: str, source: str) -> str:
    folder = f"mkdir -p %{{buildroot}}{Path(path).parent}\n"
    if source[0] == "@":
        return f"{folder}ln -s {source[1:]} %{{buildroot}}{path}\n"
    if source[0] == ">":
        return f"{folder}cat >%{{buildroot}}{path} <<'END'\n{source[1:]}\nEND\n"
    return f"{folder}install -m 0755 /srv/standin/files/{source} %{{buildroot}}{path}\n"


def driver(version: str) -> list[Rpm]:
    """All packages of one driver version."""
    same = f"= 3:{version}"

    def part(name: str, **more: Any) -> Rpm:
        return Rpm(name, version, "3", **more)

    def library(name: str) -> dict[str, str]:
        whole = f"{name}.so.{version}"
        return {f"/usr/lib64/{whole}": f"{name}.so.1", f"/usr/lib64/{name}.so.1": f"@{whole}"}

    def modules(kind: str, other: str, folder: str, flavour: str) -> Rpm:
        return part(
            f"kmod-nvidia-{kind}-dkms",
            requires=("dkms", f"nvidia-kmod-common {same}"),
            provides=(f"nvidia-kmod {same}",),
            conflicts=(f"kmod-nvidia-{other}-dkms",),
            files={f"/usr/src/{folder}-{version}/module": f">{version} {flavour}"},
            post=f"{DKMS}/usr/local/sbin/dkms install {folder}-{version}",
            preun=f"[ $1 != 0 ] || {DKMS}/usr/local/sbin/dkms remove",
        )

    needs = (f"nvidia-driver {same}", f"nvidia-driver-cuda {same}")
    return [
        part("libnvidia-ml", files=library("libnvidia-ml"),
             post="[ ! -x /usr/local/sbin/standin-nvml ] || /usr/local/sbin/standin-nvml"),
        part("nvidia-driver-cuda-libs", requires=(f"libnvidia-ml {same}",),
             files=library("libcuda")),
        part("nvidia-driver-libs", requires=(f"libnvidia-ml {same}",)),
        part("nvidia-driver", requires=(f"nvidia-driver-libs {same}", f"nvidia-kmod {same}")),
        part("nvidia-driver-cuda",
             requires=(f"nvidia-driver-cuda-libs {same}", f"nvidia-persistenced {same}"),
             files={"/usr/bin/nvidia-smi": "nvidia-smi"}),
        part("nvidia-kmod-common", requires=(f"nvidia-kmod {same}",)),
        part("nvidia-persistenced",
             requires=(f"libnvidia-ml {same}",),
             files={"/usr/lib/systemd/system/nvidia-persistenced.service":
                    ">" + unit_text("nvidia-persistenced")},
             post="systemctl daemon-reload\nsystemctl enable --now nvidia-persistenced",
             preun="[ $1 != 0 ] || systemctl disable --now nvidia-persistenced"),
        modules("open", "latest", "nvidia-open", "open"),
        modules("latest", "open", "nvidia", "proprietary"),
        Rpm("nvidia-open", version, requires=(*needs, f"kmod-nvidia-open-dkms {same}")),
        Rpm("cuda-drivers", version, requires=(*needs, f"kmod-nvidia-latest-dkms {same}")),
    ]  # fmt: skip


def cuda(release: str) -> list[Rpm]:
    """What the solver takes of a CUDA release; nvcc compiles nothing."""
    dashed = release.replace(".", "-")
    said = f"#!/bin/sh\necho 'Cuda compilation tools, release {release} (stand-in)'"
    nvcc = f"/usr/local/cuda-{release}/bin/nvcc"
    return [
        Rpm(
            f"cuda-nvcc-{dashed}",
            f"{release}.0",
            files={nvcc: ">" + said},
            post=f"chmod 755 {nvcc}",
        ),
        Rpm(f"cuda-minimal-build-{dashed}", f"{release}.0", requires=(f"cuda-nvcc-{dashed}",)),
        Rpm(f"libcublas-devel-{dashed}", f"{release}.0"),
    ]


def around(kernel: str) -> dict[str, list[Rpm]]:
    """What the host's own repositories and EPEL have; dkms needs something of CRB, which is off."""
    makefile = {f"/usr/lib/modules/{kernel}/build/Makefile": ">headers"}
    plugin = "python3-dnf-plugin-versionlock"
    return {
        "baseos": [
            # The plugin itself is that of Debian's dnf-plugins-core.
            Rpm(plugin, "4.3.0"),
            Rpm(f"kernel-devel-{kernel}", "1.0", files=makefile),
            Rpm("kernel-devel-matched", "1.0"),
            Rpm("kernel-headers", "1.0"),
        ],
        "crb": [Rpm("elfutils-libelf-devel", "0.190")],
        "epel": [Rpm("dkms", "3.2.1", requires=("elfutils-libelf-devel",))],
    }


STREAM = """---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: {branch}-{flavour}
  version: {number}
  context: {context}
  arch: x86_64
  summary: stand-in
  description: stand-in
  license: {{module: [none]}}
  artifacts:
    rpms:
{rpms}...
"""


def streams() -> str:
    """modules.yaml of all branches; a stream lists the packages of one flavour and its meta."""
    texts = []
    for version in VERSIONS:
        branch, number = version.partition(".")[0], version.replace(".", "")
        for flavour, kind, meta in (
            ("open", "open", "nvidia-open"),
            ("dkms", "latest", "cuda-drivers"),
        ):
            kept = [p for p in driver(version) if not p.name.startswith("kmod-") or kind in p.name]
            kept = [p for p in kept if p.epoch or p.name == meta]
            rpms = "".join(f"    - {p.name}-{p.epoch or 0}:{version}-1.el9.x86_64\n" for p in kept)
            context = f"{ord(flavour[0]):08x}"
            texts.append(STREAM.format(branch=branch, flavour=flavour, number=number,
                                       context=context, rpms=rpms))  # fmt: skip
    return "".join(texts)


PUBLISH = f"""#!/bin/sh
# publish [KEY]: index every repository and sign the index, with another key of the ring if named.
set -eu
export GNUPGHOME=/srv/standin/keys
cd /srv/standin/repository
for name in ${{ONLY:-{" ".join(FOLDERS)}}}; do
    createrepo_c --quiet --revision "$(date +%s%N)" "$name"
    if [ "$name" = nvidia ] && [ -e /srv/standin/modules.yaml ]; then
        modifyrepo_c --mdtype=modules /srv/standin/modules.yaml nvidia/repodata >/dev/null
    fi
    rm -f "$name/repodata/repomd.xml.asc"
    gpg --batch --armor --detach-sign ${{1:+--local-user "$1"}} "$name/repodata/repomd.xml"
    gpg --batch --armor --export ${{1:-vendor}} >"$name/RPM-GPG-KEY"
done
"""
SIGN = """#!/bin/sh
# sign KEY FILE...: sign packages with that key of the ring.
export GNUPGHOME=/srv/standin/keys
name=$1
shift
rpmsign --addsign --define '__gpg /usr/bin/gpg' --define "_gpg_name $name" "$@" >/dev/null
"""
BUILD = """
export GNUPGHOME=/srv/standin/keys
chmod 700 "$GNUPGHOME"
ln -sf /srv/standin/publish /usr/local/sbin/standin-publish
ln -sf /srv/standin/sign /usr/local/sbin/standin-sign
work=$(mktemp -d)
for name in nvidia baseos crb epel; do
    [ -e /srv/standin/repository/$name ] && continue
    mkdir -p "/srv/standin/repository/$name"
    rpmbuild -bb --quiet --define "_topdir $work" \\
        --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \\
        --define "_rpmdir /srv/standin/repository/$name" --define '__os_install_post %{nil}' \\
        --define 'debug_package %{nil}' /srv/standin/specs/$name/*.spec
    standin-sign vendor /srv/standin/repository/$name/*.rpm
done
rm -r "$work"
standin-publish
cat >/etc/yum.repos.d/rocky.repo <<'END'
[baseos]
name=stand-in for Rocky Linux - BaseOS
baseurl=@URL@/baseos
enabled=1
gpgcheck=1
gpgkey=@URL@/baseos/RPM-GPG-KEY

[crb]
name=stand-in for Rocky Linux - CRB
baseurl=@URL@/crb
enabled=0
gpgcheck=1
gpgkey=@URL@/crb/RPM-GPG-KEY
END
""".replace("@URL@", URL)


def build(folder: Path, release: str) -> Key:
    """Write FOLDER/guest.tar for EL 9 or 10 ("9", "10"); the key that all is signed with."""
    key = apt_repository.create_key(folder / "keys", "vendor")
    apt_repository.create_key(folder / "keys", "other")
    repositories = {"nvidia": [p for version in VERSIONS for p in driver(version)] + cuda("13.0")}
    repositories |= around(os.uname().release)
    for name, packages in repositories.items():
        place = folder / "specs" / name
        place.mkdir(parents=True)
        for package in packages:
            (place / f"{package.name}-{package.version}.spec").write_text(package.spec())
    if release == "9":
        (folder / "modules.yaml").write_text(streams())
    for name, text in (("publish", PUBLISH), ("sign", SIGN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    # Served before it is built: the unit's folder must be there.
    made = SETUP.replace("set -eu\n", "set -eu\nmkdir -p /srv/standin/repository\n", 1)
    (folder / "setup").write_text(made + BUILD)
    with tempfile.TemporaryDirectory() as name, tarfile.open(folder / "guest.tar", "w") as tar:
        machine.compile_standins(Path(name))
        tar.add(name, "files")
        for part in ("specs", "modules.yaml", "publish", "sign", "setup", "keys"):
            if (folder / part).exists():
                tar.add(folder / part, part, filter=_no_sockets)
        tar.add(TOOLS, "kernel_tools.py")
    return key


def _no_sockets(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    return entry if entry.isfile() or entry.isdir() else None


def repositories(key: Key, *names: str) -> list[dict[str, Any]]:
    """The roles' variable: the distribution's CRB, EPEL and NVIDIA's."""
    found: list[dict[str, Any]] = [
        {"name": "distribution", "kind": "dnf", "components": ["crb"]},
    ]
    for name, place in (("epel", "epel"), ("nvidia-cuda", "nvidia")):
        url = f"{URL}/{place}"
        entry = {"name": name, "kind": "dnf", "url": url, "key_url": f"{url}/RPM-GPG-KEY"}
        signed = ["packages"] if name == "epel" else ["packages", "index"]
        found.append({**entry, "key_fingerprint": key.fingerprint, "signed": signed})
    return found
