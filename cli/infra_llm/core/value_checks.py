"""Checks of the values that an inventory may give: what is wrong with one, in words. Pure."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable
from typing import Any

AUTO = "auto"
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,4000}\s*")
"""What int() takes for certain: it refuses "--5", "²" and more than 4300 digits."""

Check = Callable[[Any], str]
"""Returns what is wrong in words, or an empty string."""


def integer(low: int, high: int, *, auto: bool = False, unit: str = "") -> Check:
    """A whole number in a range; a text that is one counts."""

    def check(value: Any) -> str:
        if auto and value == AUTO:
            return ""
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be a whole number{unit and ' of ' + unit}{' or auto' if auto else ''}"
        return "" if low <= value <= high else f"must be from {low} to {high}"

    return check


def speed(value: Any) -> str:
    """Tokens/s; INI inventories may hand a number as a text."""
    try:
        number = float(value) if isinstance(value, int | float | str) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    fine = not isinstance(value, bool) and 0 <= number <= 10_000
    return "" if fine else "must be a number of tokens/s from 0 to 10000"


def choice(*values: str) -> Check:
    """One of these words."""
    return lambda value: "" if value in values else f"must be one of {', '.join(values)}"


def text(value: Any) -> str:
    """INI inventories turn a text like 2 into a number: it is taken for the text."""
    is_text = isinstance(value, str | int) and not isinstance(value, bool)
    return "" if is_text else "must be a text"


def text_not_empty(value: Any) -> str:
    """A text with something in it."""
    return text(value) or ("" if str(value).strip() else "must not be empty")


def instance(value: Any) -> str:
    """The name of a further service."""
    plain = re.fullmatch(r"[a-z0-9]{0,16}", str(value))
    return text(value) or ("" if plain else "must be 1 to 16 small letters and digits")


def texts(value: Any) -> str:
    """A list of texts."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ""
    return "must be a list of texts"


def architectures(value: Any) -> str:
    """CUDA architectures as compute capability without the dot."""
    name = re.compile(r"[5-9][0-9]|1[0-9]{2}")
    if isinstance(value, list) and all(name.fullmatch(str(item)) for item in value):
        return ""
    return "must be a list of compute capabilities without the dot, as [86, 120]"


def mapping(value: Any) -> str:
    """A mapping."""
    return "" if isinstance(value, dict) else "must be a mapping"


def optional(check: Check) -> Check:
    """Nothing, or what the check takes."""
    return lambda value: "" if value is None else check(value)


def cuda_version(value: Any) -> str:
    """INI inventories turn 12.9 into a number."""
    if value == AUTO or (
        isinstance(value, str | float) and re.fullmatch(r"\d{2}\.\d{1,2}", str(value))
    ):
        return ""
    return 'must be auto or a release such as "12.9"'


def window(value: Any) -> str:
    """A span of local time."""
    hour = r"([01]\d|2[0-3]):[0-5]\d"
    if isinstance(value, str) and (not value or re.fullmatch(f"{hour}-{hour}", value)):
        return ""
    return 'must be a span of the host\'s local time such as "01:00-05:00"'


MIG_PROFILE = re.compile(r"(?P<slices>[1-7])g\.[1-9][0-9]{0,2}gb([+-](me|gfx|me\.all))?")
"""A GPU instance as `nvidia-smi mig -lgip` lists it: 1g.10gb, 1g.10gb+me, 1g.24gb+me.all."""
_MIG_SLICES = 7
"""Compute slices of a card at most (NVIDIA's MIG user guide)."""


def mig(value: Any) -> str:
    """A MIG layout."""
    if not isinstance(value, dict) or not all(isinstance(each, list) for each in value.values()):
        return "must map a card (PCI address, index or all) to a list of profiles"
    for card, profiles in value.items():
        slices = 0
        for profile in profiles:
            match = MIG_PROFILE.fullmatch(profile) if isinstance(profile, str) else None
            if not match:
                return f"must have profiles such as 1g.10gb for {card}, not {profile!r}"
            slices += int(match["slices"])
        if slices > _MIG_SLICES:
            return f"must divide {card} into {_MIG_SLICES} slices at most, not {slices}"
    return ""


REPOSITORIES = ("nvidia-cuda", "nvidia-container-toolkit", "epel")
"""The repositories of the catalogue."""
REPOSITORY_KEYS = ("url", "key_url", "key_fingerprint")


def repositories(value: Any) -> str:
    """Mirrors of package repositories."""
    if not isinstance(value, dict):
        return "must map a repository's name to url, key_url and key_fingerprint"
    for name, entry in value.items():
        if name not in REPOSITORIES:
            close = difflib.get_close_matches(str(name), REPOSITORIES, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            return f"may name only {', '.join(REPOSITORIES)}, not {name!r}{meant}"
        if not isinstance(entry, dict) or not set(entry) <= set(REPOSITORY_KEYS):
            return f"may give {name} only {', '.join(REPOSITORY_KEYS)}"
        fingerprint = entry.get("key_fingerprint", "0" * 40)
        if not re.fullmatch(r"[0-9A-Fa-f]{40}", str(fingerprint)):
            return f"must have 40 hexadecimal digits as {name}.key_fingerprint"
        for key in ("url", "key_url"):
            if not re.match(r"(https?|file)://", str(entry.get(key, "file://"))):
                return f"must have an http, https or file URL as {name}.{key}"
    return ""


def boolean(value: Any) -> str:
    """INI inventories write true and yes as texts."""
    words = isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE
    return "" if isinstance(value, bool) or words else "must be true or false"


def optional_boolean(value: Any) -> str:
    """Nothing, or true or false."""
    return "" if value is None else boolean(value)


def address(value: Any) -> str:
    """An address to listen on."""
    if value == "localhost":
        return ""
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return "must be an IP address of the host, 0.0.0.0, :: or localhost"
    return ""


def api_key(value: Any) -> str:
    """A key of an endpoint."""
    if value in ("", AUTO):
        return ""
    good = isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]{16,256}", value)
    return "" if good else "must be auto, or 16 to 256 characters without spaces"


def tls(value: Any) -> str:
    """The front's certificate."""
    if value in ("", "site"):
        return ""
    known = {"certificate", "key", "ca"}
    if isinstance(value, dict) and {"certificate", "key"} <= set(value) <= known:
        return "" if all(isinstance(path, str) for path in value.values()) else "must name files"
    return "must be site, or a mapping with certificate, key and perhaps ca"


def networks(value: Any) -> str:
    """Who may reach an endpoint."""
    if not isinstance(value, list):
        return "must be a list of networks"
    for text in value:
        try:
            ipaddress.ip_network(text if isinstance(text, str) else "")
        except ValueError as error:
            return f"must be a list of networks like 10.0.0.0/8 ({error})"
    return ""


def normal(check: Check, value: Any) -> Any:
    """INI inventories mix up texts and numbers; the check says which of them is meant."""
    if check in (boolean, optional_boolean):
        return value if value is None or isinstance(value, bool) else value.strip().lower() in _TRUE
    texts = (text, text_not_empty, instance, cuda_version, api_key)
    takes_texts = check in texts
    if takes_texts:
        return str(value)
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if check is speed:
        return float(value)
    return value
