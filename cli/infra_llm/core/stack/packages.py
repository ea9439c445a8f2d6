"""Names of packages and repositories of a chosen driver. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra_llm.core.stack.model import Repository
from infra_llm.core.stack.request import Request

MACHINES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("sbsa", "arm64")}
"""uname -m -> (NVIDIA's folder, Debian's architecture)."""


def kernel_words(request: Request) -> dict[str, str] | None:
    """{kernel} and {meta} of the templates; None for a kernel that is not the distribution's.

    {kernel} is empty where nothing was probed: then only the meta package is known.
    """
    distribution = request.distribution
    debian = MACHINES.get(request.machine, MACHINES["x86_64"])[1]
    if not request.kernel:
        meta = debian if distribution.suite in ("bookworm", "trixie") else "generic"
        return {"kernel": "", "meta": meta}
    match = re.fullmatch(distribution.kernels, request.kernel)
    if match is None:
        return None
    found = match.groupdict()
    meta, series = found["flavour"], found.get("series")
    if series and series != distribution.first_kernel and meta in ("generic", "lowlatency"):
        meta = f"{meta}-hwe-{distribution.version}"
    return {"kernel": request.kernel, "meta": meta}


def header_packages(request: Request) -> list[str]:
    """Of the running kernel and the one that brings the next; [] for headers that are there."""
    words = kernel_words(request)
    if words is None:
        return []
    templates = request.distribution.headers
    wanted = [t for t in templates if words["kernel"] or "{kernel}" not in t]
    return [template.format(**words) for template in wanted]


def fill(templates: Sequence[str], request: Request, branch: int) -> list[str]:
    """The templates with branch and kernel flavour filled in."""
    words = kernel_words(request) or {"kernel": request.kernel, "meta": ""}
    return [template.format(branch=branch, **words) for template in templates]


def globs(templates: Sequence[str], request: Request, branch: int) -> list[str]:
    """Likewise for glob patterns, whose {other} is any branch of three digits but this one."""
    digits = str(branch)
    others = [
        f"{digits[:place]}[!{digits[place]}]{'[0-9]' * (len(digits) - place - 1)}"
        for place in range(len(digits))
    ]
    found = []
    for template in templates:
        for other in others if "{other}" in template else [""]:
            found += fill([template.replace("{other}", other)], request, branch)
    return found


def repository(
    catalogue: Sequence[Mapping[str, Any]],
    site: Mapping[str, Mapping[str, str]],
    request: Request,
    name: str,
    exclude: Sequence[str] = (),
) -> Repository:
    """One repository of the catalogue for this distribution and machine.

    A site's mirror replaces url, key_url or key_fingerprint. Raises LookupError where the
    catalogue has none: a fault of the data, which the tests look for.
    """
    folder, debian = MACHINES.get(request.machine, (request.machine, request.machine))
    distribution = request.distribution
    for entry in catalogue:
        if entry["name"] == name and distribution.name in entry["os"]:
            words = {"folder": folder, "debian": debian, "machine": request.machine}
            own = dict(site.get(name, {}))
            return Repository(
                name=name,
                kind=entry["kind"],
                url=own.get("url", str(entry["url"]).format(**words)),
                suite=entry.get("suite", ""),
                components=list(entry.get("components", [])),
                key_url=own.get("key_url", str(entry["key_url"]).format(**words)),
                key_fingerprint=own.get("key_fingerprint", entry["key_fingerprint"]),
                signed=list(entry.get("signed", [])),
                exclude=list(exclude),
            )
    raise LookupError(f"catalogue repositories: no {name} for {distribution.name}")


def own_components(request: Request) -> Repository:
    """The distribution's own components that the packages are in."""
    distribution = request.distribution
    own = distribution.own
    components = own.components if own is not None else distribution.components
    kind = "apt" if distribution.family == "debian" else "dnf"
    suite = distribution.suite if kind == "apt" else ""
    return Repository("distribution", kind, suite=suite, components=list(components))
