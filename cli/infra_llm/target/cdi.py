"""The CDI specification of NVIDIA's GPUs: whether it is that of the driver and GPUs there are now.

Standard library, Python 3.8. A specification names the driver's libraries with their version
(libcuda.so.595.58.03) and a device for each GPU or MIG instance, so one that was written before a
driver change sends containers to files that are gone (containers/podman#26233). From 1.18 on the
toolkit's nvidia-cdi-refresh.service writes /var/run/cdi/nvidia.yaml at boot and when kernel
modules change; before that we write /etc/cdi/nvidia.yaml. The format is
cncf-tags/container-device-interface SPEC.md; of two specifications with one device that of
/var/run/cdi counts.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional

from ..core.errors import HostFailedError
from .probe.driver import parse_module_version
from .service import Run, run_command

KIND = "nvidia.com/gpu"
SERVICE = "nvidia-cdi-refresh.service"
GENERATED = "/etc/cdi/nvidia.yaml"
FOLDERS = ("var/run/cdi", "etc/cdi")
"""The one that counts comes first."""
_LIBRARY = re.compile(r"\.so\.(\d{3,}\.\d+(?:\.\d+)?)\b")
_NAME = re.compile(r"(?:^|[\s{,])[\"']?name[\"']?\s*:\s*[\"']?([\w:.-]+)", re.MULTILINE)
_KIND = re.compile(r"[\"']?kind[\"']?\s*:\s*[\"']?([\w./-]+)")
_SMI_GPU = re.compile(r"GPU (\d+):")
_SMI_MIG = re.compile(r"\s+MIG .*Device\s+(\d+):")


@dataclass
class Specification:
    """One file, as far as it can be read without a YAML parser."""

    path: str
    driver: List[str] = field(default_factory=list)
    """Driver versions in the names of libraries; one when all is well."""
    devices: List[str] = field(default_factory=list)
    """Names of devices: "0", "1", "0:1" (MIG), "all", UUIDs."""


@dataclass
class State:
    driver: str
    """Version of the loaded kernel module, "" where none is loaded."""
    gpus: List[str]
    """Devices that there are: "0", or "0:1" for each MIG instance of GPU 0."""
    specifications: List[Specification]
    """Of NVIDIA's GPUs; the first is the one that counts."""

    def problems(self) -> List[str]:
        """Why the specification does not serve, in words; [] when it does or needs not."""
        if not self.driver:
            return []
        if not self.specifications:
            return ["there is no CDI specification of {}".format(KIND)]
        first = self.specifications[0]
        found = []
        if first.driver and first.driver != [self.driver]:
            found.append("{} names libraries of driver {}, loaded is {}".format(
                first.path, " and ".join(first.driver), self.driver))  # fmt: skip
        indices = {name for name in first.devices if re.match(r"\d+(:\d+)?$", name)}
        if self.gpus and indices != set(self.gpus):
            listed = ", ".join(sorted(indices)) or "none"
            found.append("{} has the devices {}, the host has {}".format(
                first.path, listed, ", ".join(self.gpus)))  # fmt: skip
        return found

    def to_dict(self) -> Dict[str, Any]:
        return {**asdict(self), "problems": self.problems()}


def read(run: Run = run_command, root: str = "/") -> State:
    """The host's driver, GPUs and specifications."""
    driver = ""
    with contextlib.suppress(OSError), open(
        os.path.join(root, "proc/driver/nvidia/version"), encoding="utf-8"
    ) as stream:
        driver = parse_module_version(stream.read())[0] or ""
    status, out, _ = run(["nvidia-smi", "-L"]) if driver else (1, "", "")
    found = []
    for folder in FOLDERS:
        for path in sorted(glob.glob(os.path.join(root, folder, "*"))):
            specification = _read_one(path) if path.endswith((".yaml", ".json")) else None
            if specification:
                found.append(specification)
    return State(driver, parse_gpus(out) if status == 0 else [], found)


def parse_specification(text: str, path: str) -> Optional[Specification]:
    """A specification in YAML or JSON; None for one of other devices."""
    kind = _KIND.search(text)
    if not kind or kind.group(1) != KIND:
        return None
    return Specification(path, sorted(set(_LIBRARY.findall(text))), _NAME.findall(text))


def parse_gpus(listing: str) -> List[str]:
    """`nvidia-smi -L` -> CDI names: a GPU with MIG instances is there through these alone."""
    found: Dict[str, List[str]] = {}
    gpu = ""
    for line in listing.splitlines():
        match = _SMI_GPU.match(line)
        if match:
            gpu = match.group(1)
            found[gpu] = []
        slice_ = _SMI_MIG.match(line)
        if slice_ and gpu:
            found[gpu].append("{}:{}".format(gpu, slice_.group(1)))
    return [name for gpu in found for name in found[gpu] or [gpu]]


def ensure(
    how: str, check_mode: bool = False, run: Run = run_command, root: str = "/"
) -> Dict[str, Any]:
    """Write the specification anew when it is not that of the driver: {"changed", "before",
    "after"} (State.to_dict).

    `how` is service (nvidia-cdi-refresh) or generate. Where no driver is loaded there is nothing
    to write yet: the next run after the reboot does, or the service at boot. Raises
    HostFailedError when what was written does not serve either.
    """
    before = read(run, root)
    if not before.problems():
        return {"changed": False, "before": before.to_dict(), "after": before.to_dict()}
    if check_mode:
        return {"changed": True, "before": before.to_dict(), "after": before.to_dict()}
    said = _refresh(run) if how == "service" else _generate(run, root)
    after = read(run, root)
    problems = after.problems()
    if problems:
        raise HostFailedError(
            "the new specification does not serve: {}".format("; ".join(problems)),
            where="CDI",
            hint=said[-600:].strip() or "nvidia-ctk cdi generate by hand shows more",
        )
    return {"changed": True, "before": before.to_dict(), "after": after.to_dict()}


def _refresh(run: Run) -> str:
    # A start that failed often is refused until it is forgiven.
    run(["systemctl", "reset-failed", SERVICE])
    run(["systemctl", "restart", SERVICE])
    _, out, _ = run(["journalctl", "--unit", SERVICE, "--lines=8", "--output=cat", "--no-pager"])
    return out


def _generate(run: Run, root: str) -> str:
    target = os.path.join(root, GENERATED.lstrip("/"))
    folder = ""
    try:
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        # nvidia-ctk insists on the ending .yaml, which engines read at once; they skip subfolders.
        folder = tempfile.mkdtemp(dir=os.path.dirname(target), prefix=".infra-llm-")
        temporary = os.path.join(folder, "nvidia.yaml")
        status, out, errors = run(["nvidia-ctk", "cdi", "generate", "--output=" + temporary])
        if status:
            raise HostFailedError(
                "nvidia-ctk can't write the specification: {}".format((errors or out)[-500:]),
                where=GENERATED,
            )
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise HostFailedError("can't be written: {}".format(error), where=GENERATED) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return out + errors


def _read_one(path: str) -> Optional[Specification]:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return parse_specification(stream.read(), path)
    return None
