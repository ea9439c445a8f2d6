"""The stand-in for a vendor's apt repository, read with the system's own tools."""

from __future__ import annotations

import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.standins import apt_repository
from tests.standins.apt_repository import Key, Package


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("k")


@pytest.fixture(scope="module")
def key(keys: Path) -> Key:
    return apt_repository.create_key(keys, "vendor")


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def sample(version: str = "1.2-1") -> Package:
    return Package(
        "sample",
        version,
        depends="sample-base (= 1.2-1)",
        files={
            "usr/bin/sample": ("#!/bin/sh\n", 0o755),
            "usr/bin/link": ("sample", stat.S_IFLNK),
            "etc/sample.conf": ("on\n", 0o644),
        },
        scripts={"postinst": "#!/bin/sh\nexit 0\n"},
    )


def verified(folder: Path, key: Key) -> str:
    """Fingerprint of the key that signed the folder, as a fresh key ring sees it."""
    ring = Path(tempfile.mkdtemp(dir=folder.parent))
    gpg = ["gpg", "--batch", "--quiet", "--no-autostart", "--homedir", str(ring)]
    subprocess.run([*gpg, "--import", folder / "gpgkey"], check=True, capture_output=True)
    for names in (["Release.gpg", "Release"], ["InRelease"]):
        paths = [str(folder / name) for name in names]
        status = output(*gpg, "--status-fd", "1", "--verify", *paths)
        assert f"VALIDSIG {key.fingerprint}" in status
    return key.fingerprint


def test_dpkg_reads_the_package(tmp_path: Path) -> None:
    path = tmp_path / sample().filename
    path.write_bytes(apt_repository.archive(sample()))
    assert output("dpkg-deb", "--field", path, "Package", "Version", "Depends") == (
        "Package: sample\nVersion: 1.2-1\nDepends: sample-base (= 1.2-1)\n"
    )
    assert output("dpkg-deb", "--info", path, "conffiles") == "/etc/sample.conf\n"
    output("dpkg-deb", "--extract", path, tmp_path / "root")
    assert (tmp_path / "root/usr/bin/sample").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "root/usr/bin/link").readlink() == Path("sample")


def test_equal_packages_are_equal_files() -> None:
    assert apt_repository.archive(sample()) == apt_repository.archive(sample())


def test_the_index_is_signed_and_a_new_key_replaces_the_old(
    tmp_path: Path, keys: Path, key: Key
) -> None:
    folder = tmp_path / "served"
    apt_repository.build([sample()], folder, key)
    assert verified(folder, key) == key.fingerprint
    other = apt_repository.create_key(keys, "other")
    assert other.fingerprint != key.fingerprint
    apt_repository.publish(folder, other)
    assert verified(folder, other) == other.fingerprint
    assert apt_repository.create_key(keys, "vendor") == key


def test_a_package_vanishes_in_one_version(tmp_path: Path, key: Key) -> None:
    apt_repository.build([sample("1:1.2-1"), sample("1:1.3-1")], tmp_path, key)
    assert (tmp_path / "Packages").read_text().count("Package: sample\n") == 2
    apt_repository.remove(tmp_path, key, "sample", "1:1.2-1")
    text = (tmp_path / "Packages").read_text()
    assert "Version: 1:1.3-1" in text
    assert "Version: 1:1.2-1" not in text
