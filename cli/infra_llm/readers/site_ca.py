"""Certificates of the front: a site CA of our own on the controller, or the site's own files.

The CA and the hosts' certificates are in the user's data folder (XDG_DATA_HOME/infra-llm/ca), keys
0600. A host's certificate is made anew when its names change or RENEW_DAYS before it expires.
`cryptography` is here anyway: ansible-core depends on it.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra_llm.core.access import Certificate
from infra_llm.core.errors import BadInputError

CA_DAYS = 3650
HOST_DAYS = 397
"""The longest that browsers and Apple's clients take of a server's certificate."""
RENEW_DAYS = 60


def ca_folder() -> Path:
    """Where the CA and what it made are."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "infra-llm" / "ca"


def site_certificate(host: str, names: Sequence[str], now: datetime | None = None) -> Certificate:
    """The host's certificate by the site CA; both are made where they are missing or run out.

    `names` are DNS names and IP addresses, the first one is the subject.
    """
    now = now or datetime.now(UTC)
    folder = ca_folder()
    with _locked(folder):
        authority, authority_key = _authority(folder, now)
        place = folder / "hosts" / _file_name(host)
        certificate = _read(place.with_suffix(".crt"))
        if not (certificate and _still_good(certificate, authority, names, now)):
            certificate = _issue(place, names, authority, authority_key, now)
    return _described("site", certificate, place.with_suffix(".crt"), place.with_suffix(".key"),
                      folder / "ca.crt")  # fmt: skip


def own_certificate(files: Mapping[str, Any], now: datetime | None = None) -> Certificate:
    """The site's own certificate {"certificate", "key", "ca"} (paths on the controller).

    Raises BadInputError when it can't be read, has run out, or the key is another's.
    """
    now = now or datetime.now(UTC)
    where = "infra_llm_tls"
    path, key_path = (Path(str(files[name])).expanduser() for name in ("certificate", "key"))
    authority = Path(str(files["ca"])).expanduser() if files.get("ca") else None
    certificate = _read(path)
    if certificate is None:
        raise BadInputError(f"{path} is no certificate in PEM", where=where)
    try:
        key = load_pem_private_key(key_path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(f"the key {key_path} can't be read: {error}", where=where) from error
    if _public(key.public_key()) != _public(certificate.public_key()):
        raise BadInputError(f"{key_path} is not the key of {path}", where=where)
    if certificate.not_valid_after_utc <= now:
        raise BadInputError(
            f"{path} has run out on {certificate.not_valid_after_utc:%Y-%m-%d}",
            where=where,
            hint="renew it and run again",
        )
    if authority and _read(authority) is None:
        raise BadInputError(f"{authority} is no certificate in PEM", where=where)
    return _described("own", certificate, path, key_path, authority)


def _described(
    kind: str, certificate: x509.Certificate, path: Path, key: Path, authority: Path | None
) -> Certificate:
    names = _names(certificate)
    return Certificate(
        kind=kind,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        not_after=f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        server_name=names[0] if names else "",
        certificate=str(path),
        key=str(key),
        ca=str(authority or ""),
    )


def _authority(folder: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    found, key_path = _read(folder / "ca.crt"), folder / "ca.key"
    if found and found.not_valid_after_utc > now + timedelta(days=HOST_DAYS):
        key = load_pem_private_key(key_path.read_bytes(), None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return found, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "infra-llm site CA")])
    made = (
        _builder(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_path, _pem(key))
    _write(folder / "ca.crt", made.public_bytes(serialization.Encoding.PEM), 0o644)
    return made, key


def _issue(
    place: Path,
    names: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    made = (
        _builder(subject, authority.subject, key.public_key(), now, HOST_DAYS)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    _write(place.with_suffix(".key"), _pem(key))
    _write(place.with_suffix(".crt"), made.public_bytes(serialization.Encoding.PEM), 0o644)
    return made


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour back: clocks of hosts differ.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )


def _still_good(
    certificate: x509.Certificate, authority: x509.Certificate, names: Sequence[str], now: datetime
) -> bool:
    lasts = certificate.not_valid_after_utc > now + timedelta(days=RENEW_DAYS)
    by_us = certificate.issuer == authority.subject and _signed_by(certificate, authority)
    return lasts and by_us and set(names) <= set(_names(certificate))


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, a new one is made
        return False
    return True


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(general.value) for general in found]


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _public(key: Any) -> bytes:
    found: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _read(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    Path(temporary).replace(path)


def _file_name(host: str) -> str:
    """An inventory name may hold a slash or be "..": never a path. The dot keeps a suffix off."""
    return "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):x}" for c in host) + ".host"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hosts are planned by processes side by side: one makes certificates at a time."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
