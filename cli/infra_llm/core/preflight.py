"""What is in the way on a host, found before anything is changed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra_llm.core.catalogue import Artifact, model_files, served_models
from infra_llm.core.engines import ENGINE_ROLES, ENGINES, is_installed
from infra_llm.core.errors import ExitCode

SPARE_MIB = 512
"""Room that must stay on a disk after everything is on it."""
UNPACKED_FACTOR = 5
"""An engine's archive and its unpacked files together, as a multiple of the archive; the wheel
xllamacpp unpacks to 3.1 times its size and stays beside it for a moment."""
SERVICE_HOME = "/nonexistent"
"""As the role llm_service makes its user."""
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
    found += _foreign_user(audit)
    for port, name in ((audit["port"], "port"), (audit.get("engine_port"), "engine_port")):
        if port and port["taken_by"]:
            found.append(
                Problem(
                    f"port {port['number']} is taken by {port['taken_by']}",
                    f"set infra_llm_{name} to a free one, or stop that program",
                    ExitCode.BAD_INPUT,
                )
            )
    return found + _disk(desired, audit, due)


def _foreign_user(audit: Mapping[str, Any]) -> list[Problem]:
    """A user of the service's name that we did not make: its home and shell would be changed."""
    user = audit.get("user")
    if not user or not audit["fresh"] or user["home"] == SERVICE_HOME:
        return []
    return [
        Problem(
            f"the user {user['name']} exists with uid {user['uid']} and home {user['home']}, "
            "and infra-llm did not make it",
            "rename it, or set infra_llm_instance so that the service has another user",
            ExitCode.BAD_INPUT,
        )
    ]


def _disk(
    desired: Mapping[str, Any], audit: Mapping[str, Any], due: Sequence[str]
) -> list[Problem]:
    needs = {"var": 0.0, "opt": 0.0}
    model = desired["model"]
    if "model_store" in due:
        needs["var"] += sum(
            _download_mib(file)
            for one in (*served_models(desired), *(desired.get("companions") or {}).values())
            for file in model_files(one)
            if not _is_there(file, one, audit)
        )
        quant = model.get("quantize")
        if quant and quant["filename"] not in audit["models_mib"]:
            needs["var"] += quant["size"] / _MIB
    engine = ENGINES[desired["engine"]["name"]]
    if engine.model_role in due:
        copies = engine.model_copies * sum(file["size"] for file in model_files(model)) / _MIB
        needs["var"] += max(0.0, copies - audit.get("engine_data_mib", 0.0))
    artifacts = [method["artifact"] for method in desired["engine"]["methods"]]
    there = any(is_installed(m, audit["engine"]) for m in desired["engine"]["methods"])
    if {*ENGINE_ROLES} & {*due} and not there:
        needs["opt"] += max(_engine_mib(artifact) for artifact in artifacts)
    return [
        Problem(
            f"{need + SPARE_MIB:.0f} MiB are needed in {desired['layout'][place]}, "
            f"{audit['free_mib'][place]} MiB are free",
            "free some space, or wish a smaller model",
        )
        for place, need in needs.items()
        if need and need + SPARE_MIB > audit["free_mib"][place]
    ]


def _engine_mib(artifact: Artifact) -> float:
    """What is fetched and what is made of it, at the moment when both are there."""
    installed = artifact.get("installed") or (UNPACKED_FACTOR - 1) * artifact["size"]
    return float((artifact["size"] + installed) / _MIB)


def _is_there(file: Artifact, model: Artifact, audit: Mapping[str, Any]) -> bool:
    """By size alone: the role checks the content."""
    name = file["filename"] if file is model else f"{model['filename']}/{file['filename']}"
    return abs(float(audit["models_mib"].get(name, 0.0)) - float(file["size"]) / _MIB) < 1 / _MIB


def _download_mib(artifact: Mapping[str, Any]) -> float:
    """The file, and the largest container that it may have to be taken out of."""
    containers = [place.get("size", 0) for place in artifact["places"] if place.get("member")]
    return float((artifact["size"] + max(containers, default=0)) / _MIB)
