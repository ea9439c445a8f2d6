"""Repository files and version locks of dnf, against expectations written by hand.

Sources: nvidia-container-toolkit.repo and cuda-rhel9.repo of NVIDIA, epel.repo (what each has
checked), rocky.repo and redhat.repo (what CRB is called), dnf-versionlock(8).
"""

from __future__ import annotations

import pytest

from infra_llm.target.packages import dnf_files

TOOLKIT = {
    "name": "nvidia-container-toolkit",
    "url": "https://nvidia.github.io/libnvidia-container/stable/rpm/x86_64/",
    "signed": ["index"],
}
ROCKY = """\
[baseos]
name=Rocky Linux $releasever - BaseOS
mirrorlist=https://mirrors.rockylinux.org/mirrorlist?arch=$basearch&repo=BaseOS-$releasever
gpgcheck=1
enabled=1

[crb]
name=Rocky Linux $releasever - CRB
mirrorlist=https://mirrors.rockylinux.org/mirrorlist?arch=$basearch&repo=CRB-$releasever
gpgcheck=1
enabled=0
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9

[crb-source]
name=Rocky Linux $releasever - CRB - Source
enabled=0
"""


def test_a_vendor_that_signs_its_index_only() -> None:
    key = dnf_files.key_path(TOOLKIT)
    assert key == "/etc/pki/rpm-gpg/RPM-GPG-KEY-infra-llm-nvidia-container-toolkit"
    assert dnf_files.render_repository(TOOLKIT, key).splitlines()[1:] == [
        "[infra-llm-nvidia-container-toolkit]",
        "name=infra-llm-nvidia-container-toolkit",
        "baseurl=https://nvidia.github.io/libnvidia-container/stable/rpm/x86_64/",
        "enabled=1",
        "gpgcheck=0",
        "repo_gpgcheck=1",
        f"gpgkey=file://{key}",
    ]


def test_what_is_not_said_to_be_unsigned_is_checked_whole_and_may_exclude() -> None:
    wish = {
        "name": "nvidia-cuda",
        "url": "https://x/",
        "exclude": ["nvidia-open", "nvidia-driver*"],
    }
    lines = dnf_files.render_repository(wish, "/k").splitlines()
    assert {"gpgcheck=1", "repo_gpgcheck=1", "excludepkgs=nvidia-open,nvidia-driver*"} <= set(lines)


def test_crb_is_switched_on_under_a_name_of_ours() -> None:
    text = dnf_files.render_distribution(ROCKY, ["crb"])
    assert dnf_files.parse_repositories(text) == {
        "infra-llm-crb": {
            "name": "Rocky Linux $releasever - CRB",
            "mirrorlist": "https://mirrors.rockylinux.org/mirrorlist?arch=$basearch&repo=CRB-$releasever",
            "gpgcheck": "1",
            "enabled": "1",
            "gpgkey": "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9",
        }
    }


@pytest.mark.parametrize(
    "name", ["codeready-builder-for-rhel-9-x86_64-rpms", "ol9_codeready_builder", "crb"]
)
def test_crb_by_its_other_names(name: str) -> None:
    text = dnf_files.render_distribution(f"[{name}]\nenabled=0\nsslclientcert=/c\n", ["crb"])
    found = dnf_files.parse_repositories(text)
    assert found == {f"infra-llm-{name}": {"enabled": "1", "sslclientcert": "/c"}}


def test_crb_that_is_on_is_left() -> None:
    assert dnf_files.render_distribution(ROCKY.replace("enabled=0", "enabled=1"), ["crb"]) == ""


LIST = """\

# Added lock on Sat Nov 28 12:00:00 2026
kernel-0:5.14.0-570.el9.*
nvidia-driver-cuda-3:580.95.05-1.el9.*
!bash-0:5.1.8-9.el9.*
3:nvidia-driver-580.95.05-1.el9.*
*nvidia*580*
"""


def test_locks_of_a_package_are_taken_out_and_nobody_elses() -> None:
    assert dnf_files.without_locks(LIST, ["nvidia-*"]).splitlines() == [
        "",
        "# Added lock on Sat Nov 28 12:00:00 2026",
        "kernel-0:5.14.0-570.el9.*",
        "!bash-0:5.1.8-9.el9.*",
        "*nvidia*580*",
    ]
    assert dnf_files.without_locks(LIST, []) == LIST


@pytest.mark.parametrize(
    ("version", "pattern", "lines"),
    [
        ("3:580.95.05-1.el9", "*", ["p-3:580.95.05-1.el9.*"]),
        ("1.20.1-1", "*", ["p-0:1.20.1-1.*"]),
        ("1.20.1-1", "1.20.*", ["p-0:1.20.*-*.*"]),
        ("1.18.2-1", "1.18.2-*", ["p-0:1.18.2-*.*"]),
        ("5.14.0-1.el9,5.14.0-2.el9", "*", ["p-0:5.14.0-1.el9.*", "p-0:5.14.0-2.el9.*"]),
    ],
)
def test_lock_lines(version: str, pattern: str, lines: list[str]) -> None:
    assert dnf_files.lock("p", version, pattern) == lines
    assert [dnf_files.locked_name(line) for line in lines] == ["p"] * len(lines)


@pytest.mark.parametrize(
    ("version", "pattern", "yes"),
    [
        ("3:580.95.05-1.el9", "580.*", True),
        ("580.95.05-1.el9", "580.95.05*", True),
        ("1.18.2-1", "1.18.2-*", True),
        ("1.18.20-1", "1.18.2-*", False),
        ("3:595.58.03-1.el9", "580.*", False),
        ("3:590.580.1-1.el9", "580.*", False),
    ],
)
def test_versions_and_patterns(version: str, pattern: str, yes: bool) -> None:
    assert dnf_files.matches(version, pattern) is yes
