"""A virtual machine under qemu's software emulation, reached over SSH.

No KVM: everything takes ten to twenty times as long as on the machine itself. The process belongs
to this one and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.test_fleet import ssh_words
from tests.lab import guestfiles, inventory, rootfs
from tests.lab.config import Host, HostSpec, Lab, LabError
from tests.lab.system import ensure_tools, run, say, start_time
from tests.vm import image

NAME = "vm"
TOOLS = ("mmdebstrap", "ssh-keygen", "qemu-system-x86_64", "mkfs.ext4", "setpriv")
BOOT_SECONDS = 900
APPEND = "root=/dev/vda rw console=ttyS0 mitigations=off net.ifnames=0 quiet"


class VirtualMachine:
    """One machine of a suite with one of its kernels; `stop` removes its disk."""

    def __init__(
        self, suite: str, kernel: str, archives: Sequence[Path] = (), memory: str = "3G"
    ) -> None:
        if os.geteuid():
            raise LabError("a virtual machine's disk is made by root", "run it with sudo")
        ensure_tools(TOOLS)
        self.lab = Lab("vm")
        self.memory = memory
        self.folder = rootfs.cache_dir().parent / "vm" / f"run-{os.getpid()}"
        self.folder.mkdir(parents=True)
        self.console = self.folder / "console.log"
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        spec = HostSpec(NAME, suite=suite)
        user_key, keys = guestfiles.make_key(self.lab), guestfiles.host_key()
        files = guestfiles.common_files(spec, user_key, keys)
        recipe = image.recipe(suite, kernel)
        self.disk = image.make(recipe, kernel, files, self.folder, archives)
        host = Host(spec, "qemu", NAME, "", "127.0.0.1", self.port)
        known = inventory.known_hosts_lines([host], {NAME: keys[1]})
        (self.folder / "known_hosts").write_text(known)
        self.inventory = self.folder / "lab.ini"
        text = inventory.render([host], self.lab.key, self.folder / "known_hosts")
        self.inventory.write_text(text)

    def command(self, boot: Sequence[str]) -> list[str]:
        """qemu's command line; `boot` says what is booted."""
        drive = f"if=none,id=root,file={self.disk.path},format=raw,cache=unsafe,discard=unmap"
        network = f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        # A processor without AVX: emulated, its string functions are slower than SSE's.
        words = ["setpriv", "--pdeathsig", "TERM", "qemu-system-x86_64", "-nodefaults"]
        words += ["-no-user-config", "-no-reboot", "-display", "none", "-cpu", "Nehalem"]
        words += ["-accel", "tcg,thread=multi,tb-size=1024", "-smp", "2", "-m", self.memory]
        words += ["-serial", f"file:{self.console}", "-device", "virtio-rng-pci"]
        words += ["-drive", drive, "-device", "virtio-blk-pci,drive=root"]
        words += ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]
        return [*words, *boot]

    def start(self, kernel: Path | None = None, initrd: Path | None = None) -> float:
        """Boot a kernel of this machine's own files; the seconds until SSH answers."""
        files = (kernel or self.disk.kernel, initrd or self.disk.initrd)
        boot = ["-machine", "q35", "-kernel", str(files[0]), "-initrd", str(files[1])]
        return self.boot([*boot, "-append", APPEND])

    def boot(self, words: Sequence[str]) -> float:
        """Start the process and wait for SSH. Raises LabError with the console's last lines."""
        started = time.monotonic()
        self.console.unlink(missing_ok=True)
        log = (self.folder / "qemu.log").open("wb")
        self.process = subprocess.Popen(
            self.command(words), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        while time.monotonic() - started < BOOT_SECONDS:
            if self.process.poll() is not None:
                raise LabError(f"qemu ended:\n{(self.folder / 'qemu.log').read_text()[-2000:]}")
            if _answers(self.port) and self._login():
                took = time.monotonic() - started
                say(f"{NAME}: port {self.port}, {took:.0f} s to SSH")
                return took
            time.sleep(1)
        raise LabError(f"no SSH after {BOOT_SECONDS} s:\n{self.console_tail()}")

    def _login(self) -> bool:
        try:
            run([*ssh_words(self.inventory, NAME), "true"], timeout=60)
        except LabError:
            return False
        return True

    def copy(self, source: str, target: Path) -> None:
        """A file of the running machine, to this one."""
        words = [*ssh_words(self.inventory, NAME), f"sudo cat {source}"]
        with target.open("wb") as stream:
            subprocess.run(words, stdout=stream, check=True, timeout=600)

    def console_tail(self) -> str:
        """Last lines of the serial console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-15:])

    def power_off(self) -> None:
        """Let the system end by itself, so that its disk is whole."""
        with contextlib.suppress(LabError):
            run([*ssh_words(self.inventory, NAME), "sudo systemctl poweroff"], timeout=60)
        self._wait(300)

    def _wait(self, seconds: float) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
        self.process = None

    def stop(self) -> None:
        """End the process, by its pid, and remove the disk."""
        if self.process is not None and start_time(self.process.pid):
            self.process.terminate()
        self._wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


def _answers(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 2) as line,
    ):
        line.settimeout(20)
        return line.recv(4) == b"SSH-"
    return False
