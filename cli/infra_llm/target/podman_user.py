"""Run podman as the service's user, to have images in the user's own store.

Standard library, Python 3.8. What podman leaves behind (a process that holds the user's name space)
ends with the call: the service's podman would else join that one, outside of its unit.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
from typing import Iterator, List, Sequence, Tuple

from ..core.errors import HostFailedError
from ..core.podman import IMAGES, PIDFILE, RUN, images_client, run_folder
from .unit_start import Call

LOGINS = (
    "/run/containers/0/auth.json",
    "/root/.config/containers/auth.json",
    "/root/.docker/config.json",
)
"""Where `podman login` of root keeps what a registry asks for (containers-auth.json(5))."""


def has_images(containers: str) -> bool:
    """Whether the store was ever made."""
    return os.path.isdir(os.path.join(containers, IMAGES))


@contextlib.contextmanager
def podman_of(user: str, containers: str, run: Call) -> Iterator[Call]:
    """A `Call` for commands ["podman", ...] that runs them as `user` on the store of images.

    `containers` is the instance's folder of stores; it is made. Raises HostFailedError where the
    user can't reach it.
    """
    account = pwd.getpwnam(user)
    store = os.path.join(containers, IMAGES)
    _own_folder(store, account)
    _check_way(containers)
    folder = os.path.join(RUN, os.path.basename(containers) + "-images")
    shutil.rmtree(folder, ignore_errors=True)
    _own_folder(folder, account)
    prefix = _prefix(account, folder)
    client = images_client(containers, folder)

    def call(words: Sequence[str], seconds: float) -> Tuple[int, str]:
        return run([*prefix, *client, *words[1:]], seconds)

    try:
        yield call
    finally:
        _end_pause(folder)
        shutil.rmtree(folder, ignore_errors=True)


def service_pid(service: str) -> str:
    """What the service's podman wrote as the number of its container's process; "" for nothing."""
    try:
        with open(os.path.join(run_folder(service, RUN), PIDFILE), encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _prefix(account: pwd.struct_passwd, folder: str) -> List[str]:
    words = [
        *("setpriv", "--reuid={}".format(account.pw_uid), "--regid={}".format(account.pw_gid)),
        *("--clear-groups", "--no-new-privs"),
        *("env", "--chdir=/", "HOME=" + folder, "XDG_RUNTIME_DIR=" + folder),
    ]
    login = next((path for path in LOGINS if os.path.exists(path)), "")
    if login:
        own = os.path.join(folder, "auth.json")
        shutil.copyfile(login, own)
        os.chmod(own, 0o600)
        os.chown(own, account.pw_uid, account.pw_gid)
        words.append("REGISTRY_AUTH_FILE=" + own)
    return words


def _own_folder(path: str, account: pwd.struct_passwd) -> None:
    """The user's alone; the folders above it are root's and open to be passed."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chown(path, account.pw_uid, account.pw_gid)


def _check_way(containers: str) -> None:
    above = containers
    while above != os.path.dirname(above):
        if os.stat(above).st_mode & 0o001 == 0:
            raise HostFailedError(
                "the service's user can't pass this folder",
                where=above,
                hint="chmod o+x {}: what lies in it keeps its own permissions".format(above),
            )
        above = os.path.dirname(above)


def _end_pause(folder: str) -> None:
    for path, _, names in os.walk(folder):
        if "pause.pid" not in names:
            continue
        with open(os.path.join(path, "pause.pid"), encoding="ascii") as file:
            text = file.read().strip()
        if text.isdigit():
            with contextlib.suppress(OSError):
                os.kill(int(text), signal.SIGKILL)
