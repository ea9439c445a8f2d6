"""Brings the kernel's modules in line with what is installed: built, loaded, of one version.

Standard library, Python 3.8. Where a module is in use, or nouveau has the card, only a reboot
helps: that is returned as a reason, never done here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence

from ...core.errors import HostFailedError, RefusedError
from ..packages.command import Output, call
from ..packages.dkms_log import NO_BUILD, build_errors
from ..packages.dpkg import Call
from ..probe.driver import VERSION
from . import secure_boot
from .state import KernelModule, State, library_version, read_state, users_of_cards

UNLOAD = ("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia_peermem", "nvidia")
"""In this order: each holds the ones after it."""
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm")
"""They keep a card open, and start again without harm."""
_NOT_INSERTED = re.compile(r"could not insert '[^']*': (.+)")
_STAMP = re.compile(r"^\[[^]]*\]\s*")
_DRIVER_SAID = re.compile(r"NVRM|nvidia(?!-nvlink)|module verification failed|PKCS#7|Lockdown")
_HINTS = (
    (
        "No such device",
        "the driver finds no card that it serves: another branch may (infra-llm stack), or the "
        "card does not answer (lspci -d 10de:)",
    ),
    (
        "Key was rejected",
        "Secure Boot: the key that the module is signed with is not enrolled; set "
        "infra_llm_secure_boot: mok, run again, and confirm it on the console at the next boot",
    ),
    ("Invalid module format", "it was built for another kernel: dkms status, then run again"),
    ("Exec format error", "it was built for another kernel: dkms status, then run again"),
)
_SIGNED = re.compile(r"^linux-(?:modules|signatures)-nvidia-")


@dataclass
class Ensured:
    """What was done, or would be."""

    changed: bool = False
    reboot: List[str] = field(default_factory=list)
    """Why a reboot is needed; empty if none is."""
    notes: List[str] = field(default_factory=list)


def refuse(state: State, plan: Mapping[str, Any], remove_runfile: bool) -> None:
    """Raise RefusedError where the plan must not be applied to this host."""
    if state.runfile and not remove_runfile:
        version = state.runfile_version or "unknown"
        raise RefusedError(
            "a driver of NVIDIA's .run installer is here (version {}): {}".format(
                version, ", ".join(state.runfile)
            ),
            hint="its files and those of packages overwrite each other; set "
            "infra_llm_remove_foreign_driver: true to have it removed, or run nvidia-uninstall",
        )
    signed = any(_SIGNED.match(name) for name in plan.get("packages", []))
    if state.secure_boot and not state.container and not plan.get("mok") and not signed:
        raise RefusedError(
            "Secure Boot is on, and it loads no module that is built here",
            hint="set infra_llm_secure_boot: mok to sign it with a key that you enrol at the next "
            "boot, take the distribution's signed modules, or turn Secure Boot off in the firmware",
        )


def ensure(
    plan: Mapping[str, Any],
    drain: Sequence[str] = (),
    check: bool = False,
    run: Call = call,
    look: Callable[[], State] = read_state,
) -> Ensured:
    """Build what is missing for the running and the next kernel, then load what is installed.

    `drain` are units to stop before modules are unloaded, and to start again after. Raises
    HostFailedError when a module can't be built.
    """
    done = Ensured()
    state = look()
    done.notes += state.notes
    if state.container:
        if state.mismatch:
            done.notes.append(
                "the host machine's module is {}, the library here {}: NVML will refuse to work "
                "until both are the same".format(state.loaded, state.library)
            )
        return done
    for kernel in sorted({state.kernel, state.next_kernel}):
        _build(state, kernel, done, check, run, look)
    if not check:
        state = look()
    if plan.get("mok"):
        _offer_key(state, done, check, run)
    _load(state, plan, drain, done, check, run)
    if state.next_kernel != state.kernel:
        done.notes.append("the next boot takes kernel {}".format(state.next_kernel))
    return done


def _build(
    state: State,
    kernel: str,
    done: Ensured,
    check: bool,
    run: Call,
    look: Callable[[], State],
) -> None:
    module = state.module(kernel)
    if module.version or module.dkms == "installed":
        return
    if kernel not in [m.kernel for m in state.kernels]:
        done.reboot.append("the running kernel {} is no longer installed".format(kernel))
        return
    done.changed = True
    if check:
        done.notes.append("would build the module for kernel {}".format(kernel))
        return
    if not module.headers:
        raise HostFailedError(
            "no module for kernel {}: its headers are missing".format(kernel),
            where="/lib/modules/{}/build".format(kernel),
            hint="install linux-headers-{}, or boot a kernel whose headers can be had".format(
                kernel
            ),
        )
    said = run(["dkms", "autoinstall", "-k", kernel])
    if said.status:
        why = build_errors(said.text) or said.lines()[-6:]
        raise HostFailedError(
            "DKMS can't build the module for kernel {}:\n{}".format(kernel, "\n".join(why)),
            where="/var/lib/dkms",
            hint=NO_BUILD,
        )
    if not look().module(kernel).version:
        # DKMS skips a kernel that a module excludes, and all where it is told to, and is content.
        raise HostFailedError(
            "DKMS built no module for kernel {}:\n{}".format(kernel, "\n".join(said.lines()[-6:])),
            where="/var/lib/dkms",
            hint="NVIDIA's modules exclude real-time kernels; /etc/dkms/no-autoinstall, where it "
            "is there, stops DKMS",
        )
    done.notes.append("built the module for kernel {}".format(kernel))


def _offer_key(state: State, done: Ensured, check: bool, run: Call) -> None:
    if check:
        if not secure_boot.enrolled(state.signing_key, run):
            done.notes.append("would ask for the enrolment of the key that modules are signed with")
        return
    done.changed = secure_boot.request(state.signing_key, run) or done.changed
    if secure_boot.enrolled(state.signing_key, run):
        done.changed = secure_boot.forget() or done.changed
        return
    how = secure_boot.HOW.format(secure_boot.PASSWORD_FILE)
    done.notes.append("Secure Boot: until the key is enrolled no module loads; " + how)


def _load(
    state: State,
    plan: Mapping[str, Any],
    drain: Sequence[str],
    done: Ensured,
    check: bool,
    run: Call,
) -> None:
    module = state.module(state.kernel)
    if not state.cards:
        done.notes.append("no NVIDIA card on the PCI bus: no module is loaded")
        return
    if not module.version or done.reboot:
        return
    if plan.get("mok") and not secure_boot.enrolled(state.signing_key, run):
        done.reboot.append("the module's signing key waits for its enrolment at the next boot")
        return
    if state.nouveau and not state.loaded:
        done.reboot.append("nouveau drives the card until the next boot")
        return
    same = state.loaded == module.version and state.loaded_flavour in ("", module.flavour)
    if same:
        return
    done.changed = True
    words = "{} {}".format(module.version, module.flavour).strip()
    if check:
        done.notes.append(
            "would load module {} in place of {}".format(words, state.loaded or "none")
        )
        return
    if state.loaded and not _unload(drain, done, run):
        return
    said = run(["modprobe", "nvidia"])
    if said.status:
        raise _load_failure(words, said, run(["dmesg"]))
    run(["modprobe", "nvidia-uvm"])
    done.notes.append("loaded module {}".format(words))
    _start(drain, run)


def _load_failure(module: str, said: Output, kernel: Output) -> HostFailedError:
    """Why the kernel did not take the module: modprobe's first reason, and the driver's words."""
    reason = _NOT_INSERTED.search(said.text)
    why = reason.group(1).strip() if reason else said.text.strip()[-600:]
    heard = [_STAMP.sub("", line) for line in kernel.lines() if _DRIVER_SAID.search(line)]
    hint = next((hint for words, hint in _HINTS if words in why), "")
    return HostFailedError(
        "the module {} does not load: {}".format(module, "\n".join([why, *heard[-4:]])), hint=hint
    )


def _unload(drain: Sequence[str], done: Ensured, run: Call) -> bool:
    """Whether the modules are out; else the reason for a reboot is noted and all runs again."""
    for unit in [*drain, *SERVICES]:
        run(["systemctl", "stop", unit])
    why = ", ".join("{} (pid {})".format(name, pid) for pid, name in users_of_cards()[:4])
    if not why:
        loaded = {line.split()[0] for line in run(["lsmod"]).lines() if line.split()}
        said = run(["modprobe", "-r", *[n for n in UNLOAD if n in loaded]])
        if not said.status:
            return True
        why = (said.lines() or ["modprobe -r failed"])[-1]
    done.reboot.append("the loaded module can't be taken out: {}".format(why))
    done.changed = False
    _start(drain, run)
    return False


def _start(drain: Sequence[str], run: Call) -> None:
    for unit in [*SERVICES, *drain]:
        if run(["systemctl", "is-enabled", "--quiet", unit]).status == 0:
            run(["systemctl", "start", unit])


def check_fabric_manager(run: Call = call, root: str = "/") -> None:
    """Raise HostFailedError unless Fabric Manager is installed in the library's own version."""
    said = run(["nv-fabricmanager", "--version"])
    found = VERSION.search(said.text)
    library = library_version(root)
    if said.status or not found or found.group(1) != library:
        raise HostFailedError(
            "Fabric Manager is {}, the driver {}; it works with its own version only".format(
                found.group(1) if found else "missing", library or "missing"
            ),
            hint="pin both to one version (infra_llm_driver_branch), then run again",
        )


def summary(state: State) -> Dict[str, Any]:
    """What the role reports: the state, and the modules that count."""
    kernels = {state.kernel, state.next_kernel}
    modules: List[KernelModule] = [m for m in state.kernels if m.kernel in kernels]
    return {**state.to_dict(), "kernels": [vars(m) for m in modules]}
