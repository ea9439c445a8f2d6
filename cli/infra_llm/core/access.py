"""Who may reach the endpoint, and through what: the front with TLS and a key, or nothing. Pure.

The engine itself listens on loopback; a front of ours (roles/llm_access) is what the network sees,
whatever the engine. Only infra_llm_insecure puts an engine, or a front without key or TLS, on it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra_llm.core.errors import RefusedError
from infra_llm.core.variables import AUTO, LOOPBACK

_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_ENGINE_PORT_STEP = 10_000


@dataclass(frozen=True)
class Certificate:
    """The public part of a certificate, and where the controller keeps its files."""

    kind: str
    """site or own."""
    sha256: str
    not_after: str
    """ISO date."""
    server_name: str
    """A name it was made for, to ask it by."""
    certificate: str
    key: str
    ca: str
    """Paths on the controller; `ca` is empty where the host's own trust is to do."""

    @property
    def files(self) -> dict[str, str]:
        return {"certificate": self.certificate, "key": self.key, "ca": self.ca}

    def public(self) -> dict[str, str]:
        known = asdict(self)
        return {name: known[name] for name in ("kind", "sha256", "not_after", "server_name")}


def is_open(bind: str) -> bool:
    """Whether others than this machine can reach the address."""
    return bind not in LOOPBACK


def has_front(wishes: Mapping[str, Any]) -> bool:
    """Whether the engine stands behind a front of ours."""
    return bool(wishes["infra_llm_api_key"] or wishes["infra_llm_tls"])


def refuse_open_doors(wishes: Mapping[str, Any], manager: str, where: str) -> None:
    """Raise RefusedError where the wishes would open the endpoint without key, TLS or opt-out."""
    bind = wishes["infra_llm_bind"]
    if has_front(wishes) and manager != "systemd":
        raise RefusedError(
            "an API key and TLS need systemd: supervisor runs the engine on loopback only",
            where=where,
            hint="put a proxy of your own before it, or provision a host with systemd",
        )
    if not is_open(bind) or wishes["infra_llm_insecure"]:
        return
    missing = [
        name
        for name, there in (
            ("infra_llm_api_key (auto makes one on the host)", wishes["infra_llm_api_key"]),
            ("infra_llm_tls (site makes a certificate)", wishes["infra_llm_tls"]),
        )
        if not there
    ]
    if missing:
        raise RefusedError(
            f"infra_llm_bind {bind} opens the endpoint to the network without "
            f"{' and '.join(missing)}",
            where=where,
            hint="set them, or infra_llm_insecure: true where everyone who reaches it may use it",
        )


def engine_wishes(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The wishes as the engine is given them: behind a front it listens on loopback."""
    if not has_front(wishes):
        return dict(wishes)
    port = wishes["infra_llm_engine_port"]
    if port == AUTO:
        outside = wishes["infra_llm_port"]
        step = _ENGINE_PORT_STEP if outside + _ENGINE_PORT_STEP <= 65535 else -_ENGINE_PORT_STEP
        port = outside + step
    return {**wishes, "infra_llm_bind": "127.0.0.1", "infra_llm_port": port}


def access(
    wishes: Mapping[str, Any],
    certificate: Certificate | None,
    health: str,
    salt: str,
    public_paths: Sequence[str] = (),
) -> dict[str, Any]:
    """The `access` of the desired host: {"front", "firewall", "insecure"}, each may be None.

    The key itself is not in it: `key` says where it comes from, `key_id` changes with it.
    """
    bind, key = wishes["infra_llm_bind"], str(wishes["infra_llm_api_key"])
    networks = list(wishes["infra_llm_allowed_networks"])
    front = None
    if has_front(wishes):
        front = {
            "bind": bind,
            "port": wishes["infra_llm_port"],
            "engine_port": engine_wishes(wishes)["infra_llm_port"],
            "networks": networks,
            "open_paths": sorted({"/health", health}),
            "public_paths": list(public_paths),
            "key": bool(key),
            "key_from": ("host" if key == AUTO else "inventory") if key else "",
            "key_id": key_id(key, salt) if key and key != AUTO else "",
            "tls": certificate.public() if certificate else None,
        }
    guarded = is_open(bind) and networks
    return {
        "front": front,
        "firewall": {"port": wishes["infra_llm_port"], "networks": networks} if guarded else None,
        "insecure": is_open(bind) and not (front and front["key"] and front["tls"]),
    }


def key_id(key: str, salt: str) -> str:
    """Tells two keys apart without giving either away (scrypt, 16 hexadecimal digits)."""
    digest = hashlib.scrypt(key.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=8)
    return digest.hex()


def verify_address(
    wishes: Mapping[str, Any], certificate: Certificate | None, layout: Mapping[str, str]
) -> dict[str, str]:
    """How the host itself reaches it: {"url", "ca_file", "server_name", "api_key_file"}.

    `engine_url` is the engine's own, past a front.
    """
    bind, port = wishes["infra_llm_bind"], wishes["infra_llm_port"]
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104
    return {
        "url": f"{'https' if certificate else 'http'}://{bracketed(near)}:{port}",
        "engine_url": _engine_url(wishes),
        "ca_file": f"{layout['etc']}/tls/ca.crt" if certificate and certificate.ca else "",
        "server_name": certificate.server_name if certificate else "",
        "api_key_file": f"{layout['etc']}/api-key" if wishes["infra_llm_api_key"] else "",
    }


def _engine_url(wishes: Mapping[str, Any]) -> str:
    inside = engine_wishes(wishes)
    bind = inside["infra_llm_bind"]
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104
    return f"http://{bracketed(near)}:{inside['infra_llm_port']}"


def public_url(wishes: Mapping[str, Any], address: str) -> str:
    """How others reach it, "" for an endpoint on loopback."""
    bind = wishes["infra_llm_bind"]
    if not is_open(bind):
        return ""
    host = address if bind in _ANY else bind
    scheme = "https" if wishes["infra_llm_tls"] else "http"
    return f"{scheme}://{bracketed(host)}:{wishes['infra_llm_port']}"


def bracketed(host: str) -> str:
    """A host as an address of the web has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def names_of(address: str, host: str, hostname: str, bind: str, found: list[str]) -> list[str]:
    """Every name and address that the host's certificate is made for, the inventory's first."""
    names = [host, address, hostname, "localhost", "127.0.0.1", "::1"]
    names += [] if bind in _ANY else [bind]
    names += [text.partition("/")[0] for text in found]
    unique = [name for name in dict.fromkeys(names) if name]
    return [name for name in unique if not _is_link_local(name)]


def _is_link_local(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_link_local
    except ValueError:
        return False
