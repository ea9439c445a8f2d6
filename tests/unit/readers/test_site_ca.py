"""Certificates that real TLS clients accept, kept until they must be renewed."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra_llm.core.access import Certificate
from infra_llm.core.errors import BadInputError
from infra_llm.readers.site_ca import RENEW_DAYS, own_certificate, site_certificate

NAMES = ["node1", "10.0.0.5", "localhost", "127.0.0.1", "::1"]


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "infra-llm" / "ca"


def handshake(certificate: Certificate, name: str) -> str:
    """A real handshake; gives the protocol's version."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.certificate, certificate.key)
    client = ssl.create_default_context(cafile=certificate.ca)
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as secure:
                secure.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as secure:
            return str(secure.version())
    finally:
        near.close()
        thread.join(10)


@pytest.mark.parametrize("name", NAMES)
def test_a_client_that_trusts_the_ca_accepts_every_name(name: str) -> None:
    assert handshake(site_certificate("node1", NAMES), name) == "TLSv1.3"


def test_another_name_is_refused() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(site_certificate("node1", NAMES), "node2")


def test_keys_are_for_their_owner_only(data_home: Path) -> None:
    site_certificate("node1", NAMES)
    keys = sorted(data_home.rglob("*.key"))
    assert [key.name for key in keys] == ["ca.key", "node1.key"]
    assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    assert data_home.stat().st_mode & 0o077 == 0


def test_it_is_kept_while_it_is_good() -> None:
    first = site_certificate("node1", NAMES)
    assert site_certificate("node1", NAMES[:2]).sha256 == first.sha256
    assert site_certificate("node1", [*NAMES, "10.0.0.6"]).sha256 != first.sha256


def test_it_is_renewed_before_it_runs_out() -> None:
    first = site_certificate("node1", NAMES)
    ends = datetime.fromisoformat(first.not_after).replace(tzinfo=UTC)
    early = ends - timedelta(days=RENEW_DAYS + 5)
    assert site_certificate("node1", NAMES, early).sha256 == first.sha256
    late = site_certificate("node1", NAMES, ends - timedelta(days=RENEW_DAYS - 5))
    assert late.sha256 != first.sha256
    assert late.not_after > first.not_after


def test_hosts_share_the_authority_and_nothing_else() -> None:
    one, two = site_certificate("node1", NAMES), site_certificate("node2", ["node2"])
    assert one.ca == two.ca
    assert Path(one.key).read_bytes() != Path(two.key).read_bytes()


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "node1.crt"])
def test_a_host_name_is_no_path(name: str, data_home: Path) -> None:
    made = Path(site_certificate(name, ["node"]).certificate)
    assert made.parent == data_home / "hosts"


def test_own_files_are_taken(tmp_path: Path) -> None:
    made = site_certificate("node1", NAMES)
    found = own_certificate({"certificate": made.certificate, "key": made.key, "ca": made.ca})
    assert (found.kind, found.sha256, found.server_name) == ("own", made.sha256, "node1")
    assert handshake(found, "node1")


def test_own_files_that_can_not_be_are_refused(tmp_path: Path) -> None:
    one, two = site_certificate("node1", NAMES), site_certificate("node2", NAMES)
    text = tmp_path / "text"
    text.write_text("no certificate")
    cases = [
        ({"certificate": one.certificate, "key": two.key}, "is not the key of"),
        ({"certificate": str(text), "key": one.key}, "no certificate"),
        ({"certificate": one.certificate, "key": str(text)}, "can't be read"),
        ({"certificate": one.certificate, "key": "/not/there"}, "can't be read"),
        ({"certificate": one.certificate, "key": one.key, "ca": str(text)}, "no certificate"),
    ]
    for files, words in cases:
        with pytest.raises(BadInputError, match=words):
            own_certificate(files)
    later = datetime.now(UTC) + timedelta(days=500)
    with pytest.raises(BadInputError, match="has run out"):
        own_certificate({"certificate": one.certificate, "key": one.key}, later)
