"""What dnf would be given on EL 9 and EL 10, against expectations written by hand.

Sources: NVIDIA's driver installation guide for RHEL 9 (module streams) and RHEL 10 (version lock).
None of it ever ran against a real dnf.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from infra_llm.target.packages import dnf
from infra_llm.target.packages.command import Output
from infra_llm.target.packages.transaction import Wish

CUDA: dict[str, Any] = {
    "name": "nvidia-cuda",
    "kind": "dnf",
    "url": "https://repository.example/rhel9/x86_64/",
    "key_url": "https://repository.example/rhel9/key.pub",
    "key_fingerprint": "A" * 40,
}
DRIVER = Wish(
    name="nvidia_driver",
    repositories=[{"name": "distribution", "kind": "dnf", "components": ["crb"]}, CUDA],
    install=["nvidia-open", "kernel-devel-matched"],
    purge=["cuda-drivers", "kmod-nvidia-latest-dkms"],
    pins=[(["nvidia-*", "cuda-drivers"], "580.*")],
    hold=["nvidia-*", "kmod-nvidia-*"],
)
REPOSITORY = """\
[infra-llm-nvidia-cuda]
name=infra-llm-nvidia-cuda
baseurl=https://repository.example/rhel9/x86_64/
enabled=1
gpgcheck=1
repo_gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-infra-llm-nvidia-cuda
"""


def test_el9_takes_the_branch_from_a_module_stream() -> None:
    found = dnf.render(DRIVER, "nvidia-driver:open-dkms", ["bash", "cuda-drivers"])
    assert found.commands == [
        ["dnf", "config-manager", "--set-enabled", "crb"],
        ["dnf", "-y", "module", "reset", "nvidia-driver"],
        ["dnf", "-y", "module", "enable", "nvidia-driver:open-dkms"],
        [
            "dnf",
            "-y",
            "--setopt=install_weak_deps=False",
            "shell",
            "/run/infra-llm-nvidia_driver.dnf",
        ],
    ]
    assert found.files == {
        "/etc/yum.repos.d/infra-llm-nvidia-cuda.repo": REPOSITORY,
        "/run/infra-llm-nvidia_driver.dnf": (
            "remove cuda-drivers\ninstall nvidia-open-580.* kernel-devel-matched\nrun\n"
        ),
    }


def test_el10_has_no_streams_and_locks_versions() -> None:
    found = dnf.render(DRIVER, "", ["bash"])
    assert found.commands == [
        ["dnf", "config-manager", "--set-enabled", "crb"],
        ["dnf", "versionlock", "delete", "nvidia-*", "kmod-nvidia-*"],
        [
            "dnf",
            "-y",
            "--setopt=install_weak_deps=False",
            "shell",
            "/run/infra-llm-nvidia_driver.dnf",
        ],
        ["dnf", "versionlock", "add", "nvidia-*", "kmod-nvidia-*"],
    ]
    assert found.files["/run/infra-llm-nvidia_driver.dnf"] == (
        "install nvidia-open-580.* kernel-devel-matched\nrun\n"
    )


def test_a_repository_that_serves_cuda_only_excludes_the_drivers() -> None:
    wish = Wish("cuda", repositories=[{**CUDA, "exclude": ["nvidia-open", "nvidia-driver*"]}],
                install=["cuda-toolkit-13-0"])  # fmt: skip
    found = dnf.render(wish, "", [])
    text = found.files["/etc/yum.repos.d/infra-llm-nvidia-cuda.repo"]
    assert text == REPOSITORY + "excludepkgs=nvidia-open,nvidia-driver*\n"
    assert found.keys == {
        "/etc/pki/rpm-gpg/RPM-GPG-KEY-infra-llm-nvidia-cuda": {
            "url": CUDA["key_url"],
            "fingerprint": "A" * 40,
        }
    }


def rpm(*names: str) -> Any:
    def run(command: Sequence[str]) -> Output:
        assert command[0] == "rpm"
        return Output(0, "".join(name + "\n" for name in names))

    return run


def test_check_mode_runs_nothing_and_says_what_comes() -> None:
    done = dnf.apply(DRIVER, "nvidia-driver:open-dkms", True, rpm("bash", "cuda-drivers"))
    assert done.changed
    assert done.steps.installs() == ["kernel-devel-matched", "nvidia-open"]
    assert done.steps.removes() == ["cuda-drivers"]
    assert list(done.files) == ["/etc/yum.repos.d/infra-llm-nvidia-cuda.repo"]


def test_a_host_that_has_all_of_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnf, "REPOSITORIES", str(tmp_path))
    (tmp_path / "infra-llm-nvidia-cuda.repo").write_text(REPOSITORY)
    assert not dnf.apply(DRIVER, "", False, rpm("nvidia-open", "kernel-devel-matched")).changed
