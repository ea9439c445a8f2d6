"""The key that modules built here are signed with, and its enrolment by shim's MokManager.

Standard library, Python 3.8. mokutil takes no root password hashed with yescrypt, which is the
default since Debian 11, nor one that is locked: the request gets a password of its own.
"""

from __future__ import annotations

import os
import secrets
import tempfile

from ...core.errors import HostFailedError
from ..packages.dpkg import Call

PASSWORD_FILE = "/etc/infra-llm_host/mok-password"  # noqa: S105 - a path
"""Root's alone. Whoever stands at the console types it once."""
HOW = (
    'choose "Enroll MOK" on the console at the next boot; its password, to be looked up before: '
    "sudo cat {}"
)


def enrolled(key: str, run: Call) -> bool:
    """Whether the firmware or shim trusts the key."""
    said = run(["mokutil", "--test-key", key]).text if key else ""
    return "already enrolled" in said or "already in db" in said


def request(key: str, run: Call, password_file: str = PASSWORD_FILE) -> bool:
    """Ask for the key's enrolment; False where that is asked already, or not needed.

    Raises HostFailedError where there is no key, or mokutil does not take it.
    """
    if not key:
        raise HostFailedError(
            "the modules are not signed: DKMS made no key",
            where="/var/lib/dkms/mok.pub",
            hint="run `dkms generate_mok` on the host, then this again",
        )
    said = run(["mokutil", "--test-key", key])
    if "is not enrolled" not in said.text:
        if "already" not in said.text:
            raise _refused(said.text)
        return False
    os.makedirs(os.path.dirname(password_file), exist_ok=True)
    _write(password_file, "{:08d}\n".format(secrets.randbelow(10**8)))
    hashed = run(["openssl", "passwd", "-6", "-in", password_file])
    if hashed.status:
        raise HostFailedError("openssl passwd: {}".format(hashed.text.strip()))
    with tempfile.TemporaryDirectory(prefix="infra-llm-mok-") as folder:
        path = os.path.join(folder, "hash")
        _write(path, hashed.text)
        said = run(["mokutil", "--import", key, "--hash-file", path])
    if said.status:
        raise _refused(said.text)
    return True


def forget(password_file: str = PASSWORD_FILE) -> bool:
    """Remove the password of a request that is done; whether there was one."""
    try:
        os.unlink(password_file)
    except FileNotFoundError:
        return False
    return True


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(text)


def _refused(text: str) -> HostFailedError:
    return HostFailedError(
        "mokutil does not take the key: {}".format(text.strip()),
        hint="shim keeps the key, so the host must boot by shim (mokutil --sb-state)",
    )
