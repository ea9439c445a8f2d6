"""Certificates and ports for core/access.py, from the inventory's wishes and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra_llm.core.access import Certificate, engine_wishes, has_front, key_id, names_of
from infra_llm.core.errors import RefusedError
from infra_llm.core.hardware import HostHardware
from infra_llm.core.variables import AUTO
from infra_llm.readers.site_ca import own_certificate, site_certificate


def certificate_of(
    host: str, wishes: Mapping[str, Any], hardware: HostHardware, address: str
) -> Certificate | None:
    """The certificate of the host's front, made or renewed where that is wished.

    Raises BadInputError for files of the site's own that can't be used.
    """
    wished = wishes["infra_llm_tls"]
    if not wished:
        return None
    if wished != "site":
        return own_certificate(wished)
    found = [text for network in hardware.network for text in network.addresses]
    bind = wishes["infra_llm_bind"]
    return site_certificate(host, names_of(address, host, hardware.system.hostname, bind, found))


def ports(wishes: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"port", "engine_port" or None} that must be free, of a given plan or of the wishes."""
    if given:
        front = (given.get("access") or {}).get("front")
        inner = given["launch"].get("port", wishes["infra_llm_port"])
        if front:
            return {"port": front["port"], "engine_port": inner}
        return {"port": inner, "engine_port": None}
    inner = engine_wishes(wishes)["infra_llm_port"] if has_front(wishes) else None
    return {"port": wishes["infra_llm_port"], "engine_port": inner}


def refuse_other_secrets(
    access: Mapping[str, Any], certificate: Certificate | None, wishes: Mapping[str, Any], host: str
) -> None:
    """Raise RefusedError where a given plan was made for another key or certificate."""
    front = access.get("front") or {}
    planned = (front.get("tls") or {}).get("sha256")
    key = str(wishes["infra_llm_api_key"])
    given = key_id(key, host) if key and key != AUTO else ""
    what = ""
    if planned != (certificate.sha256 if certificate else None):
        what = "certificate"
    elif front.get("key_id", "") != given:
        what = "API key"
    if what:
        raise RefusedError(
            f"the plan was made for another {what}",
            where=host,
            hint="make a new plan: infra-llm plan --inventory FILE -o PLAN",
        )
