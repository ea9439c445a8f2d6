"""What is in the way on a host, found before anything is changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra_llm.core.engines import ENGINE_ROLES, is_installed
from infra_llm.core.errors import ExitCode

SPARE_MIB = 512
"""Room that must stay on a disk after everything is on it."""
UNPACKED_FACTOR = 5
"""An engine's archive and its unpacked files together, as a multiple of the archive; the wheel
xllamacpp unpacks to 3.1 times its size and stays beside it for a moment."""
_MIB = 2**20


@dataclass(frozen=True)
class Problem:
    what: str
    hint: str
    code: int = ExitCode.HOST_FAILED

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "text": f"{self.what}\n  {self.hint}"}


def preflight(
    desired: Mapping[str, Any], audit: Mapping[str, Any], due: Sequence[str]
) -> list[Problem]:
    """Everything that would stop this host half-way, each with what to do about it."""
    found = []
    if audit["effective_uid"] != 0:
        found.append(
            Problem(
                "the user of this connection did not become root",
                "give it sudo (and --ask-become-pass where sudo asks for a password)",
            )
        )
    port = audit["port"]
    if port["taken_by"]:
        found.append(
            Problem(
                f"port {port['number']} is taken by {port['taken_by']}",
                "set infra_llm_port to a free one, or stop that program",
                ExitCode.BAD_INPUT,
            )
        )
    return found + _disk(desired, audit, due)


def _disk(
    desired: Mapping[str, Any], audit: Mapping[str, Any], due: Sequence[str]
) -> list[Problem]:
    needs = {"var": 0.0, "opt": 0.0}
    model = desired["model"]
    size = model["size"] / _MIB
    present = audit["models_mib"].get(model["filename"], 0.0)
    if "model_store" in due and abs(present - size) > 0.01:
        needs["var"] += _download_mib(model)
    artifacts = [method["artifact"] for method in desired["engine"]["methods"]]
    there = any(is_installed(m, audit["engine"]) for m in desired["engine"]["methods"])
    if {*ENGINE_ROLES} & {*due} and not there:
        needs["opt"] += UNPACKED_FACTOR * max(artifact["size"] for artifact in artifacts) / _MIB
    return [
        Problem(
            f"{need + SPARE_MIB:.0f} MiB are needed in {desired['layout'][place]}, "
            f"{audit['free_mib'][place]} MiB are free",
            "free some space, or wish a smaller model",
        )
        for place, need in needs.items()
        if need and need + SPARE_MIB > audit["free_mib"][place]
    ]


def _download_mib(artifact: Mapping[str, Any]) -> float:
    """The file, and the largest container that it may have to be taken out of."""
    containers = [place.get("size", 0) for place in artifact["places"] if place.get("member")]
    return float((artifact["size"] + max(containers, default=0)) / _MIB)
