"""Find one file in a Python package index (PEP 503 HTML, PEP 691 JSON, or a folder).

Standard library, Python 3.8.
"""

from __future__ import annotations

import html.parser
import json
import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple

from .transport import (
    PlaceRefusedError,
    Settings,
    TransferBrokenError,
    local_path,
    open_url,
    without_secrets,
)

_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, "
    "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)
_LARGEST_LISTING = 64 * 1024 * 1024


@dataclass
class IndexFile:
    url: str
    sha256: Optional[str]
    """Where the index tells it."""


def find_file(index_url: str, distribution: str, filename: str, settings: Settings) -> IndexFile:
    """Where the index at `index_url` keeps `filename` of `distribution`.

    `index_url` is http(s)://, file:// or a folder; a folder may be a simple index (a folder a
    distribution, with or without index.html) or just hold the files.
    Raises PlaceRefusedError or TransferBrokenError.
    """
    name = re.sub(r"[-_.]+", "-", distribution).lower()  # PEP 503, "Normalized Names"
    folder = local_path(index_url)
    if folder is not None:
        return _in_folder(folder, name, filename)
    page = index_url.rstrip("/") + "/" + urllib.parse.quote(name) + "/"
    try:
        with open_url(page, settings, {"Accept": _ACCEPT}) as response:
            content = _read_all(response.read_some)
            kind = response.headers.get("content-type", "")
            base = _with_credentials_of(index_url, response.url)
    except PlaceRefusedError as error:
        raise PlaceRefusedError("{}: {}".format(without_secrets(page), error)) from error
    files = _links(content, kind, base)
    if filename not in files:
        raise PlaceRefusedError("{} lists no {}".format(without_secrets(page), filename))
    found = files[filename]
    return IndexFile(_with_credentials_of(index_url, found.url), found.sha256)


def _in_folder(folder: str, name: str, filename: str) -> IndexFile:
    for path in (os.path.join(folder, name, filename), os.path.join(folder, filename)):
        if os.path.isfile(path):
            return IndexFile(path, None)
    page = os.path.join(folder, name, "index.html")
    try:
        with open(page, "rb") as stream:
            content = stream.read(_LARGEST_LISTING)
    except OSError as error:
        raise PlaceRefusedError("{} holds no {}".format(folder, filename)) from error
    files = _links(content, "text/html", "file://" + urllib.parse.quote(page))
    if filename not in files:
        raise PlaceRefusedError("{} lists no {}".format(page, filename))
    return files[filename]


def _read_all(read_some: Callable[[int], bytes]) -> bytes:
    chunks: List[bytes] = []
    total = 0
    while True:
        chunk = read_some(65536)
        if not chunk:
            return b"".join(chunks)
        total += len(chunk)
        if total > _LARGEST_LISTING:
            raise PlaceRefusedError("the listing is larger than {} bytes".format(_LARGEST_LISTING))
        chunks.append(chunk)


def _with_credentials_of(index_url: str, url: str) -> str:
    """Give `url` the index's login when it is on the same host and port."""
    index, parts = urllib.parse.urlsplit(index_url), urllib.parse.urlsplit(url)
    login, _, host = index.netloc.rpartition("@")
    if login and parts.netloc == host and parts.scheme == index.scheme:
        return urllib.parse.urlunsplit(parts._replace(netloc=login + "@" + host))
    return url


def _links(content: bytes, content_type: str, base: str) -> Dict[str, IndexFile]:
    """File name -> IndexFile of one project page.

    Raises TransferBrokenError when the page is cut off, PlaceRefusedError when it is no listing.
    """
    if "json" in content_type:
        return _json_links(content, base)
    parser = _Anchors(base)
    parser.feed(content.decode("utf-8", "replace"))
    files = {}
    for href in parser.hrefs:
        url, fragment = urllib.parse.urldefrag(href)
        sha256 = dict(_pairs(fragment)).get("sha256")
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        files[name] = IndexFile(url, sha256)
    return files


def _pairs(fragment: str) -> List[Tuple[str, str]]:
    return [(name, value) for name, _, value in (p.partition("=") for p in fragment.split("&"))]


def _json_links(content: bytes, base: str) -> Dict[str, IndexFile]:
    try:
        entries = json.loads(content.decode("utf-8"))["files"]
        return {
            entry["filename"]: IndexFile(
                urllib.parse.urljoin(base, entry["url"]), (entry.get("hashes") or {}).get("sha256")
            )
            for entry in entries
        }
    except ValueError as error:
        raise TransferBrokenError(
            "the index's JSON answer can't be read: {}".format(error)
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise PlaceRefusedError(
            "the index's JSON answer is not PEP 691: {!r}".format(error)
        ) from error


class _Anchors(html.parser.HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.hrefs: List[str] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        href = dict(attrs).get("href")
        if not href:
            return
        if tag == "base":
            self.base = urllib.parse.urljoin(self.base, href)
        elif tag == "a":
            self.hrefs.append(urllib.parse.urljoin(self.base, href))
