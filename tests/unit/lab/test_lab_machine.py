from __future__ import annotations

from configparser import RawConfigParser

import pytest
from tests.lab.machine import Source, apt_settings, parse_sources, pip_conf, sources_for

DEB822 = """\
# Written by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://other.example/apt
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://off.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/key.gpg] http://mirror.example/debian bookworm main non-free # all
"""


def test_deb822_is_turned_to_another_suite():
    key = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert sources_for("trixie", parse_sources(DEB822)) == [
        Source("http://mirror.example/debian", "trixie", ("main", "contrib"), key),
        Source("http://mirror.example/debian", "trixie-updates", ("main", "contrib"), key),
        Source("http://mirror.example/debian-security", "trixie-security", ("main",), ""),
    ]


def test_one_line_form():
    (source,) = parse_sources(ONE_LINE)
    assert source.line() == (
        "deb [signed-by=/etc/key.gpg] http://mirror.example/debian bookworm main non-free"
    )


def test_sid_has_no_updates_and_no_security():
    suites = [source.suite for source in sources_for("sid", parse_sources(DEB822))]
    assert suites == ["sid"]


def test_a_machine_of_another_distribution_has_no_debian_sources():
    ubuntu = "deb http://mirror.example/ubuntu jammy main\ndeb http://m.example/ubuntu noble main"
    assert sources_for("bookworm", parse_sources(ubuntu)) == []


@pytest.mark.parametrize("text", ["", "deb", "deb http://x", "Types: deb", "\0\1", "Types:\nURIs:"])
def test_garbage_is_no_source(text):
    assert parse_sources(text) == []


def test_apt_settings_of_the_network_only():
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://proxy.example:3142";\n'
        'Acquire::Retries "3";\nAcquire::cdrom::mount "/media/cdrom/";\nAcquire::http "";\n'
    )
    assert apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3142";',
        'Acquire::Retries "3";',
    ]


def test_pip_settings_that_mean_something_elsewhere():
    texts = ["[global]\nindex-url = https://one.example/simple\ncert = /home/me/ca.pem\n"]
    texts.append("[global]\nfind-links = /opt/wheels\n[list]\nformat = json\n")
    environment = {
        "PIP_EXTRA_INDEX_URL": "file:///opt/index https://two.example/simple",
        "PIP_DEFAULT_TIMEOUT": "9",
        "HOME": "/home/me",
    }
    parser = RawConfigParser()
    parser.read_string(pip_conf(texts, environment))
    assert dict(parser.items("global")) == {
        "index-url": "https://one.example/simple",
        "extra-index-url": "https://two.example/simple",
        "cert": "/etc/ssl/certs/ca-certificates.crt",
    }


def test_the_environment_wins_over_the_files():
    text = pip_conf(["[global]\nindex-url = https://one.example\n"], {"PIP_INDEX_URL": "http://b"})
    assert "index-url = http://b\n" in text
    assert "one.example" not in text
