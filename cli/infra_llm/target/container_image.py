"""An image in a container engine, whole and verified, and the containers that run it.

Standard library, Python 3.8. An archive is checked by its sha256 before the engine sees it; an
image of a registry is asked for by its digest, which the engine checks. Either way the id that the
engine gives it stands in the release's folder, and a service runs that id: names can be moved.
docker's images are the host's, podman's belong to the service's user (core/podman.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import Any, Dict, List, Optional, Tuple

from ..core.errors import HostFailedError
from .archives import MARKER, read_marker
from .artifacts import fetch
from .podman_user import has_images, podman_of, service_pid
from .service import Run, run_command
from .transport import Settings
from .unit_start import Call, call

IMAGE = "image.json"
"""In the release's folder: {"runtime", "id"}."""
_LOAD_SECONDS, _PULL_SECONDS, _ASK_SECONDS = 3600.0, 7200.0, 60.0
_LOADED = re.compile(r"^Loaded image(?: ID|\(s\))?: *(\S+)$", re.MULTILINE)
_NAMESPACES = re.compile(r"user namespace|max_user_namespaces|cannot clone|unshare", re.IGNORECASE)
_NEEDS_NAMESPACES = (
    "podman runs as the service's user, which needs user namespaces: set the host's sysctl "
    "user.max_user_namespaces (and kernel.unprivileged_userns_clone where there is one), or "
    "infra_llm_container_engine: docker"
)
_NEEDS_IMAGE = (
    "put its archive (docker save) into one of infra_llm_artifact_folders, or give a place of kind "
    "registry that this host reaches"
)
_LINES = 6


def run_image(params: Dict[str, Any], check_mode: bool = False, run: Call = call) -> Dict[str, Any]:
    """Have the image of `image` (an artifact) in the engine `runtime`, noted in the folder `dest`.

    `params`: dest, runtime (docker or podman), image, artifact (what the marker says), settings;
    for podman user and containers (its folder of stores). Returns changed, path, id, place. Raises
    HostFailedError with the engine's words.
    """
    if params["runtime"] == "docker":
        return _have(params, check_mode, run)
    if check_mode and not has_images(params["containers"]):
        return _report(params, "", changed=True)
    with podman_of(params["user"], params["containers"], run) as client:
        return _have(params, check_mode, client)


def _have(params: Dict[str, Any], check_mode: bool, run: Call) -> Dict[str, Any]:
    destination, runtime = os.path.abspath(params["dest"]), params["runtime"]
    known = read_image(destination)
    same = read_marker(destination).get("sha256") == params["artifact"]["sha256"]
    there = bool(same and known and _id_of(runtime, known["id"], run))
    if there or check_mode:
        return _report(params, known.get("id", ""), changed=not there)
    found, place = _bring(params["image"], destination, runtime, params.get("settings") or {}, run)
    # So that a prune of images without a name leaves it.
    name = "localhost/infra-llm:" + os.path.basename(destination)
    _must(run, [runtime, "tag", found, name], _ASK_SECONDS)
    os.makedirs(destination, exist_ok=True)
    _write(os.path.join(destination, IMAGE), {"runtime": runtime, "id": found})
    keys = ("name", "version", "filename", "sha256")
    artifact = params["artifact"]
    _write(os.path.join(destination, MARKER), {key: artifact.get(key) for key in keys})
    return _report(params, found, changed=True, place=place)


def _report(
    params: Dict[str, Any], identity: str, *, changed: bool, place: str = ""
) -> Dict[str, Any]:
    path = os.path.abspath(params["dest"])
    return {"changed": changed, "path": path, "id": identity, "place": place}


