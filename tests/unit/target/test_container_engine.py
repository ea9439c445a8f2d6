"""Which engine a host gets, over what hosts have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from infra_llm.core.errors import HostFailedError, RefusedError
from infra_llm.target import container_engine
from infra_llm.target.container_engine import Engine, Host, choose

DEBIAN12 = Host("debian", "debian", 12)
DEBIAN13 = Host("debian", "debian", 13)
ROCKY9 = Host("redhat", "rocky", 9.4)
DOCKER = Engine("docker", "/usr/sbin/dockerd", "docker.io", "20.10.24", "enabled", True)
DOCKER_CE = Engine("docker", "/usr/bin/dockerd", "docker-ce", "28.5.1", "enabled", True)
BY_HAND = Engine("docker", "/usr/local/bin/dockerd", "", "28.5.1", "enabled", True)
PODMAN = Engine("podman", "/usr/bin/podman", "podman", "4.3.1")


@pytest.mark.parametrize(
    ("wish", "preferred", "found", "host", "name", "packages"),
    [
        ("auto", "docker", [], DEBIAN12, "docker", ["docker.io"]),
        ("auto", "docker", [], DEBIAN13, "docker", ["docker.io", "docker-cli"]),
        ("auto", "docker", [], Host("debian", "ubuntu", 24.04), "docker", ["docker.io"]),
        ("auto", "podman", [], DEBIAN12, "podman", ["podman"]),
        ("auto", "docker", [PODMAN], DEBIAN12, "podman", ["podman"]),
        ("auto", "podman", [DOCKER, PODMAN], DEBIAN12, "docker", ["docker.io"]),
        ("auto", "docker", [DOCKER_CE], DEBIAN12, "docker", []),
        ("auto", "docker", [BY_HAND], DEBIAN13, "docker", []),
        ("docker", "podman", [PODMAN], DEBIAN12, "docker", ["docker.io"]),
        ("podman", "docker", [DOCKER], DEBIAN12, "podman", ["podman"]),
        ("podman", "docker", [], ROCKY9, "podman", ["podman"]),
        ("auto", "docker", [DOCKER_CE], ROCKY9, "docker", []),
        ("docker", "docker", [], Host("debian", "debian", 12, apparmor=True), "docker",
         ["docker.io", "apparmor"]),
    ],
)  # fmt: skip
def test_the_engine_that_is_there_is_kept(
    wish: str, preferred: str, found: list[Engine], host: Host, name: str, packages: list[str]
) -> None:
    choice = choose(wish, preferred, found, host)
    assert (choice.name, choice.packages) == (name, packages)
    assert choice.engine == next((one for one in found if one.name == name), None)


@pytest.mark.parametrize("word", ["masked", "masked-runtime"])
def test_a_masked_docker_gives_way_to_podman_unless_it_is_wished(word: str) -> None:
    masked = Engine("docker", "/usr/sbin/dockerd", "docker.io", "20.10.24", word)
    assert choose("auto", "docker", [masked, PODMAN], DEBIAN12).name == "podman"
    for wish in ("auto", "docker"):
        with pytest.raises(RefusedError, match=r"systemctl unmask docker\.service"):
            choose(wish, "docker", [masked], DEBIAN12)


@pytest.mark.parametrize(
    ("found", "host", "words"),
    [
        ([Engine("docker", "/snap/bin/dockerd", "snap")], DEBIAN12, "docker is a snap"),
        ([], Host("debian", "debian", 12, containerd="containerd.io"), "package containerd.io"),
        ([], ROCKY9, "no package of docker"),
    ],
)
def test_what_can_not_serve_is_refused_with_a_way_out(
    found: list[Engine], host: Host, words: str
) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        choose("docker", "docker", found, host)
    assert "podman" in caught.value.hint


def answers(table: dict[str, tuple[int, str]]) -> container_engine.Run:
    def run(argv: Sequence[str]) -> tuple[int, str, str]:
        status, out = table.get(" ".join(argv), (127, ""))
        return status, out, ""

    return run


def test_engines_are_found_by_their_daemons() -> None:
    run = answers(
        {
            "/usr/sbin/dockerd --version": (0, "Docker version 20.10.24+dfsg1, build 5d6db84\n"),
            "dpkg-query --search /usr/sbin/dockerd": (0, "docker.io: /usr/sbin/dockerd\n"),
            "systemctl is-enabled docker.service": (0, "enabled\n"),
            "systemctl is-active docker.service": (3, "inactive\n"),
            "/usr/bin/podman --version": (0, "podman version 4.3.1\n"),
            "dpkg-query --search /usr/bin/podman": (1, ""),
        }
    )
    paths = {"dockerd": "/usr/sbin/dockerd", "podman": "/usr/bin/podman"}
    found = container_engine.find(run, paths.get)
    assert found == [
        Engine("docker", "/usr/sbin/dockerd", "docker.io", "20.10.24+dfsg1", "enabled", False),
        Engine("podman", "/usr/bin/podman", "", "4.3.1"),
    ]
    # podman-docker brings a `docker` command, which is no dockerd.
    assert container_engine.find(run, {"docker": "/usr/bin/docker"}.get) == []


def test_the_host_is_read_from_os_release(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\n')
    host = container_engine.read_host("debian", answers({}), str(tmp_path))
    assert (host.distribution, host.release, host.apparmor) == ("ubuntu", 24.04, False)
    folder = tmp_path / "sys/module/apparmor/parameters"
    folder.mkdir(parents=True)
    (folder / "enabled").write_text("Y\n")
    assert container_engine.read_host("debian", answers({}), str(tmp_path)).apparmor


def test_versions_are_compared_as_numbers() -> None:
    assert container_engine.version_numbers("26.1.5+dfsg1") == [26, 1, 5]
    assert container_engine.version_numbers("") == []


def test_containers_keep_an_engine() -> None:
    argv = "docker ps --all --quiet --no-trunc"
    assert container_engine.containers("docker", answers({argv: (0, "4f\n5e\n")})) == ["4f", "5e"]
    assert container_engine.containers("docker", answers({})) == []  # it is gone
    with pytest.raises(HostFailedError, match="can't say whether it has containers"):
        container_engine.containers("docker", answers({argv: (1, "")}))


def test_leftovers_go_and_the_administrators_files_stay(tmp_path: Path) -> None:
    for name in ("var/lib/docker/image", "run/docker", "etc/docker", "srv/data/overlay2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "var/lib/docker/image/x").touch()
    (tmp_path / "etc/docker/key.json").touch()
    (tmp_path / "etc/docker/certs.d").mkdir()
    gone = container_engine.clean("docker", str(tmp_path / "srv/data"), answers({}), str(tmp_path))
    assert len(gone) == 5
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert left == {"var", "var/lib", "run", "etc", "etc/docker", "etc/docker/certs.d", "srv"}
