"""The container toolkit on the RHEL family, as data: it never ran on such a host.

The expectations were written by hand after NVIDIA's installation guide of the container toolkit
(dnf, with the version in the package's name) and its nvidia-container-toolkit.repo.
"""

from __future__ import annotations

from infra_llm.target.packages.dnf import render
from infra_llm.target.packages.transaction import Wish

REPOSITORY = {
    "name": "nvidia-container-toolkit",
    "kind": "dnf",
    "url": "https://nvidia.github.io/libnvidia-container/stable/rpm/x86_64/",
    "key_url": "https://nvidia.github.io/libnvidia-container/gpgkey",
    "key_fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
}
PACKAGES = [
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container1",
    "libnvidia-container-tools",
]


def test_the_toolkit_is_one_transaction_of_one_version() -> None:
    wish = Wish(
        "nvidia_container_toolkit",
        repositories=[REPOSITORY],
        install=PACKAGES,
        pins=[(PACKAGES, "1.18.2-*")],
    )
    rendered = render(wish, "", ["docker-ce", "bash"])
    assert rendered.files["/run/infra-llm-nvidia_container_toolkit.dnf"] == (
        "install nvidia-container-toolkit-1.18.2-* nvidia-container-toolkit-base-1.18.2-* "
        "libnvidia-container1-1.18.2-* libnvidia-container-tools-1.18.2-*\n"
        "run\n"
    )
    assert rendered.commands == [
        ["dnf", "-y", "--setopt=install_weak_deps=False", "shell",
         "/run/infra-llm-nvidia_container_toolkit.dnf"],
    ]  # fmt: skip
    source = rendered.files["/etc/yum.repos.d/infra-llm-nvidia-container-toolkit.repo"]
    lines = source.splitlines()
    assert "baseurl=https://nvidia.github.io/libnvidia-container/stable/rpm/x86_64/" in lines
    assert "repo_gpgcheck=1" in lines
    key = "/etc/pki/rpm-gpg/RPM-GPG-KEY-infra-llm-nvidia-container-toolkit"
    assert f"gpgkey=file://{key}" in lines
    assert rendered.keys == {
        key: {
            "url": "https://nvidia.github.io/libnvidia-container/gpgkey",
            "fingerprint": "C95B321B61E88C1809C4F759DDCAE044F796ECB0",
        }
    }


def test_podman_is_what_the_family_ships() -> None:
    rendered = render(Wish("container_engine", install=["podman"]), "", [])
    assert rendered.files == {"/run/infra-llm-container_engine.dnf": "install podman\nrun\n"}