def remove_images(releases: str, run: Call = call) -> List[str]:
    """Take the images of all releases below the folder out of docker; the ids of those there were.

    A docker that is gone took its images along. One that is in use by a container that is not ours
    stays, as docker refuses. podman's go with the instance's stores.
    """
    removed = []
    for name in sorted(os.listdir(releases)) if os.path.isdir(releases) else []:
        known = read_image(os.path.join(releases, name))
        if not known or known["runtime"] != "docker" or not shutil.which("docker"):
            continue
        if _id_of("docker", known["id"], run):
            tag = "localhost/infra-llm:" + name
            run(["docker", "image", "rm", tag], _ASK_SECONDS)
            run(["docker", "image", "rm", known["id"]], _ASK_SECONDS)
            removed.append(known["id"])
    return removed


def read_image(folder: str) -> Dict[str, str]:
    """{"runtime", "id"} of the image in a release's folder, {} where there is none."""
    try:
        with open(os.path.join(folder, IMAGE), encoding="utf-8") as stream:
            data = json.load(stream)
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) and {"runtime", "id"} <= set(data) else {}


def container_pid(runtime: str, name: str, run: Run = run_command) -> Optional[int]:
    """The host's number of a running container's first process; None without one."""
    if runtime == "podman":
        text = service_pid(name).strip()
    else:
        status, out, _ = run([runtime, "inspect", "--format", "{{.State.Pid}}", name])
        text = out.strip() if status == 0 else ""
    return int(text) if text.isdigit() and int(text) > 0 else None


def _bring(
    image: Dict[str, Any], destination: str, runtime: str, settings: Dict[str, Any], run: Call
) -> Tuple[str, str]:
    """(id, where it came from): the site's folders first, then the places in order."""
    failures = []
    files = [place for place in image["places"] if place["kind"] != "registry"]
    registries = [place for place in image["places"] if place["kind"] == "registry"]
    if files or not registries or Settings.from_dict(settings).folders:
        archive = destination + ".archive"
        try:
            found = fetch({**image, "places": files}, archive, Settings.from_dict(settings))
            return _load(runtime, archive, run), found.place
        except HostFailedError as error:
            failures.append(error.what)
        finally:
            if os.path.exists(archive):
                os.unlink(archive)
    for place in registries:
        reference = "{}@{}".format(place["image"], place["digest"])
        status, said = run([runtime, "pull", "--quiet", reference], _PULL_SECONDS)
        identity = _id_of(runtime, reference, run) if status == 0 else ""
        if identity:
            return identity, "registry {}".format(reference)
        failures.append("{}: {}".format(reference, _end(said)))
    said = "\n  ".join(failures)
    raise HostFailedError(
        "the image can't be had:\n  {}".format(said),
        where=runtime,
        hint=_NEEDS_NAMESPACES if _NAMESPACES.search(said) else _NEEDS_IMAGE,
    )


def _load(runtime: str, archive: str, run: Call) -> str:
    os.chmod(archive, 0o644)  # podman is not root
    said = _must(run, [runtime, "load", "--input", archive], _LOAD_SECONDS)
    names = _LOADED.findall(said)
    if len(names) != 1:
        raise HostFailedError(
            "the archive holds {} images, not one: {}".format(len(names), _end(said)),
            where=archive,
            hint="write it anew with docker save IMAGE",
        )
    found = _id_of(runtime, names[0], run)
    if not found:
        raise HostFailedError("{} does not know what it loaded".format(runtime), where=names[0])
    return found


def _id_of(runtime: str, reference: str, run: Call) -> str:
    """The image's id as sha256:..., "" for one that is not there."""
    words = [runtime, "image", "inspect", "--format", "{{.Id}}", reference]
    status, said = run(words, _ASK_SECONDS)
    match = re.search(r"(?:sha256:)?([0-9a-f]{64})\s*$", said)
    return "sha256:" + match.group(1) if status == 0 and match else ""


def _must(run: Call, words: List[str], seconds: float) -> str:
    status, said = run(words, seconds)
    if status != 0:
        raise HostFailedError("{} {}: {}".format(words[0], words[1], _end(said)), where=words[-1])
    return said


def _end(said: str) -> str:
    return " / ".join(said.strip().splitlines()[-_LINES:]) or "no word"


def _write(path: str, data: Dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(data, stream, sort_keys=True)
