#!/usr/bin/env python3
"""modprobe, modinfo, lsmod, dkms, systemd-detect-virt of a guest that plays a machine of its own.

A guest has no modules to load. Installed under those names in /usr/local/sbin, this stands for
them: a module is a text file with its version and flavour, "loading" writes what the driver would
write to /proc/driver/nvidia, and NVML's stand-in is told whether module and library agree.
/etc/infra-llm-standin/tools.json: {"container": false, "busy": false, "dkms_fails": "the compiler's
words", "dkms_fails_for": "open"}; the latter two where modules (of one flavour) do not compile.
"""

import json
import os
import re
import sys
from pathlib import Path

BASE = Path("/etc/infra-llm-standin")
MODULES = Path("/lib/modules")
DKMS = Path("/var/lib/dkms/nvidia")
LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"))
PROC = Path("/proc/driver/nvidia/version")
DEVICES = [Path("/dev/nvidiactl"), Path("/dev/nvidia0"), Path("/dev/nvidia-uvm")]
FLAVOURS = {
    "open": ("UNIX Open Kernel Module for x86_64", "Dual MIT/GPL"),
    "proprietary": ("UNIX x86_64 Kernel Module", "NVIDIA"),
}


def settings():
    path = BASE / "tools.json"
    return json.loads(path.read_text()) if path.exists() else {}


def module(kernel):
    """(version, flavour) on disk for a kernel, None where there is none."""
    found = [
        MODULES / kernel / "updates/dkms/nvidia.ko",  # searched first, as depmod.conf has it
        *(MODULES / kernel / "kernel").glob("nvidia-*/nvidia.ko"),  # of Ubuntu, with a signature
    ]
    path = next((path for path in found if path.exists()), None)
    return path.read_text().split() if path else None


def loaded():
    found = re.search(r"\d{3}\.\d+(\.\d+)?", PROC.read_text()) if PROC.exists() else None
    return found[0] if found else ""


def unload():
    for path in (PROC, *DEVICES):
        path.unlink(missing_ok=True)


def tell_nvml():
    """What the stand-ins for NVML and nvidia-smi are to say of module and library."""
    path = BASE / "gpus.topology"
    if not path.exists():
        return
    found = sorted(p for place in LIBRARIES for p in place.glob("libnvidia-ml.so.[0-9]*.*"))
    library = found[0].name.partition(".so.")[2] if found else ""
    old = path.read_text().splitlines(keepends=True)
    kept = [line for line in old if not re.match(r"(driver|nvml|fault init)\b", line)]
    lines = [f"driver {loaded()}\n", f"nvml 13.{library}\n"]
    if loaded() != library:
        lines.append(f"fault init {18 if loaded() else 9}\n")
    path.write_text("".join(lines + kept))


def modprobe(words):
    names = [word for word in words if not word.startswith("-")]
    if "-r" in words:
        if settings().get("busy"):
            sys.exit("modprobe: FATAL: Module nvidia is in use.")
        unload()
    elif names == ["nvidia"]:
        found = module(os.uname().release)
        if not found:
            sys.exit("modprobe: FATAL: Module nvidia not found in directory /lib/modules/...")
        PROC.parent.mkdir(parents=True, exist_ok=True)
        text = "NVRM version: NVIDIA {}  {}  Release Build\nGCC version:  gcc version 13.3.0\n"
        PROC.write_text(text.format(FLAVOURS[found[1]][0], found[0]))
        for path in DEVICES:
            path.touch()
    tell_nvml()


def modinfo(words):
    kernel = words[words.index("-k") + 1] if "-k" in words else os.uname().release
    found = module(kernel)
    if not found:
        sys.exit("modinfo: ERROR: Module nvidia not found.")
    print(f"version:        {found[0]}\nlicense:        {FLAVOURS[found[1]][1]}")


def lsmod(_words):
    print("Module                  Size  Used by")
    if loaded():
        print("nvidia_uvm           4096000  0\nnvidia              60000000  1 nvidia_uvm")


def fail_as_wished(kernel, flavour):
    """As DKMS does: a line, and the compiler's words in a log."""
    words = settings().get("dkms_fails")
    if words and settings().get("dkms_fails_for", flavour) == flavour:
        log = DKMS / "build/make.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"  gcc -Werror=date-time -c nv.c\n{words}\nmake: *** [modules] Error 2\n")
        print(f"Error! Bad return status for module build on kernel: {kernel} (x86_64)")
        print(f"Consult {log} for more information.")
        sys.exit(10)


def dkms(words):
    """`remove`, `install SOURCE`, `autoinstall [-k KERNEL]`: for kernels that have headers."""
    if words[0] == "remove":
        for path in [*MODULES.glob("*/updates/dkms/nvidia.ko"), *DKMS.glob("kernel-*")]:
            path.unlink()
        return
    one = "-k" in words
    kernels = [words[words.index("-k") + 1]] if one else [p.name for p in MODULES.iterdir()]
    pattern = f"{words[1]}/module" if words[0] == "install" else "nvidia-*/module"
    sources = sorted(Path("/usr/src").glob(pattern))
    for kernel in kernels if sources else []:
        if not (MODULES / kernel / "build/Makefile").exists():
            print(f"Error! Your kernel headers for kernel {kernel} cannot be found.")
            if one:
                sys.exit(1)
            continue
        fail_as_wished(kernel, sources[-1].read_text().split()[1])
        target = MODULES / kernel / "updates/dkms/nvidia.ko"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(sources[-1].read_text())
        DKMS.mkdir(parents=True, exist_ok=True)
        link = DKMS / f"kernel-{kernel}-x86_64"
        link.unlink(missing_ok=True)
        link.symlink_to(f"build/{kernel}")


def detect(_words):
    container = settings().get("container")
    print("systemd-nspawn" if container else "none")
    sys.exit(0 if container else 1)


def boot(_words):
    """What the kernel and udev do: nothing is loaded, then what fits the card."""
    unload()
    if module(os.uname().release):
        modprobe(["nvidia"])


TOOLS = {
    "modprobe": modprobe,
    "modinfo": modinfo,
    "lsmod": lsmod,
    "dkms": dkms,
    "systemd-detect-virt": detect,
    "standin-boot": boot,
    "standin-nvml": lambda _words: tell_nvml(),
}

if __name__ == "__main__":
    TOOLS[Path(sys.argv[0]).name](sys.argv[1:])
