"""The files for apt, against what its manual pages say and what hosts have."""

from __future__ import annotations

import re
from typing import Any

import pytest

from infra_llm.target.packages import apt_files

VENDOR: dict[str, Any] = {
    "name": "nvidia-cuda",
    "url": "https://repository.example/debian12/x86_64",
    "key_url": "https://repository.example/key",
    "key_fingerprint": "A" * 40,
}
ONE_LINE = """\
deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://mirror.example/debian bookworm main
# deb http://mirror.example/debian bookworm contrib
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main contrib # comment
deb http://other.example/apt stable main-of-others
"""
DEB822 = """\
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEYCQjIxYJKwYBBAHaRw8BAQdAD
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: trixie
Components: main
"""


def stanzas(text: str) -> list[dict[str, str]]:
    parts = [p for p in text.split("\n\n") if "Types" in p]
    return [dict(re.findall(r"^([\w-]+): (.*)$", part, re.M)) for part in parts]


def test_a_flat_repository_has_a_folder_for_a_suite_and_one_key() -> None:
    found = stanzas(apt_files.render_source(VENDOR, "/etc/apt/keyrings/k.gpg"))
    assert found == [
        {
            "Types": "deb",
            "URIs": VENDOR["url"],
            "Suites": "/",
            "Signed-By": "/etc/apt/keyrings/k.gpg",
        }
    ]


def test_a_repository_with_components_keeps_its_suite() -> None:
    given = {**VENDOR, "suite": "stable", "components": ["main", "extra"]}
    found = stanzas(apt_files.render_source(given, "/k.gpg"))[0]
    assert (found["Suites"], found["Components"]) == ("stable", "main extra")


def test_names_of_files_can_not_leave_their_folder() -> None:
    assert apt_files.source_name({"name": "../x y"}) == "infra-llm----x-y.sources"


def test_components_come_from_the_mirror_and_key_that_serve_main() -> None:
    found = stanzas(apt_files.render_distribution(ONE_LINE, ["contrib", "non-free"]))
    assert [(f["URIs"], f["Suites"], f["Components"]) for f in found] == [
        ("http://mirror.example/debian", "bookworm", "contrib non-free"),
        ("http://mirror.example/debian-security", "bookworm-security", "non-free"),
    ]
    assert found[0]["Signed-By"] == "/usr/share/keyrings/d.gpg"
    assert found[0]["Architectures"] == "amd64"


def test_a_key_inside_of_a_deb822_source_is_carried_over() -> None:
    text = apt_files.render_distribution(DEB822, ["contrib"])
    assert "Suites: trixie trixie-updates\n" in text
    assert "\n mDMEYCQjIxYJKwYBBAHaRw8BAQdAD\n" in text
    assert "off.example" not in text
    assert "deb-src" not in text


def test_a_host_that_has_the_components_gets_no_file() -> None:
    assert apt_files.render_distribution("deb http://m.example/d sid main contrib\n",
                                         ["contrib"]) == ""  # fmt: skip


def test_a_pin_goes_above_1000_so_that_apt_also_goes_back() -> None:
    text = apt_files.render_preferences(
        [(["nvidia-*", "libcuda1"], "580.*"), ([], "1.*"), (["x"], "")]
    )
    assert "Package: nvidia-* libcuda1\nPin: version 580.*\nPin-Priority: 1001\n" in text
    assert text.count("Package:") == 1


@pytest.mark.parametrize(
    ("name", "left_alone"),
    [("nvidia-smi", True), ("libcuda1", True), ("libcuda11", False), ("xnvidia-smi", False)],
)
def test_unattended_upgrades_match_the_names_and_no_others(name: str, left_alone: bool) -> None:
    text = apt_files.render_exclusion(["nvidia-*", "libcuda1"])
    patterns = re.findall(r'^    "(.*)";$', text, re.M)
    # As unattended-upgrades does it: re.match on the name.
    assert any(re.match(pattern, name) for pattern in patterns) is left_alone
