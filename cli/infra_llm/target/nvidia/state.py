"""What there is of NVIDIA's driver on this host: modules for each kernel, library, leftovers.

Standard library, Python 3.8. The probe's own reader (`target.probe.driver`) gives what is loaded;
this adds what a change of the driver has to know.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from ..probe.context import Context, ProbeOptions
from ..probe.driver import VERSION, read_driver

LIBRARY_FOLDERS = ("/usr/lib/*-linux-gnu", "/usr/lib/*-linux-gnu/nvidia/current", "/usr/lib64")
SIGNING_KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
"""Where Ubuntu and DKMS keep the key that modules built here are signed with."""
MODPROBE_FOLDERS = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
RUNFILE_SIGNS = ("/usr/bin/nvidia-uninstall", "/var/log/nvidia-installer.log")
_RENAMED = re.compile(
    r"^\s*install\s+nvidia\s+.*?\bmodprobe\s+(?:-i|--ignore-install)\s+(\S+)", re.M
)
_DEVICE = re.compile(r"^/dev/nvidia(?:\d+|ctl|-uvm|-modeset|-caps/.*|-nvswitch\d*)$")


@dataclass
class KernelModule:
    """The module on disk for one kernel."""

    kernel: str
    version: str = ""
    """Empty where there is none."""
    flavour: str = ""
    """open or proprietary."""
    signer: str = ""
    dkms: str = ""
    """DKMS's own word for this kernel: installed, built, added; empty where it has none."""
    headers: bool = False


@dataclass
class State:
    """The driver as found."""

    container: str = ""
    """What kind of container this is, empty for a machine with a kernel of its own."""
    kernel: str = ""
    next_kernel: str = ""
    """The newest one installed: what the next boot takes."""
    kernels: List[KernelModule] = field(default_factory=list)
    loaded: str = ""
    """Version of the module that is loaded."""
    loaded_flavour: str = ""
    library: str = ""
    """Version of libnvidia-ml.so.1 as its file is named."""
    nouveau: bool = False
    cards: int = 0
    secure_boot: Optional[bool] = None
    signing_key: str = ""
    """Public part of the key that modules built here are signed with; empty where none is yet."""
    runfile: List[str] = field(default_factory=list)
    """What a .run installer left."""
    runfile_version: str = ""
    notes: List[str] = field(default_factory=list)

    @property
    def mismatch(self) -> bool:
        """NVML refuses to work: library and loaded module are of different versions."""
        return bool(self.loaded and self.library and self.loaded != self.library)

    def module(self, kernel: str) -> KernelModule:
        """The module for a kernel; one without a version where there is none."""
        return next((m for m in self.kernels if m.kernel == kernel), KernelModule(kernel))

    def to_dict(self) -> Dict[str, Any]:
        return {**asdict(self), "mismatch": self.mismatch}


def read_state(root: str = "/") -> State:
    """Look; never raises, and says in `notes` what could not be seen."""
    # A machine that is busy building answers late, and silence would read as no module.
    context = Context(root, ProbeOptions(call_timeout_s=60.0))
    driver = read_driver(context, [])
    state = State(
        container=_container(context),
        kernel=context.read("/proc/sys/kernel/osrelease") or context.kernel(),
        loaded=driver.module_version or "",
        loaded_flavour=driver.module_flavour or "",
        library=library_version(root),
        nouveau=context.exists("/sys/module/nouveau"),
        cards=_cards(context),
        secure_boot=driver.secure_boot,
        signing_key=next((path for path in SIGNING_KEYS if context.exists(path)), ""),
    )
    names = [name for name in context.names("/lib/modules") if re.match(r"\d", name)]
    module = _module_name(context)
    state.kernels = [_module(context, name, module) for name in sorted(names, key=_order)]
    # Headers alone make such a folder, too, and boot nothing.
    bootable = [m.kernel for m in state.kernels if _is_installed(context, m.kernel)]
    state.next_kernel = bootable[-1] if bootable else state.kernel
    state.runfile, state.runfile_version = _runfile(context)
    if state.container:
        text = "{}: kernel {} and its modules are the host machine's; none is built or loaded here"
        state.notes.append(text.format(state.container, state.kernel))
    return state


def _container(context: Context) -> str:
    done = context.run("systemd-detect-virt", "--container")
    word = done.output.strip()
    if word and word != "none":
        return word
    if done.failure == "missing" and (
        context.exists("/.dockerenv") or context.exists("/run/.containerenv")
    ):
        return "container"
    return ""


def _cards(context: Context) -> int:
    found = 0
    for name in context.names("/sys/bus/pci/devices"):
        folder = "/sys/bus/pci/devices/" + name
        vendor, kind = context.read(folder + "/vendor"), context.read(folder + "/class")
        found += vendor == "0x10de" and kind.startswith(("0x0300", "0x0302"))
    return found


