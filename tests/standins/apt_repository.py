"""A signed apt repository made of small packages, in place of a vendor's.

    key = create_key(Path("keys"), "vendor")
    build([Package("hello", "1.0", files={"usr/bin/hello": ("#!/bin/sh\\necho hello\\n", 0o755)})],
          Path("served"), key)
    remove(Path("served"), key, "hello")              # the package vanishes
    publish(Path("served"), create_key(Path("keys"), "other"))  # the key changes

The layout is flat, as NVIDIA's repositories are (`deb [signed-by=KEY] URL /`): Packages, Release,
InRelease, Release.gpg, and the public key as `gpgkey` (armoured) and `gpgkey.gpg` (binary). The
packages are written without dpkg: equal packages are equal files, and gpg is the only tool needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HASHES = {"MD5Sum": "md5", "SHA1": "sha1", "SHA256": "sha256"}
_MAGIC = b"!<arch>\n"


@dataclass(frozen=True)
class Package:
    """One binary package; relations are written as in a control file ("a (= 1), b | c")."""

    name: str
    version: str
    architecture: str = "amd64"
    depends: str = ""
    conflicts: str = ""
    provides: str = ""
    files: Mapping[str, tuple[str | bytes, int]] = field(default_factory=dict)
    """Path without the leading slash -> content and mode. A mode of type stat.S_IFLNK makes a
    symbolic link to the content; what lies below etc/ is a configuration file."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    """preinst, postinst, prerm, postrm -> text."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Further control fields ("Replaces", "Recommends", "Source" ...)."""

    @property
    def filename(self) -> str:
        """As dpkg names it: without the version's epoch."""
        return f"{self.name}_{_without_epoch(self.version)}_{self.architecture}.deb"

    def control(self) -> str:
        """The control file."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "stand-in <nobody@localhost>",
            "Section": "misc",
            "Priority": "optional",
            "Depends": self.depends,
            "Conflicts": self.conflicts,
            "Provides": self.provides,
            **self.fields,
            "Description": f"stand-in for {self.name}",
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


@dataclass(frozen=True)
class Key:
    """A signing key without a passphrase, in a key ring of its own."""

    home: Path
    fingerprint: str
    """40 hex digits."""

    def export(self, armour: bool = True) -> bytes:
        """The public key."""
        return _gpg(self.home, *(["--armor"] if armour else []), "--export", self.fingerprint)

    def sign(self, data: bytes, how: str) -> bytes:
        """The signature that `--clearsign` or `--detach-sign` gives, armoured."""
        return _gpg(self.home, "--armor", "--local-user", self.fingerprint, how, stdin=data)


def create_key(home: Path, name: str) -> Key:
    """Make a key, or give the one of that name which is there."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = _fingerprint(home, name)
    if not known:
        arguments = ("--pinentry-mode", "loopback", "--passphrase", "")
        _gpg(home, *arguments, "--quick-generate-key", name, "rsa3072", "sign", "never")
        known = _fingerprint(home, name)
    return Key(home, known)


def build(packages: Iterable[Package], folder: Path, key: Key) -> None:
    """Write the packages into the folder, beside those that are there, and publish all."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        (folder / package.filename).write_bytes(archive(package))
    publish(folder, key)


def remove(folder: Path, key: Key, name: str, version: str = "*") -> None:
    """Take a package out, in one version or in all (a glob pattern); publish what is left."""
    for path in folder.glob(f"{name}_{_without_epoch(version)}_*.deb"):
        path.unlink()
    publish(folder, key)


def publish(folder: Path, key: Key) -> None:
    """Index the packages of the folder and sign the index; another key than before rotates it."""
    index = "\n".join(_stanza(path) for path in sorted(folder.glob("*.deb"))).encode()
    _write(folder / "Packages", index)
    _write(folder / "Packages.gz", gzip.compress(index, mtime=0))
    release = _release(folder).encode()
    _write(folder / "Release", release)
    _write(folder / "InRelease", key.sign(release, "--clearsign"))
    _write(folder / "Release.gpg", key.sign(release, "--detach-sign"))
    _write(folder / "gpgkey", key.export())
    _write(folder / "gpgkey.gpg", key.export(armour=False))


def archive(package: Package) -> bytes:
    """The bytes of the .deb file."""
    configuration = "".join(f"/{path}\n" for path in package.files if path.startswith("etc/"))
    control: dict[str, tuple[str | bytes, int]] = {"control": (package.control(), 0o644)}
    if configuration:
        control["conffiles"] = (configuration, 0o644)
    control.update({name: (text, 0o755) for name, text in package.scripts.items()})
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar(control),
        "data.tar.gz": _tar(package.files),
    }
    out = io.BytesIO(_MAGIC)
    out.seek(0, os.SEEK_END)
    for name, data in members.items():
        out.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        out.write(data + b"\n" * (len(data) % 2))
    return out.getvalue()


def _without_epoch(version: str) -> str:
    return version.rpartition(":")[2]


def _tar(files: Mapping[str, tuple[str | bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    folders = {str(folder) for path in files for folder in Path(path).parents} - {"."}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted({*files, *folders}):
            entry = tarfile.TarInfo(f"./{path}")
            if path in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
                continue
            content, mode = files[path]
            data = content.encode() if isinstance(content, str) else content
            entry.mode = stat.S_IMODE(mode)
            if stat.S_ISLNK(mode):
                entry.type, entry.linkname, data = tarfile.SYMTYPE, data.decode(), b""
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _stanza(path: Path) -> str:
    data = path.read_bytes()
    sums = "".join(
        f"{name}: {hashlib.new(how, data).hexdigest()}\n"
        for name, how in {"MD5sum": "md5", "SHA1": "sha1", "SHA256": "sha256"}.items()
    )
    return f"{_control_of(data)}Filename: ./{path.name}\nSize: {len(data)}\n{sums}"


def _control_of(deb: bytes) -> str:
    at = len(_MAGIC)
    while at < len(deb):
        name, size = deb[at : at + 16].decode().strip(), int(deb[at + 48 : at + 58])
        if name.startswith("control.tar"):
            with tarfile.open(fileobj=io.BytesIO(deb[at + 60 : at + 60 + size])) as tar:
                member = tar.extractfile("./control")
                assert member is not None
                return member.read().decode()
        at += 60 + size + size % 2
    raise ValueError("no Debian package")


def _release(folder: Path) -> str:
    lines = [
        "Origin: stand-in",
        "Label: stand-in",
        time.strftime("Date: %a, %d %b %Y %H:%M:%S UTC", time.gmtime()),
    ]
    for field_name, how in _HASHES.items():
        lines.append(f"{field_name}:")
        for name in ("Packages", "Packages.gz"):
            data = (folder / name).read_bytes()
            lines.append(f" {hashlib.new(how, data).hexdigest()} {len(data)} {name}")
    return "\n".join(lines) + "\n"


def _write(path: Path, data: bytes) -> None:
    # A client that reads meanwhile gets the old file or the new one.
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)


def _fingerprint(home: Path, name: str) -> str:
    listing = _gpg(home, "--with-colons", "--list-keys").decode()
    found = ""
    for line in listing.splitlines():
        fields = line.split(":")
        if fields[0] == "fpr":
            found = fields[9]
        if fields[0] == "uid" and fields[9] == name:
            return found
    return ""


def _gpg(home: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    # gpg leaves an agent behind; it ends by itself when its folder goes.
    done = subprocess.run(
        ["gpg", "--batch", "--quiet", "--homedir", str(home.resolve()), *arguments],
        input=stdin,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"gpg {' '.join(arguments[-3:])}: {done.stderr.decode()}")
    return done.stdout
