"""Nothing is opened to the network without a key and TLS, unless somebody says so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests import samples

from infra_llm.core.access import (
    Certificate,
    access,
    engine_wishes,
    key_id,
    names_of,
    public_url,
    refuse_open_doors,
    verify_address,
)
from infra_llm.core.errors import ExitCode, RefusedError
from infra_llm.core.layout import LAYOUT

KEY = "a-key-of-the-site-0123456789"
CERTIFICATE = Certificate("site", "ab" * 32, "2027-12-01", "node1", "/c.crt", "/c.key", "/ca.crt")
OPEN = {"infra_llm_bind": "0.0.0.0"}
SAFE: dict[str, Any] = {**OPEN, "infra_llm_api_key": KEY, "infra_llm_tls": "site"}


@pytest.mark.parametrize(
    ("wished", "missing"),
    [
        (OPEN, ("infra_llm_api_key", "infra_llm_tls")),
        ({**OPEN, "infra_llm_api_key": "auto"}, ("infra_llm_tls",)),
        ({**OPEN, "infra_llm_tls": "site"}, ("infra_llm_api_key",)),
        ({"infra_llm_bind": "::"}, ("infra_llm_api_key", "infra_llm_tls")),
        ({"infra_llm_bind": "10.1.2.3"}, ("infra_llm_api_key", "infra_llm_tls")),
    ],
)
def test_an_open_door_is_refused_with_what_is_missing(
    wished: dict[str, Any], missing: tuple[str, ...]
) -> None:
    with pytest.raises(RefusedError) as caught:
        refuse_open_doors(samples.wishes(**wished), "systemd", "node1")
    assert caught.value.code == ExitCode.REFUSED
    said = caught.value.what
    assert [name for name in ("infra_llm_api_key", "infra_llm_tls") if name in said] == list(
        missing
    )
    assert "infra_llm_insecure" in caught.value.hint


@pytest.mark.parametrize(
    "wished", [{}, SAFE, {**OPEN, "infra_llm_insecure": True}, {"infra_llm_bind": "::1"}]
)
def test_what_is_safe_or_said_is_allowed(wished: dict[str, Any]) -> None:
    refuse_open_doors(samples.wishes(**wished), "systemd", "node1")


def test_a_front_needs_systemd() -> None:
    with pytest.raises(RefusedError, match="need systemd"):
        refuse_open_doors(samples.wishes(**SAFE), "supervisor", "node1")


def test_the_engine_stays_on_loopback_behind_a_front() -> None:
    inside = engine_wishes(samples.wishes(**SAFE))
    assert (inside["infra_llm_bind"], inside["infra_llm_port"]) == ("127.0.0.1", 18080)
    high = engine_wishes(samples.wishes(**SAFE, infra_llm_port=60000))
    assert high["infra_llm_port"] == 50000
    named = engine_wishes(samples.wishes(**SAFE, infra_llm_engine_port=9999))
    assert named["infra_llm_port"] == 9999
    bare = engine_wishes(samples.wishes(**OPEN, infra_llm_insecure=True))
    assert bare["infra_llm_bind"] == OPEN["infra_llm_bind"]


def test_the_key_is_nowhere_in_what_a_host_should_be() -> None:
    wished = samples.wishes(**SAFE)
    found = access(wished, CERTIFICATE, "/health", "node1")
    assert KEY not in json.dumps(found)
    assert found["front"]["key_id"] == key_id(KEY, "node1")
    assert found["insecure"] is False
    assert "/c.key" not in json.dumps(found)


def test_another_key_is_another_front_and_each_host_has_its_own_id() -> None:
    assert key_id(KEY, "a") != key_id(KEY + "x", "a")
    assert key_id(KEY, "a") != key_id(KEY, "b")


def test_an_endpoint_on_loopback_has_neither_front_nor_rule() -> None:
    found = access(samples.wishes(infra_llm_allowed_networks=["10.0.0.0/8"]), None, "/health", "h")
    assert found == {"front": None, "firewall": None, "insecure": False}


def test_the_rule_is_for_the_outside_port_and_the_named_networks() -> None:
    wished = samples.wishes(**SAFE, infra_llm_allowed_networks=["10.0.0.0/8"])
    found = access(wished, CERTIFICATE, "/health", "h")
    assert found["firewall"] == {"port": 8080, "networks": ["10.0.0.0/8"]}
    assert found["front"]["engine_port"] == 18080


@pytest.mark.parametrize("without", ["infra_llm_api_key", "infra_llm_tls"])
def test_a_door_that_is_half_open_counts_as_insecure(without: str) -> None:
    wished = samples.wishes(**{**SAFE, without: "", "infra_llm_insecure": True})
    certificate = CERTIFICATE if wished["infra_llm_tls"] else None
    assert access(wished, certificate, "/health", "h")["insecure"] is True


def test_addresses_near_and_far() -> None:
    wished = samples.wishes(**SAFE)
    near = verify_address(wished, CERTIFICATE, LAYOUT)
    assert near["url"] == "https://127.0.0.1:8080"
    assert near["api_key_file"] == "/etc/infra-llm/api-key"
    assert near["server_name"] == "node1"
    assert public_url(wished, "10.9.9.9") == "https://10.9.9.9:8080"
    assert public_url(samples.wishes(), "10.9.9.9") == ""
    six = samples.wishes(infra_llm_bind="fd00::5", infra_llm_insecure=True)
    assert public_url(six, "h") == "http://[fd00::5]:8080"
    assert verify_address(six, None, LAYOUT)["url"] == "http://[fd00::5]:8080"


def test_a_certificate_is_for_every_name_once() -> None:
    found = names_of("10.0.0.5", "node1", "node1", "0.0.0.0", ["10.0.0.5/24", "fe80::1%eth0"])
    assert found == ["node1", "10.0.0.5", "localhost", "127.0.0.1", "::1"]