def _is_installed(context: Context, kernel: str) -> bool:
    return context.exists("/lib/modules/{}/kernel".format(kernel))


def _module_name(context: Context) -> str:
    """What `modprobe nvidia` loads: Debian's packages rename the file to nvidia-current[-open]
    and say so in an install command of modprobe.d, which modinfo does not follow."""
    for folder in MODPROBE_FOLDERS:
        for name in context.names(folder):
            match = _RENAMED.search(context.read(folder + "/" + name))
            if name.endswith(".conf") and match:
                return match.group(1)
    return "nvidia"


def _module(context: Context, kernel: str, name: str = "nvidia") -> KernelModule:
    found = KernelModule(kernel)
    found.headers = context.exists("/lib/modules/{}/build/Makefile".format(kernel))
    done = context.run("modinfo", "-k", kernel, name)
    if done.status == 0 and not done.failure:
        rows = [line.partition(":") for line in done.output.splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in reversed(rows)}
        found.version = fields.get("version", "")
        # The open modules are dual licensed, the proprietary one says NVIDIA.
        licence = fields.get("license", "")
        found.flavour = ("proprietary" if licence == "NVIDIA" else "open") if licence else ""
        found.signer = fields.get("signer", "")
    found.dkms = _dkms(context, kernel)
    return found


def _dkms(context: Context, kernel: str) -> str:
    """DKMS's word for any nvidia module and this kernel, read from its tree."""
    best = ""
    for name in context.names("/var/lib/dkms"):
        if not name.startswith("nvidia"):
            continue
        base = "/var/lib/dkms/" + name
        for version in context.names(base):
            if version.startswith("kernel-" + kernel + "-"):
                return "installed"
            if context.names("{}/{}/{}".format(base, version, kernel)):
                best = "built"
            elif re.match(r"\d", version):
                best = best or "added"
    return best


def _order(release: str) -> List[Tuple[int, int, str]]:
    """Sort key of kernel releases: numbers as numbers, and a final release after its candidate."""
    parts = re.findall(r"\d+|[a-z]+", release.replace("~", "-"))
    return [(1, int(p), "") if p.isdigit() else (0 if p == "rc" else 1, 0, p) for p in parts]


def library_version(root: str = "/") -> str:
    """Version of the NVML library, from the name of its file."""
    for folder in LIBRARY_FOLDERS:
        pattern = os.path.join(root, folder.lstrip("/"), "libnvidia-ml.so.1")
        for path in sorted(glob.glob(pattern)):
            match = VERSION.search(os.path.basename(os.path.realpath(path)))
            if match:
                return match.group(1)
    return ""


def _runfile(context: Context) -> Tuple[List[str], str]:
    """What a .run installer left, whole or half, and its version.

    Packages bring an uninstaller of that name, too, and a log alone is history: a file counts
    when no package owns it.
    """
    uninstaller, log = RUNFILE_SIGNS
    libraries = [p for folder in LIBRARY_FOLDERS for p in glob.glob(folder + "/libnvidia-ml.so.1")]
    signs = [uninstaller] if context.exists(uninstaller) else []
    if not signs and context.exists(log):
        signs = [path for path in libraries if context.root == "/"]
    foreign = [path for path in signs if not _has_owner(context, path)]
    if not foreign:
        return [], ""
    match = VERSION.search(context.read(log))
    found = foreign + ([log] if context.exists(log) else [])
    return found, match.group(1) if match else ""


def _has_owner(context: Context, path: str) -> bool:
    for tool, option in (("dpkg-query", "--search"), ("rpm", "--query --file")):
        for name in {path, os.path.realpath(path)}:
            done = context.run(tool, *option.split(), name)
            if not done.failure and done.status == 0:
                return True
    return False


def users_of_cards(root: str = "/proc") -> List[Tuple[int, str]]:
    """(pid, command) of the processes that have a card's device file open."""
    found = []
    for name in sorted((n for n in os.listdir(root) if n.isdigit()), key=int):
        if any(_DEVICE.match(target) for target in _open_files(os.path.join(root, name))):
            found.append((int(name), _command(os.path.join(root, name))))
    return found


def _open_files(folder: str) -> List[str]:
    found = []
    try:
        numbers = os.listdir(os.path.join(folder, "fd"))
    except OSError:
        return []
    for number in numbers:
        try:
            found.append(os.readlink(os.path.join(folder, "fd", number)))
        except OSError:
            continue
    return found


def _command(folder: str) -> str:
    try:
        with open(os.path.join(folder, "comm"), encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "?"
